"""Tests of the working copy: commits are in the run folder at every moment, and SQLite opens only a private copy."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from pa_lite.errors import InputError, OutputError
from pa_lite.study import results_file, store, working_copy
from pa_lite.study.plan import StudyOptions
from pa_lite.study.results_file import FILE
from pa_lite.study.store import Cell, open_store, read_store
from pa_lite.study.sweep import estimate_pair, sweep_pair
from pa_lite.system.markers import marker_of
from pa_lite.tasks.scoring import ScoreOptions

RIGHT = {"metric": "acc", "metrics": {"acc": 1.0}}
OPTIONS = StudyOptions(lams=(0.0, 1.0), tasks=("demo_kind",), score=ScoreOptions(limit=4))


def cell(n_items: int = 1000) -> Cell:
    return Cell(lam=0.3, type="F16", kind="task", name="town", n_items=n_items, inputs={"seed": 0})


def record(i: int, size: int = 10) -> dict[str, Any]:
    return {**RIGHT, "text": f"{i} " + "x" * size}


def stored(folder: Path) -> list[Any]:
    with read_store(folder) as found:
        return found.items(cell().key)


def stored_by_sqlite(folder: Path) -> int:
    """Return the number of items that SQLite reads directly, as pa-lite 0.1.0 would."""
    with closing(sqlite3.connect(folder / FILE)) as c:
        assert c.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return int(c.execute("SELECT count(*) FROM items").fetchone()[0])


def test_run_killed_at_any_step_keeps_all_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots of the folder are taken before and after each call that changes it."""
    run, done = tmp_path / "run", 0
    snapshots: list[tuple[Path, int]] = []
    monkeypatch.setattr(working_copy, "_LOG_BYTES", 20_000)  # so that results are replaced several times

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def watch(*words: Any, **named: Any) -> Any:
            for is_after in (False, True):
                if run.is_dir():
                    copy = tmp_path / f"snapshot{len(snapshots)}"
                    shutil.copytree(run, copy)
                    snapshots.append((copy, done))
                if not is_after:
                    found = call(*words, **named)
            return found

        return watch

    with open_store(run) as it:
        it.enter([cell()], {})
        for name in ("fsync", "replace", "unlink", "link"):
            monkeypatch.setattr(os, name, watched(getattr(os, name)))
        for i in range(12):
            it.add(cell().key, {i: record(i, 5000)}, 1.0)
            done = i + 1
    monkeypatch.undo()
    assert len(snapshots) > 60
    logs = {(copy / f"{FILE}-wal").exists() for copy, _ in snapshots}
    assert logs == {True, False}
    for copy, committed in snapshots:
        found = stored(copy)
        assert found == [record(i, 5000) for i in range(len(found))]
        assert committed <= len(found) <= committed + 1
        with open_store(copy) as it:
            assert len(it.items(cell().key)) == len(found)
        assert stored_by_sqlite(copy) == len(found)
    assert [p.name for p in sorted(run.iterdir())] == ["study.lock", FILE]
    assert stored_by_sqlite(run) == 12


def test_truncated_log_gives_complete_commits(tmp_path: Path) -> None:
    run, ends = tmp_path / "run", []
    with open_store(run) as it:
        it.enter([cell()], {})
        for i in range(6):
            it.add(cell().key, {i: record(i, 3000)}, 1.0)
            ends.append((run / f"{FILE}-wal").stat().st_size)
        shutil.copytree(run, tmp_path / "killed")
    log = (tmp_path / "killed" / f"{FILE}-wal").read_bytes()
    assert len(log) == ends[-1]
    for size in range(ends[0], len(log), 997):
        (tmp_path / "killed" / f"{FILE}-wal").write_bytes(log[:size])
        assert len(stored(tmp_path / "killed")) == sum(end <= size for end in ends)
    for size in (*ends, len(log) - 1):  # as if the disk had other data there
        (tmp_path / "killed" / f"{FILE}-wal").write_bytes(log[:size] + b"\xff" * 9000)
        assert len(stored(tmp_path / "killed")) == sum(end <= size for end in ends)


