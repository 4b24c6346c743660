"""Tests of untrusted run folders: whatever is in one, a command gives a correct result or a one-line error."""

from __future__ import annotations

import functools
import json
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from pa_lite import cli
from pa_lite.errors import InputError, OutputError, PaLiteError
from pa_lite.sanitize import one_line
from pa_lite.study.curves import Curves
from pa_lite.study.export import item_rows, lm_eval_document, to_csv, to_document
from pa_lite.study.plan import StudyOptions, StudyPlan, plan_study
from pa_lite.study.report import page
from pa_lite.study.report.page import to_html
from pa_lite.study.report.static_charts import static_charts
from pa_lite.study.results import load_study
from pa_lite.study.results_file import FILE
from pa_lite.study.staleness import settle_plan
from pa_lite.study.store import Cell, open_store, read_store
from pa_lite.study.sweep import run_sweep
from pa_lite.tasks.scoring import ScoreOptions


def main(words: list[str]) -> int:
    """Run a command and return its exit status."""
    try:
        cli.main(words)
    except SystemExit as e:
        return int(e.code or 0)
    return 0


WORDS = ["--lam", "0,1", "--tasks", "demo_kind", "--limit", "4", "--follow", "demo", "--follow-limit", "4"]
ODD: list[Any] = [None, True, -1, "", "x", [], {}, ["x", 1], {"x": None}]
SAMPLES = 4
KEYS = 6
OPTIONS = StudyOptions(
    lams=(0.0, 1.0), tasks=("demo_kind",), follow="demo", follow_limit=4, score=ScoreOptions(limit=4)
)
COLUMNS = {
    "facts": ["name", "value"],
    "cells": [
        "key",
        "lam",
        "type",
        "kind",
        "name",
        "n_items",
        "inputs",
        "environment",
        "started",
        "seconds",
        "summary",
    ],
    "items": ["cell", "number", "record"],
}
VALUES: list[Any] = [
    b"\xff",
    "\ud800",
    "",
    "x",
    "NaN",
    "[" * 200,
    '{"a":1,"a":2}',
    "null",
    -1,
    2**62,
    1e308,
    float("inf"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main(["sweep", "demo", *WORDS, "--run", str(folder), "--json"]) == 0
    return folder


def check_command(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    """Assert that a command succeeds, or exits with 1 and a one-line error that is not an internal error."""
    capsys.readouterr()
    code = main(words)
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert code in (0, 1), words
    assert len(err) == code, (words, err)
    assert not any("a bug in pa-lite" in line for line in err), err


def check_all_commands(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    out = folder.parent
    check_command(capsys, ["report", str(folder), "-o", str(out / "p.html"), "--csv", str(out / "c.csv"),
                           "--lm-eval", str(out / "lm"), "--force", "--json"])  # fmt: skip
    check_command(capsys, ["sweep", "demo", *WORDS, "--run", str(folder), "--dry-run"])
    check_command(capsys, ["sweep", "demo", *WORDS, "--run", str(folder), "--json"])


@pytest.mark.parametrize(("n_lams", "n_tasks"), [(1002, 1), (1, 1001)])
def test_too_many_lams_or_tasks_are_a_one_line_error(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str], n_lams: int, n_tasks: int
) -> None:
    """A small file can contain thousands, whose charts and resampling would take hours."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    keys = [f"{i:064x}" for i in range(n_lams * n_tasks)]
    with closing(sqlite3.connect(folder / FILE)) as c, c:
        for i, key in enumerate(keys):
            c.execute(
                "INSERT INTO cells SELECT ?, ?, type, 'task', ?, n_items, inputs, environment, started, seconds, NULL "
                "FROM cells WHERE kind = 'task' LIMIT 1",
                (key, i % n_lams / n_lams, f"t{i // n_lams}"),
            )
        c.execute("REPLACE INTO facts VALUES ('cells', ?)", (json.dumps(keys),))
        renew_keys(c)
    assert main(["report", str(folder)]) == 1
    message = f"the study has {n_lams} lams and {n_tasks} tasks, more than the 1001 lams and 1000 tasks that"
    assert message in capsys.readouterr().err


def test_lams_that_differ_after_six_digits_get_separate_files(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    with closing(sqlite3.connect(folder / FILE)) as c, c:
        c.execute("UPDATE cells SET lam = 0.1234567 + lam / 1e7")
        renew_keys(c)
    assert main(["report", str(folder), "--lm-eval", str(tmp_path / "lm")]) == 0
    lams = sorted(json.loads(p.read_text("utf-8"))["pa_lite"]["lam"] for p in (tmp_path / "lm").iterdir())
    assert lams == pytest.approx([0.1234567, 0.1234568], abs=1e-12)
    assert lams[0] < lams[1]


def mutations(value: Any) -> Iterator[Any]:
    """Yield the value with each key, at any depth, removed or its value replaced by one of another type."""
    yield from ODD
    if isinstance(value, dict):
        for key in list(value)[:KEYS]:  # those of a header are all similar
            yield {k: v for k, v in value.items() if k != key}
            yield from ({**value, key: inner} for inner in mutations(value[key]))
    elif isinstance(value, list) and value:
        yield value[1:]
        yield [*value, value[0]]
        yield from ([inner, *value[1:]] for inner in ODD)


def cases(folder: Path) -> list[tuple[str, str, Any]]:
    """Return (table, column, value or (old text, new text)); only one of several similar rows is changed."""
    found: list[tuple[str, str, Any]] = [(t, c, v) for t, names in COLUMNS.items() for c in names for v in VALUES]
    seen = set()
    with closing(sqlite3.connect(folder / FILE)) as c:
        for table, column in ((table, column) for table, columns in COLUMNS.items() for column in columns):
            for (text,) in c.execute(f"SELECT DISTINCT {column} FROM {table}").fetchall():
                if not isinstance(text, str) or text[:1] not in '{["':
                    continue
                value = json.loads(text)
                shape = (table, column, *(value if isinstance(value, dict) else [text]))
                if shape not in seen:
                    seen.add(shape)
                    found += [(table, column, (text, json.dumps(v))) for v in mutations(value)]
    return found


def tamper(path: Path, table: str, column: str, value: Any) -> None:
    with closing(sqlite3.connect(path)) as c:
        c.execute("PRAGMA synchronous = OFF")
        old, new = value if isinstance(value, tuple) else (None, value)
        new = new.encode("utf-8", "surrogatepass") if isinstance(new, str) else new
        kind = "CAST(? AS TEXT)" if isinstance(new, bytes) and new != b"\xff" else "?"
        where = f"{column} = ?" if old is not None else f"{column} = (SELECT max({column}) FROM {table})"
        with c:
            c.execute(f"UPDATE OR IGNORE {table} SET {column} = {kind} WHERE {where}", (new, *([old] if old else [])))
            if table == "cells" and column != "key":
                with suppress(sqlite3.OperationalError):  # a value that is not UTF-8
                    renew_keys(c)


def renew_keys(c: sqlite3.Connection) -> None:
    """Give every cell the key of its current values, as an attacker would."""
    rows = c.execute("SELECT key, lam, type, kind, name, n_items, inputs FROM cells").fetchall()
    for key, lam, type_, kind, name, n_items, inputs in rows:
        with suppress(ValueError, TypeError, RecursionError):
            new = Cell(lam=lam, type=type_, kind=kind, name=name, n_items=n_items, inputs=json.loads(inputs)).key
            c.execute("UPDATE cells SET key = ? WHERE key = ?", (new, key))
            c.execute("UPDATE items SET cell = ? WHERE cell = ?", (new, key))
            c.execute("UPDATE facts SET value = replace(value, ?, ?)", (key, new))


class Recorded:
    """A worker that returns the records of an earlier run, as llama.cpp would compute them again."""

    def __init__(self, plan: StudyPlan, records: Mapping[tuple[str, str, float], list[Any]]) -> None:
        self._plan, self._records = plan, records

    def run(
        self, weight_type: str, lam: float, workload: int, items: Sequence[int], *, progress: Any = None
    ) -> dict[int, Any]:
        found = self._plan.workloads[workload]
        return {i: self._records[found.kind, found.name, lam][i] for i in items}

    def close(self) -> None:
        pass


def read_all(folder: Path, seen: set[str]) -> None:
    """Read everything that `report` writes; the page only for studies not seen before."""
    with read_store(folder) as store:
        study = load_study(store)
        to_csv(item_rows(store))
        for lam in study.curves.lams:
            json.dumps(lm_eval_document(store, study.type, lam))
    if repr(study) not in seen:
        seen.add(repr(study))
        json.dumps(to_document(study), allow_nan=False)
        to_html(study)


def resume(folder: Path, plan: StudyPlan, records: Mapping[tuple[str, str, float], list[Any]], keep: bool) -> None:
    """Sweep the folder's study again, as the command does, with recorded answers."""
    with open_store(folder) as store:
        settled, _ = settle_plan(plan, store, keep)
        run_sweep(settled, store, make_worker=lambda: Recorded(plan, records), n_workers=1)
        assert load_study(store).curves.lams == (0.0, 1.0)


def refusal(call: Callable[[], object]) -> str:
    """Return the error message of a call, "" if it succeeds."""
    try:
        call()
    except PaLiteError as e:
        return str(e)
    return ""


def test_every_tampered_row_gives_an_error_or_a_correct_result(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[Any, Any] = {}

    def draw(curves: Curves, found: Any, panels: Any) -> Any:  # once per set of lams and names, as it takes a second
        key = (curves.lams, *(series.name for series in curves.tasks))
        if key not in drawn:
            drawn[key] = static_charts(curves, found, panels)
        return drawn[key]

    monkeypatch.setattr(page, "static_charts", draw)
    monkeypatch.setattr(page, "_plotly", functools.cache(page._plotly))
    plan = plan_study("demo", OPTIONS)
    with read_store(whole) as store:
        records = {(c.kind, c.name, c.lam): store.items(c.key) for c in store.cells()}
        assert store.finished([p.key for p in plan.cells]) == {p.key for p in plan.cells}
    every = cases(whole)
    assert len(every) > 500
    seen: set[str] = set()
    lines: list[str] = []
    for number, case in enumerate(every):
        folder = tmp_path / "run"
        folder.mkdir()
        shutil.copyfile(whole / FILE, folder / FILE)
        tamper(folder / FILE, *case)
        before = (folder / FILE).read_bytes()
        lines.append(refusal(functools.partial(read_all, folder, seen)))
        assert (folder / FILE).read_bytes() == before, case
        lines.append(refusal(functools.partial(resume, folder, plan, records, bool(number % 2))))
        assert all(one_line(line) == line for line in lines[-2:]), case
        shutil.rmtree(folder)
    for half in (lines[::2], lines[1::2]):
        assert 100 < half.count("") < len(half) - 100


@pytest.mark.parametrize(
    "change", ["lam = 0.5", "inputs = json_set(inputs, '$.base', 'x')", "n_items = 3", "name = 'x'"]
)
def test_cell_with_a_wrong_key_is_refused(tmp_path: Path, whole: Path, change: str) -> None:
    shutil.copytree(whole, tmp_path / "run")
    with closing(sqlite3.connect(tmp_path / "run" / FILE)) as c, c:
        assert c.execute(f"UPDATE cells SET {change}, summary = NULL WHERE lam = 1 AND kind = 'task'").rowcount == 1
    with (
        pytest.raises(InputError, match=r"table cells, row .*: its key is not the digest"),
        read_store(tmp_path / "run"),
    ):
        pass


def test_tampered_rows_give_one_line_errors_or_correct_results_of_commands(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, case in enumerate(random.Random(0).sample(cases(whole), SAMPLES)):
        folder = tmp_path / str(number) / "run"
        shutil.copytree(whole, folder)
        tamper(folder / FILE, *case)
        check_all_commands(capsys, folder)


@pytest.mark.parametrize(
    "script",
    [
        "DROP TABLE facts; CREATE VIEW facts AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
        "SELECT i AS name, i AS value FROM n",
        "CREATE TRIGGER t AFTER UPDATE ON cells BEGIN DELETE FROM items; END",
        "CREATE INDEX i ON items (record)",
        "ALTER TABLE items ADD COLUMN more TEXT",
    ],
)
def test_changed_schema_is_refused(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str], script: str
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    with closing(sqlite3.connect(tmp_path / "run" / FILE)) as c:
        c.executescript(script)
    before = (tmp_path / "run" / FILE).read_bytes()
    for words in (["report", str(tmp_path / "run")], ["sweep", "demo", *WORDS, "--run", str(tmp_path / "run")]):
        assert main(words) == 1
        assert "differs from pa-lite's schema" in capsys.readouterr().err
    assert (tmp_path / "run" / FILE).read_bytes() == before


def journal_naming(victim: Path) -> bytes:
    """Return a rollback journal that names a file as its super-journal; SQLite deletes that file on rollback."""
    name, magic = str(victim).encode(), b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
    start = magic + bytes(12) + (512).to_bytes(4, "big") + (4096).to_bytes(4, "big")
    end = len(name).to_bytes(4, "big") + sum(name).to_bytes(4, "big") + magic
    return start.ljust(512, b"\0") + b"\0\0\0\x01" + name + end


@pytest.fixture
def victim(tmp_path: Path, whole: Path) -> Path:
    """A file that SQLite deletes when it opens results next to `journal_naming`; asserts first that it would."""
    path = tmp_path / "thesis.txt"
    path.write_text("mine", "utf-8")
    shutil.copytree(whole, tmp_path / "plain")
    (tmp_path / "plain" / f"{FILE}-journal").write_bytes(journal_naming(path))
    with closing(sqlite3.connect(tmp_path / "plain" / FILE)) as c, suppress(sqlite3.Error):
        c.execute("SELECT count(*) FROM cells").fetchone()
    assert not path.exists()
    assert (tmp_path / "plain" / FILE).read_bytes() != (whole / FILE).read_bytes()
    path.write_text("mine", "utf-8")
    return path


def test_rollback_journal_deletes_no_file(
    tmp_path: Path, whole: Path, victim: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    journal = journal_naming(victim)
    (tmp_path / "run" / f"{FILE}-journal").write_bytes(journal)
    for words in (["report", str(tmp_path / "run")], ["sweep", "demo", *WORDS, "--run", str(tmp_path / "run")]):
        assert main(words) == 1
        assert f"{FILE}-journal: is not a file of pa-lite" in capsys.readouterr().err
    assert victim.read_text("utf-8") == "mine"
    assert (tmp_path / "run" / f"{FILE}-journal").read_bytes() == journal
    assert (tmp_path / "run" / FILE).read_bytes() == (whole / FILE).read_bytes()


@pytest.mark.parametrize("ending", ["-journal", "-wal", "-shm"])
def test_companion_files_planted_after_the_check_have_no_effect(
    tmp_path: Path, whole: Path, victim: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """An attacker writes a file next to the results at the worst moments: when SQLite opens, queries or commits."""
    run, opened = tmp_path / "run", []
    shutil.copytree(whole, run)
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as c:  # a log that SQLite would apply
        c.execute("PRAGMA journal_mode = WAL")
        c.execute("CREATE TABLE x (y)")
        log = (tmp_path / "other.sqlite-wal").read_bytes()
    planted = {"-journal": journal_naming(victim), "-wal": log, "-shm": bytes(1 << 15)}[ending]
    plain_connect = sqlite3.connect

    def connect(path: Any, *words: Any, **named: Any) -> sqlite3.Connection:
        opened.append(str(path))
        (run / f"{FILE}{ending}").write_bytes(planted)
        connection: sqlite3.Connection = plain_connect(path, *words, **named)
        connection.set_trace_callback(lambda _: [(run / f"{FILE}{ending}").write_bytes(planted)])
        return connection

    with open_store(run):  # the first use also opens a database in memory, which is not counted
        pass
    monkeypatch.setattr(sqlite3, "connect", connect)
    with suppress(OutputError), open_store(run) as store:
        for i in range(5):
            store.note({"system": str(i)})
    monkeypatch.undo()
    assert victim.read_text("utf-8") == "mine"
    assert opened
    assert not any(str(run) in path for path in opened)
    (run / f"{FILE}{ending}").unlink(missing_ok=True)
    with read_store(run) as store, read_store(whole) as before:
        assert {c.key: store.items(c.key) for c in store.cells()} == {
            c.key: before.items(c.key) for c in before.cells()
        }


def test_reading_with_a_log_changes_no_files(tmp_path: Path) -> None:
    with open_store(tmp_path / "run") as store:
        store.note({"pair": "demo"})
        shutil.copytree(tmp_path / "run", tmp_path / "killed")  # the state after a kill: with a log

    def seen() -> dict[str, tuple[bytes, int]]:
        files = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in (tmp_path / "killed").iterdir()}
        return {**files, ".": (b"", (tmp_path / "killed").stat().st_mtime_ns)}

    before = seen()
    assert before[f"{FILE}-wal"][0]
    with read_store(tmp_path / "killed") as store:
        assert store.facts() == {"pair": "demo"}
    assert seen() == before
    with open_store(tmp_path / "killed") as store:
        assert store.facts() == {"pair": "demo"}
