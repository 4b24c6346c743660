"""What an interrupted run leaves, and how the next one takes it up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pa_lite.errors import OutputError
from pa_lite.follow.journal import Journal

RUN = {"judge": "j", "seed": 1}
ENTRIES = [{"i": "one", "x": 0.1}, {"i": "zwö", "x": None}]


class Killed(BaseException):
    pass


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out.json"


def interrupted(target: Path, *entries: dict[str, object], resume: bool = False) -> Path:
    """A run that ends in the middle; returns its journal."""
    journal = Journal(target, RUN, resume)
    with pytest.raises(Killed), journal:
        for entry in entries:
            journal.add(entry)
        raise Killed
    return journal.path


def test_a_whole_run_leaves_the_target_only(target: Path) -> None:
    with Journal(target, RUN) as journal:
        journal.add(ENTRIES[0])
        assert journal.path.exists()
        journal.finish("done")
    assert target.read_text("utf-8") == "done"
    assert list(target.parent.iterdir()) == [target]


def test_a_run_without_entries_leaves_nothing(target: Path) -> None:
    interrupted(target)
    assert list(target.parent.iterdir()) == []


def test_resume_has_every_entry_and_goes_on(target: Path) -> None:
    interrupted(target, ENTRIES[0])
    interrupted(target, resume=True)  # does nothing, keeps what there was
    path = interrupted(target, ENTRIES[1], resume=True)
    with Journal(target, RUN, resume=True) as journal:
        assert journal.entries == ENTRIES
        journal.finish("done")
    assert not path.exists()


@pytest.mark.parametrize("end", ["", '{"i": "tw', "\x00\x00\x00\n", "3\n", '{"i": "tw\n'])
def test_a_broken_end_is_cut_away(target: Path, end: str) -> None:
    path = interrupted(target, *ENTRIES)
    with path.open("a", encoding="utf-8") as f:
        f.write(end)
    interrupted(target, {"i": "three"}, resume=True)
    assert [json.loads(line) for line in path.read_text("utf-8").splitlines()] == [RUN, *ENTRIES, {"i": "three"}]


def test_at_every_byte(target: Path) -> None:
    """Wherever the journal was cut, a prefix of the entries is there, and none is half."""
    path = interrupted(target, *ENTRIES)
    content = path.read_bytes()
    seen = set()
    for n in range(len(content) + 1):
        path.write_bytes(content[:n])
        with Journal(target, RUN, resume=True) as journal:
            assert journal.entries == ENTRIES[: len(journal.entries)]
            seen.add(len(journal.entries))
    assert seen == {0, 1, 2}


def test_refusals(target: Path) -> None:
    path = interrupted(target, ENTRIES[0])
    with pytest.raises(OutputError, match=r"an interrupted run left this. Say --resume to go on, or --force"):
        Journal(target, RUN)
    with pytest.raises(OutputError, match=r"is of another run \(judge, seed differ\)"):
        Journal(target, {"judge": "k", "more": None}, resume=True)
    assert path.exists()
    with Journal(target, {"judge": "k"}, force=True) as journal:
        assert journal.entries == []
        journal.finish("done")
    with pytest.raises(OutputError, match="exists already"):
        Journal(target, RUN, resume=True)
    with pytest.raises(OutputError, match="no such folder"):
        Journal(target.parent / "no" / "x.json", RUN)