def test_rolled_back_transaction_is_not_published(tmp_path: Path) -> None:
    """A large transaction writes pages to the log before it is rolled back."""
    with open_store(tmp_path / "run") as it:
        it.enter([cell()], {})
        it.add(cell().key, {0: record(0)}, 1.0)
        it._connection.execute("PRAGMA cache_size = 10")
        with pytest.raises(InputError):
            it.add(cell().key, {**{i: record(i, 4000) for i in range(1, 300)}, 0: record(0)}, 1.0)
        spilled = Path(it._file).with_name(f"{FILE}-wal").stat().st_size
        for i in range(1, 4):
            it.add(cell().key, {i: record(i)}, 1.0)
            assert stored(tmp_path / "run") == [record(k) for k in range(i + 1)]
        assert (tmp_path / "run" / f"{FILE}-wal").stat().st_size < spilled
        shutil.copytree(tmp_path / "run", tmp_path / "killed")
    assert stored(tmp_path / "killed") == stored(tmp_path / "run") == [record(k) for k in range(4)]


def test_reading_during_a_sweep_gives_consistent_results(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pa_lite.study import working_copy\n"
        "from pa_lite.study.store import open_store; from tests.study.test_working_copy import cell, record\n"
        "working_copy._LOG_BYTES = 0\n"
        "with open_store(Path(sys.argv[1])) as it:\n"
        "    it.enter([cell()], {}); print('in', flush=True)\n"
        "    for i in range(150): it.add(cell().key, {i: record(i, 2000)}, 1.0)\n"
    )
    root = Path(__file__).parents[2]
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "in\n"
    counts = [0]
    while other.poll() is None:
        found = stored(tmp_path)
        assert found == [record(i, 2000) for i in range(len(found))]
        counts.append(len(found))
    assert other.returncode == 0
    assert counts == sorted(counts)
    assert len(stored(tmp_path)) == 150


def test_nothing_is_lost_when_another_program_reads_the_results(tmp_path: Path) -> None:
    """SQLite moves the log into the results and deletes it when the last program closes them."""
    with open_store(tmp_path) as it:
        it.enter([cell()], {})
        for i in range(6):
            it.add(cell().key, {i: record(i)}, 1.0)
            if i % 2:
                assert stored_by_sqlite(tmp_path) == i + 1
                assert not (tmp_path / f"{FILE}-wal").exists()
    assert stored_by_sqlite(tmp_path) == 6


def test_results_not_in_wal_mode_are_resumed(tmp_path: Path) -> None:
    with open_store(tmp_path / "run") as it:
        it.enter([cell()], {})
    with closing(sqlite3.connect(tmp_path / "run" / FILE)) as c:
        assert c.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    with open_store(tmp_path / "run") as it:
        it.add(cell().key, {0: record(0)}, 1.0)
        shutil.copytree(tmp_path / "run", tmp_path / "killed")
    assert stored(tmp_path / "killed") == [record(0)]
    assert stored_by_sqlite(tmp_path / "killed") == 1


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_replaced_file_keeps_its_permissions(tmp_path: Path) -> None:
    with open_store(tmp_path) as it:
        it.enter([cell()], {})
    (tmp_path / FILE).chmod(0o660)
    with open_store(tmp_path) as it:
        it.add(cell().key, {0: record(0)}, 1.0)
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o660


def test_bytes_written_are_proportional_to_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working_copy, "_LOG_BYTES", 1 << 16)
    written: list[int] = []
    plain = results_file.copy_bytes

    def copy_bytes(source: Any, target: Any, n: int) -> None:
        written.append(n)
        plain(source, target, n)

    monkeypatch.setattr(working_copy, "copy_bytes", copy_bytes)
    with open_store(tmp_path) as it:
        it.enter([cell()], {})
        for i in range(300):
            it.add(cell().key, {i: record(i, 20_000)}, 1.0)
    size = (tmp_path / FILE).stat().st_size
    assert size > 6e6
    assert sum(written) < 6 * size


