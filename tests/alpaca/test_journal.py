from __future__ import annotations

import json
import multiprocessing
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pa_lite.alpaca.journal import Journal, digest
from pa_lite.alpaca.judge import Verdict
from pa_lite.engine.answer_text import Generation
from pa_lite.errors import InputChangedError, OutputError

FACTS = {"model": "a", "prompts": "b", "options": "c"}


def test_results_outlive_the_journal(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    with Journal(target, FACTS, 4) as journal:
        journal.add(2, {"text": "größe"})
        journal.add(0, None)
    assert [p.name for p in tmp_path.iterdir()] == [".out.json.part"]
    with Journal(target, FACTS, 4, resume=True) as journal:
        assert journal.results == {2: {"text": "größe"}, 0: None}
        journal.add(1, 5)
        journal.add(3, 6)
        journal.finish()
    assert list(tmp_path.iterdir()) == []


def test_reading_stops_at_an_overlong_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out.json"
    with Journal(target, FACTS, 4) as journal:
        for index, length in enumerate((10, 150, 300, 10)):
            journal.add(index, "x" * length)
    monkeypatch.setattr("pa_lite.alpaca.journal._LONGEST_RESULT", 200)
    with Journal(target, FACTS, 4, resume=True) as journal:
        assert journal.results == {0: "x" * 10, 1: "x" * 150}


def test_journal_without_results_is_removed(tmp_path: Path) -> None:
    with Journal(tmp_path / "out.json", FACTS, 4):
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX file size limits")
def test_full_disk_is_reported_and_earlier_results_kept(tmp_path: Path) -> None:
    import resource

    target, (soft, hard) = tmp_path / "out.json", resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal(target, FACTS, 4) as journal:
        journal.add(0, "a")
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            with pytest.raises(OutputError, match=r"File too large.*; 1 of 4 are kept\. .* --resume"):
                journal.add(1, "b" * 2000)
            journal.close()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with Journal(target, FACTS, 4, resume=True) as journal:
        assert journal.results == {0: "a"}


def test_earlier_results_are_discarded_only_with_force(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    with Journal(target, FACTS, 4) as journal:
        journal.add(2, "x")
    with pytest.raises(OutputError, match=r"an earlier run left 1 results\. Continue it with --resume, or discard"):
        Journal(target, FACTS, 4)
    changed = {**FACTS, "model": "z", "options": "y"}
    with pytest.raises(OutputError, match=r"cannot resume, as the model and the options changed\."):
        Journal(target, changed, 4, resume=True)
    with Journal(target, FACTS, 4, resume=True) as journal:
        assert journal.results == {2: "x"}
    with Journal(target, changed, 4, force=True) as journal:
        assert journal.results == {}
    assert list(tmp_path.iterdir()) == []


def test_resume_needs_every_fact_recorded(tmp_path: Path) -> None:
    target, more = tmp_path / "out.json", {**FACTS, "version": "d", "date": "e"}
    with Journal(target, FACTS, 4) as journal:
        journal.add(2, "x")
    with pytest.raises(OutputError, match="older pa-lite started it and did not record the version, the date, which"):
        Journal(target, more, 4, resume=True)
    with pytest.raises(OutputError, match=r"cannot resume, as the model changed\."):
        Journal(target, {**more, "model": "z"}, 4, resume=True)  # a known change is reported first
    with Journal(target, more, 4, resume=True, force=True) as journal:
        assert journal.results == {}


@given(st.integers(0, 600), st.binary(max_size=20))
@settings(max_examples=90, deadline=None)
def test_truncated_journal_keeps_its_complete_lines(
    tmp_path_factory: pytest.TempPathFactory, cut: int, rubbish: bytes
) -> None:
    """Complete lines before the cut are read and new results appended; without its first line it is not a journal."""
    target = tmp_path_factory.mktemp("journal") / "out.json"
    with Journal(target, FACTS, 9) as journal:
        for i in range(8):
            journal.add(i, "é" * i)
    path = target.with_name(".out.json.part")
    whole = path.read_bytes()
    n_lines = whole[:cut].count(b"\n")
    path.write_bytes(whole[:cut] + rubbish.replace(b"\n", b"") * (whole[:cut] != whole))
    if n_lines == 0:
        left = path.read_bytes()
        with pytest.raises(OutputError, match=r"is in the way of out\.json: it has no marker"):
            Journal(target, FACTS, 9, resume=True)
        assert path.read_bytes() == left
        return
    with Journal(target, FACTS, 9, resume=True) as journal:
        assert journal.results == {i: "é" * i for i in range(min(8, n_lines - 1))}
        journal.add(8, "last")
    with Journal(target, FACTS, 9, resume=True) as journal:
        assert journal.results == {i: "é" * i for i in range(min(8, n_lines - 1))} | {8: "last"}


def _try(target: Path, queue: Any) -> None:
    try:
        with Journal(target, FACTS, 4, resume=True):
            queue.put("opened")
    except OutputError as e:
        queue.put(str(e))


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX locks")
def test_only_one_process_at_a_time_writes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with Journal(tmp_path / "out.json", FACTS, 4) as journal:
        journal.add(0, "mine")
        process = context.Process(target=_try, args=(tmp_path / "out.json", queue))
        process.start()
        assert "another process is writing it" in queue.get(timeout=60)
        process.join()
        journal.add(1, "still mine")
    assert len((tmp_path / ".out.json.part").read_text("utf-8").splitlines()) == 3


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        Journal(tmp_path / "no" / "out.json", FACTS, 4)


def test_equal_values_have_equal_digests() -> None:
    assert digest({"a": 1, "b": "é"}) == digest({"b": "é", "a": 1})
    assert digest(["a"]) != digest(["b"])


@dataclass(frozen=True)
class Result:
    text: str
    share: float | None = None


def test_results_are_read_as_dataclasses(tmp_path: Path) -> None:
    with Journal(tmp_path / "out.json", FACTS, 4) as journal:
        journal.add(1, asdict(Result("a")))
        journal.add(3, asdict(Result("b", 0.5)))
    with Journal(tmp_path / "out.json", FACTS, 4, resume=True) as journal:
        assert journal.results_as(Result, lambda result: result.text != "x") == {1: Result("a"), 3: Result("b", 0.5)}


@pytest.mark.parametrize(
    "result",
    [5, None, [], {}, {"text": "a"}, {"text": 5, "share": None}, {"text": "a", "more": 1}, asdict(Result("x"))],
)
def test_malformed_result_is_refused(tmp_path: Path, result: Any) -> None:
    with Journal(tmp_path / "out.json", FACTS, 4) as journal:
        journal.add(2, result)
        with pytest.raises(OutputError, match=r"result 2 in .*\.out\.json\.part is damaged\. Discard .* --force"):
            journal.results_as(Result, lambda result: result.text != "x")


VERDICT = asdict(Verdict(preference=1.25, reference_first=0.25, model_first=0.25, answer_mass=0.5))
ANSWER = asdict(Generation(text="a", n_tokens=3, ended=True, reason="end"))


@pytest.mark.parametrize(
    "result",
    [
        Verdict(preference=1.5),
        Verdict(preference=1.25, reference_first=0.25, model_first=0.25, answer_mass=0.5),
        Verdict(preference=2.0, reference_first=1.0, model_first=None, answer_mass=1.0),
    ],
)
def test_possible_verdicts(result: Verdict) -> None:
    assert result.is_possible()
    assert Verdict(preference=None, unjudged="too long").is_possible()


@pytest.mark.parametrize(
    "change",
    [
        {"preference": float("nan")}, {"preference": float("inf")}, {"preference": 77.0}, {"preference": 1.75},
        {"preference": None}, {"reference_first": float("nan")}, {"reference_first": -0.25},
        {"reference_first": None, "model_first": None}, {"answer_mass": None}, {"answer_mass": float("nan")},
        {"answer_mass": 9.0}, {"unjudged": "why"},
    ],
)  # fmt: skip
def test_inconsistent_verdict_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with Journal(tmp_path / "out.json", FACTS, 1) as journal:
        journal.add(0, {**VERDICT, **change})
        with pytest.raises(OutputError, match=r"result 0 in .* is damaged"):
            journal.results_as(Verdict, Verdict.is_possible)


@pytest.mark.parametrize(
    "change", [{"n_tokens": 10**4000}, {"n_tokens": -1}, {"n_tokens": True}, {"reason": "x"}, {"ended": False}]
)
def test_inconsistent_answer_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with Journal(tmp_path / "out.json", FACTS, 2) as journal:
        journal.add(0, ANSWER)
        assert journal.results_as(Generation, Generation.is_possible) == {
            0: Generation(text="a", n_tokens=3, ended=True, reason="end")
        }
        journal.add(1, {**ANSWER, **change})
        with pytest.raises(OutputError, match=r"result 1 in .* is damaged"):
            journal.results_as(Generation, Generation.is_possible)


def test_journal_of_a_terabyte_of_zeros_is_not_read_into_memory(tmp_path: Path) -> None:
    """A sparse file takes no disk space."""
    with Journal(tmp_path / "out.json", FACTS, 4) as journal:
        journal.add(0, "kept")
    with (tmp_path / ".out.json.part").open("r+b") as f:
        f.truncate(1 << 40)
    with Journal(tmp_path / "out.json", FACTS, 4, resume=True) as journal:
        assert journal.results == {0: "kept"}
        journal.add(1, "new")
        assert (tmp_path / ".out.json.part").stat().st_size < 1000


@pytest.mark.parametrize("index", ["1.0", "true", '"1"', "1.5", "-1", "4", "null", "1e0"])
def test_invalid_index_is_ignored(tmp_path: Path, index: str) -> None:
    with Journal(tmp_path / "out.json", FACTS, 4) as journal:
        journal.add(0, "kept")
    with (tmp_path / ".out.json.part").open("a", encoding="utf-8") as f:
        f.write(f'{{"place": {index}, "result": "x"}}\n')
    with Journal(tmp_path / "out.json", FACTS, 4, resume=True) as journal:
        assert journal.results == {0: "kept"}


def test_reading_stops_at_deeply_nested_json(tmp_path: Path) -> None:
    with Journal(tmp_path / "out.json", FACTS, 4) as journal:
        journal.add(0, "kept")
    with (tmp_path / ".out.json.part").open("ab") as f:
        f.write(b'{"place": 1, "result": ' + b"[" * 100_000 + b"\n")
    with Journal(tmp_path / "out.json", FACTS, 4, resume=True) as journal:
        assert journal.results == {0: "kept"}
        journal.add(1, "again")


def test_changed_input_discards_the_results(tmp_path: Path) -> None:
    def run(error: BaseException) -> None:
        with Journal(tmp_path / "out.json", FACTS, 4) as journal:
            journal.add(0, "x")
            raise error

    with pytest.raises(InputChangedError):
        run(InputChangedError("model.gguf: changed"))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt):
        run(KeyboardInterrupt())
    assert [p.name for p in tmp_path.iterdir()] == [".out.json.part"]


@pytest.mark.parametrize("content", [b"", b"my notes\n", b'{"facts": {}, "n": 0}\n', b"x" * 100_000], ids=len)
@pytest.mark.parametrize("how", [{}, {"resume": True}, {"force": True}], ids=str)
def test_unmarked_file_under_the_journals_name_is_kept(tmp_path: Path, content: bytes, how: Any) -> None:
    path = tmp_path / ".out.json.part"
    path.write_bytes(content)
    with pytest.raises(
        OutputError, match=r"\.out\.json\.part: is in the way of out\.json: it has no marker .* yourself"
    ):
        Journal(tmp_path / "out.json", FACTS, 4, **how)
    assert path.read_bytes() == content


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX links and pipes")
@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "folder", "named pipe"])
def test_links_folders_and_pipes_are_refused(tmp_path: Path, kind: str) -> None:
    path, outside = tmp_path / ".out.json.part", tmp_path / "outside"
    if kind in ("link", "hard link"):
        with Journal(outside, FACTS, 4) as journal:  # even when it points to a journal
            journal.add(0, "kept")
        (tmp_path / ".outside.part").rename(outside)
    if kind == "hard link":
        os.link(outside, path)
    elif "link" in kind:
        path.symlink_to(outside)
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    before = outside.read_bytes() if outside.exists() else None
    for how in ({}, {"resume": True}, {"force": True}):
        with pytest.raises(OutputError, match=f"is in the way of out.json: it is a {kind.removeprefix('dangling ')}"):
            Journal(tmp_path / "out.json", FACTS, 4, **how)
    assert (outside.read_bytes() if outside.exists() else None) == before
    assert os.path.lexists(path)


def test_journal_of_0_1_0_is_resumed(tmp_path: Path) -> None:
    facts = {key: digest(key) for key in ("model", "chat template", "system prompt", "prompts", "options")}
    lines = [{"facts": facts, "n": 3}, {"place": 1, "result": "kept"}]
    (tmp_path / ".out.json.part").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    with Journal(tmp_path / "out.json", facts, 3, resume=True) as journal:
        assert journal.results == {1: "kept"}
        journal.add(0, "new")
    with Journal(tmp_path / "out.json", facts, 3, resume=True) as journal:
        assert journal.results == {1: "kept", 0: "new"}
        journal.finish()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="an open file cannot be replaced on Windows")
def test_file_that_replaced_the_journal_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / ".out.json.part"
    with Journal(tmp_path / "out.json", FACTS, 1) as journal:
        journal.add(0, "x")
        path.unlink()
        path.write_bytes(b"mine")
        journal.finish()
    assert path.read_bytes() == b"mine"
