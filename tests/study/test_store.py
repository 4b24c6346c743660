"""Tests of the results file: whole chunks, one process at a time, and damaged files are never replaced."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pa_lite.errors import EngineError, InputError, OutputError
from pa_lite.study.results_file import FILE, SCHEMA
from pa_lite.study.store import Cell, open_store, read_store

CELL = Cell(lam=0.3, type="F16", kind="task", name="town", n_items=3, inputs={"seed": 0, "rows": "abc"})
RIGHT = {"metric": "acc", "metrics": {"acc": 1.0}}
WRONG = {"metric": "acc", "metrics": {"acc": 0.0}}


def test_commits_are_read_back(tmp_path: Path) -> None:
    with open_store(tmp_path / "run") as store:
        store.note({"pair": "demo"})
        store.enter([CELL], {"numpy": "2"})
        assert store.done().get(CELL.key, set()) == set()
        store.add(CELL.key, {0: RIGHT, 2: {**WRONG, "text": "größer"}}, 1.5)
        store.enter([CELL], {"numpy": "3"})
        assert store.done().get(CELL.key, set()) == {0, 2}
        assert store.finished([CELL.key]) == set()
    with open_store(tmp_path / "run") as store:
        store.add(CELL.key, {1: RIGHT}, 0.5)
        store.finish(CELL.key, {"acc": 2 / 3})
    with read_store(tmp_path / "run") as store:
        assert store.facts() == {"pair": "demo"}
        (cell,) = store.cells()
        assert (cell.key, cell.n_items, cell.n_done, cell.seconds) == (CELL.key, 3, 3, 2.0)
        assert (cell.summary, cell.environment, cell.inputs) == ({"acc": 2 / 3}, {"numpy": "2"}, CELL.inputs)
        assert store.items(CELL.key) == [RIGHT, RIGHT, {**WRONG, "text": "größer"}]
        assert store.finished([CELL.key, "other"]) == {CELL.key}


def test_key_covers_everything_that_determines_a_number() -> None:
    others = [
        Cell(lam=0.4, type="F16", kind="task", name="town", n_items=3, inputs=CELL.inputs),
        Cell(lam=0.3, type="Q8_0", kind="task", name="town", n_items=3, inputs=CELL.inputs),
        Cell(lam=0.3, type="F16", kind="follow", name="town", n_items=3, inputs=CELL.inputs),
        Cell(lam=0.3, type="F16", kind="task", name="job", n_items=3, inputs=CELL.inputs),
        Cell(lam=0.3, type="F16", kind="task", name="town", n_items=4, inputs=CELL.inputs),
        Cell(lam=0.3, type="F16", kind="task", name="town", n_items=3, inputs={"seed": 1}),
    ]
    assert len({c.key for c in [CELL, *others]}) == 7
    assert (
        Cell(lam=0.3, type="F16", kind="task", name="town", n_items=3, inputs={"rows": "abc", "seed": 0}).key
        == CELL.key
    )


def test_chunks_are_committed_whole_or_not_at_all(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.enter([CELL], {})
        store.add(CELL.key, {0: 1}, 1.0)
        with pytest.raises(InputError):  # item 0 exists: the whole chunk is refused
            store.add(CELL.key, {1: 1, 0: 1}, 1.0)
        store.enter([CELL], {})
        assert store.done().get(CELL.key, set()) == {0}


def test_only_one_process_writes_in_a_folder(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pa_lite.study.store import open_store\n"
        "with open_store(Path(sys.argv[1])):\n    print('in', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "in\n"
    with pytest.raises(OutputError, match="another process is running a study there"), open_store(tmp_path):
        pass
    with read_store(tmp_path) as store:  # reading needs no lock
        assert store.cells() == []
    other.communicate("")
    with open_store(tmp_path):
        pass


def test_damaged_file_is_reported_and_not_changed(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        cell = replace(CELL, n_items=200)
        store.enter([cell], {})
        store.add(cell.key, dict.fromkeys(range(200), "x" * 500), 1.0)
    path = tmp_path / FILE
    raw = bytearray(path.read_bytes())
    raw[8192:60000] = b"\xff" * (60000 - 8192)
    path.write_bytes(raw)
    with pytest.raises(InputError, match="damaged"), open_store(tmp_path):
        pass
    assert path.read_bytes() == raw
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(InputError, match="damaged"), read_store(tmp_path):
        pass


def test_foreign_and_newer_files_are_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE) as c:
        c.execute("CREATE TABLE x (y)")
    c.close()
    with pytest.raises(InputError, match="is not a pa-lite results file"), open_store(tmp_path):
        pass
    with open_store(tmp_path / "b") as store:
        store.note({"pair": "demo"})
    c = sqlite3.connect(tmp_path / "b" / FILE)
    c.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    c.close()
    with pytest.raises(InputError, match="newer pa-lite"), open_store(tmp_path / "b"):
        pass
    with pytest.raises(InputError, match="has no study results"), read_store(tmp_path / "c"):
        pass


def test_reading_changes_no_files(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.note({"pair": "demo"})
    before = (tmp_path / FILE).read_bytes()
    with read_store(tmp_path) as store:
        assert store.facts() == {"pair": "demo"}
        with pytest.raises(OutputError, match="readonly"):
            store.note({"pair": "other"})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["study.lock", FILE]
    assert (tmp_path / FILE).read_bytes() == before


def test_full_disk_keeps_finished_results(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.note({"pair": "demo"})
        store._connection.execute("PRAGMA max_page_count = 1")  # makes SQLite report a full disk
        with pytest.raises(OutputError, match="the disk is full; finished results are kept"):
            store.note({"long": "x" * 100_000})
    with read_store(tmp_path) as store:
        assert store.facts() == {"pair": "demo"}


def test_study_that_never_started_leaves_no_files(tmp_path: Path) -> None:
    with pytest.raises(EngineError), open_store(tmp_path / "new"):
        raise EngineError("no cluster")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "mine").write_text("x", "utf-8")
    with open_store(tmp_path / "old"):
        pass
    assert [p.name for p in (tmp_path / "old").iterdir()] == ["mine"]
    with open_store(tmp_path / "old") as store:
        store.note({"pair": "demo"})
    with pytest.raises(EngineError), open_store(tmp_path / "old"):
        raise EngineError("no cluster")
    assert (tmp_path / "old" / "study.sqlite").exists()


ODD = ["link", "dangling link", "hard link", "named pipe", "folder", "another file"]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX links and pipes")
@pytest.mark.parametrize("name", ["study.lock", FILE, f"{FILE}-wal", f"{FILE}-shm", f"{FILE}-journal"])
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("has_study", [True, False])
def test_foreign_files_in_a_run_folder_are_refused_and_kept(
    tmp_path: Path, name: str, kind: str, has_study: bool
) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    run.mkdir()
    if has_study:
        with open_store(run) as store:
            store.note({"pair": "demo"})
    path = run / name
    if path.exists() and kind in ("link", "hard link"):
        path.rename(outside)  # even a file of ours
    elif "dangling" not in kind:
        outside.write_bytes(b"mine")
    path.unlink(missing_ok=True)
    if kind == "hard link":
        os.link(outside, path)
    elif "link" in kind:
        path.symlink_to(outside)
    elif kind == "named pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"mine")
    before = outside.read_bytes() if outside.exists() else None
    with (
        pytest.raises(
            (InputError, OutputError), match=r"is not a file of pa-lite: |is not a pa-lite results file|are damaged"
        ),
        open_store(run),
    ):
        pass
    if has_study and name != "study.lock":
        with pytest.raises((InputError, OutputError)), read_store(run):
            pass
    assert (outside.read_bytes() if outside.exists() else None) == before
    assert os.path.lexists(path)
    if kind in ("another file", "hard link") and before is not None:
        assert path.read_bytes() == (before if kind == "hard link" else b"mine")


def test_earlier_lock_is_kept_when_a_study_never_started(tmp_path: Path) -> None:
    (tmp_path / "study.lock").touch()  # 0.1.0 made an empty one
    with open_store(tmp_path):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["study.lock"]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX links")
def test_run_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "run").symlink_to("real")
    with open_store(tmp_path / "run") as store:
        store.note({"pair": "demo"})
    with read_store(tmp_path / "run") as store:
        assert store.facts() == {"pair": "demo"}
    assert (tmp_path / "real" / FILE).is_file()