def test_sweep_copies_the_results_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep_pair("demo", OPTIONS, tmp_path)
    copies: list[Path] = []
    plain = results_file.copy_files

    def copy_files(path: Path, copy: Path) -> None:
        copies.append(path)
        plain(path, copy)

    monkeypatch.setattr(store, "copy_files", copy_files)
    for call in (sweep_pair, estimate_pair):
        copies.clear()
        call("demo", OPTIONS, tmp_path)
        assert copies == [tmp_path / FILE]


# --- files that a killed run of 0.1.0 left without tables ---

KILLED = {
    "no byte": "",
    "a header": "c.execute('PRAGMA journal_mode = WAL'); ",
    "a header, and tables in the log that were not committed": (
        "c.execute('PRAGMA journal_mode = WAL'); c.execute('PRAGMA cache_size = 1'); c.execute('BEGIN'); "
        "c.execute('PRAGMA application_id = 1'); [c.execute(f'CREATE TABLE t{i} (x)') for i in range(99)]; "
    ),
}


@pytest.mark.parametrize("state", KILLED)
def test_file_without_tables_is_replaced(tmp_path: Path, state: str) -> None:
    code = (
        "import os, sqlite3, sys; open(sys.argv[1], 'a'); c = sqlite3.connect(sys.argv[1], isolation_level=None); "
        f"{KILLED[state]}os._exit(0)"
    )
    run = tmp_path / "run"
    run.mkdir()
    subprocess.run([sys.executable, "-c", code, str(run / FILE)], check=True)
    assert (run / FILE).stat().st_size == (0 if state == "no byte" else 4096)
    assert ((run / f"{FILE}-wal").exists() and (run / f"{FILE}-wal").stat().st_size > 0) == ("log" in state)
    files = {p.name: p.read_bytes() for p in run.iterdir()}
    with pytest.raises(InputError, match="has no study results"), read_store(run):
        pass
    assert estimate_pair("demo", OPTIONS, run).items_left == 8
    assert {p.name: p.read_bytes() for p in run.iterdir()} == files
    study = sweep_pair("demo", OPTIONS, run)
    assert study.curves.lams == (0.0, 1.0)
    assert study.curves.tasks[0].n == 4
    assert [p.name for p in sorted(run.iterdir())] == ["study.lock", FILE]
    with closing(sqlite3.connect(run / FILE)) as c:
        assert c.execute("SELECT count(*) FROM items").fetchone() == (8,)


def test_tables_only_in_the_log_are_results(tmp_path: Path) -> None:
    """0.1.0 left them so when it was killed early: one page in the file, everything else in its log."""
    with open_store(tmp_path / "run") as it:
        it.note({"pair": "demo"})
    with closing(sqlite3.connect(tmp_path / "run" / FILE)) as c:
        script = "".join(f"{line}\n" for line in c.iterdump())
    (tmp_path / "old").mkdir()
    with closing(sqlite3.connect(tmp_path / "old" / FILE, isolation_level=None)) as c:
        c.execute("PRAGMA journal_mode = WAL")
        c.executescript(
            script.replace(
                "BEGIN TRANSACTION;", f"BEGIN; PRAGMA application_id = {results_file._APPLICATION};"
            ).replace("COMMIT;", f"PRAGMA user_version = {results_file.SCHEMA}; COMMIT;")
        )
        shutil.copytree(tmp_path / "old", tmp_path / "killed")
    assert (tmp_path / "killed" / FILE).stat().st_size == 4096
    with read_store(tmp_path / "killed") as it:
        assert it.facts() == {"pair": "demo"}
    with open_store(tmp_path / "killed") as it:
        assert it.facts() == {"pair": "demo"}


def test_log_next_to_an_empty_file_is_refused_and_kept(tmp_path: Path) -> None:
    with open_store(tmp_path / "run") as it:
        it.note({"pair": "demo"})
        shutil.copytree(tmp_path / "run", tmp_path / "killed")
    (tmp_path / "killed" / FILE).write_bytes(b"")
    log = (tmp_path / "killed" / f"{FILE}-wal").read_bytes()
    assert log
    with pytest.raises(OutputError, match=rf"{FILE}-wal: is not a file of pa-lite: its {FILE} is empty"):
        sweep_pair("demo", OPTIONS, tmp_path / "killed")
    assert (tmp_path / "killed" / f"{FILE}-wal").read_bytes() == log


@pytest.mark.parametrize("script", ["PRAGMA application_id = 7", "PRAGMA user_version = 3", "CREATE TABLE x (y)"])
def test_empty_database_of_another_program_is_refused(tmp_path: Path, script: str) -> None:
    with closing(sqlite3.connect(tmp_path / FILE)) as c:
        c.executescript(script)
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(InputError, match="is not a pa-lite results file"), open_store(tmp_path):
        pass
    assert (tmp_path / FILE).read_bytes() == before


# --- lengths of values ---

LONG = "SELECT CAST(zeroblob(20000000) AS TEXT)"
LONGER = "SELECT CAST(zeroblob(70000000) AS TEXT)"


@pytest.mark.parametrize(
    ("script", "match"),
    [
        (f"UPDATE facts SET value = ({LONG})", "table facts, row pair: it takes more than 16 MB"),
        (f"UPDATE facts SET name = ({LONG})", "table facts, row .*: it takes more than 16 MB"),
        (f"UPDATE cells SET environment = ({LONG})", "table cells, row [0-9a-f]+: it takes more than 16 MB"),
        (f"UPDATE cells SET lam = ({LONG})", "table cells, row [0-9a-f]+: it takes more than 16 MB"),
        (f"UPDATE cells SET n_items = ({LONG})", "table cells, row [0-9a-f]+: it takes more than 16 MB"),
        (f"UPDATE items SET record = ({LONG})", "table items, row [0-9a-f]+: it takes more than 16 MB"),
        (f"UPDATE items SET number = ({LONG})", "table items, row [0-9a-f]+: it takes more than 16 MB"),
        ("UPDATE items SET record = zeroblob(20000000)", "table items, row [0-9a-f]+: it takes more than 16 MB"),
        (f"UPDATE items SET record = ({LONGER})", "too big|it takes more than 16 MB"),
    ],
)
def test_overlong_values_are_reported_and_not_fetched(tmp_path: Path, script: str, match: str) -> None:
    with open_store(tmp_path) as it:
        it.note({"pair": "demo"})
        it.enter([cell()], {})
        it.add(cell().key, {0: record(0)}, 1.0)
    with closing(sqlite3.connect(tmp_path / FILE)) as c:
        c.executescript(script)
    for opened in (read_store, open_store):
        with pytest.raises(InputError, match=match), opened(tmp_path):
            pass


def test_sums_of_lengths_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(tmp_path) as it:
        it.enter([cell()], {})
        it.add(cell().key, {i: record(i, 1000) for i in range(100)}, 1.0)
        it.note({f"fact {i}": "x" * 1000 for i in range(200)})
    monkeypatch.setattr(store, "_LONGEST_SUM", 300_000)
    with read_store(tmp_path) as it:
        assert len(it.items(cell().key)) == 100
    monkeypatch.setattr(store, "_LONGEST_SUM", 150_000)
    with pytest.raises(InputError, match="table facts takes more than 0 MB"), read_store(tmp_path):
        pass
    monkeypatch.setattr(store, "_LONGEST_SUM", 100_000)
    with closing(sqlite3.connect(tmp_path / FILE)) as c:
        c.executescript("DELETE FROM facts")
    with pytest.raises(InputError, match=r"table items, row [0-9a-f]+: it takes more than"), read_store(tmp_path):
        pass
    monkeypatch.setattr(results_file, "_MOST_BYTES", 100_000)
    with pytest.raises(InputError, match=r"has 0\.\d GB, more than the"), read_store(tmp_path):
        pass


def test_values_too_long_to_read_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(tmp_path) as it:
        it.enter([cell()], {})
        it.add(cell().key, {0: record(0)}, 1.0)
        for size in (1 << 24, 1 << 25):
            with pytest.raises(OutputError, match="item 1 would take more than 16 MB"):
                it.add(cell().key, {1: record(1, size)}, 1.0)
        with pytest.raises(OutputError, match="system would take more than 16 MB"):
            it.note({"system": "é" * (1 << 23)})
        monkeypatch.setattr(store, "_LONGEST_SUM", 10_000)
        for i in range(1, 5):
            it.add(cell().key, {i: record(i, 2000)}, 1.0)
        with pytest.raises(OutputError, match=r"the records of cell [0-9a-f]{12} would take more"):
            it.add(cell().key, {5: record(5, 2000)}, 1.0)
    assert len(stored(tmp_path)) == 5


def test_time_limit_is_per_query(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time limit of a query must not stop a long sweep."""
    monkeypatch.setattr(results_file, "_PATIENCE", 0.3)
    monkeypatch.setattr(results_file, "_STEPS", 1)
    with open_store(tmp_path) as it:
        it.enter([cell()], {})
        for i in range(3):
            with suppress(ZeroDivisionError):
                for _ in range(10**6):  # takes longer than the limit, outside SQLite
                    pow(3, 1000, 10**9)
            it.add(cell().key, {i: record(i)}, 1.0)
        assert len(it.items(cell().key)) == 3
        with pytest.raises(InputError, match="takes too long"):
            it._rows("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n")


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_doctor_removes_only_the_private_copy_of_a_killed_sweep(tmp_path: Path) -> None:
    """SIGKILL leaves it among the temporary files; the next sweep does not use it, and the doctor removes it."""
    run, temporary = tmp_path / "run", tmp_path / "tmp"
    temporary.mkdir()
    settings = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(Path(store.__file__).parents[2])}
    settings |= {name: str(tmp_path / name) for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HUB_CACHE")}
    words = ["sweep", "demo", "--lam", "0,1", "--tasks", "demo", "--limit", "200", "--threads", "1", "--run", str(run)]

    def started(*words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "pa_lite", *words], cwd=tmp_path, env=settings, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    process = started(*words)
    while not (run / f"{FILE}-wal").exists():  # wait for the first commit
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    (private,) = temporary.glob(f"pa-lite-*/{FILE}")
    assert private.parent.stat().st_mode & 0o077 == 0
    ours = {private.parent.name, f"{private.parent.name}.own"}
    copied = temporary / f"pa-lite-{process.pid}-thesis"  # a user's copy, with a copy of the marker
    shutil.copytree(private.parent, copied)
    shutil.copy(marker_of(private.parent), marker_of(copied))
    (temporary / "pa-lite-1-0123abcd").mkdir()
    before = {p.name for p in temporary.iterdir()}
    assert ours < before

    again = started(*words)
    err = again.communicate(timeout=120)[1]
    assert again.returncode == 0, err
    assert {p.name for p in temporary.iterdir()} == before
    with read_store(run) as found:
        assert {c.summary is not None for c in found.cells()} == {True}
        kept = [found.items(c.key) for c in found.cells()]
    doctor = started("doctor", "--clean", "--yes", str(temporary), str(run))
    assert doctor.communicate(timeout=60)[1] == ""
    assert doctor.returncode == 0
    assert {p.name for p in temporary.iterdir()} == before - ours
    assert (copied / FILE).exists()
    with read_store(run) as found:
        assert [found.items(c.key) for c in found.cells()] == kept
