"""A run folder is a stranger's: whatever is in it, a command gives a right result or one line, and changes nothing."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pa_lite import cli
from pa_lite.study.results_file import FILE
from pa_lite.study.store import open_store, read_store


def main(words: list[str]) -> int:
    """Run a command; returns its exit status."""
    try:
        cli.main(words)
    except SystemExit as e:
        return int(e.code or 0)
    return 0


WORDS = ["--lam", "0,1", "--tasks", "demo_kind", "--limit", "4", "--follow", "demo", "--follow-limit", "4"]
ODD: list[Any] = [None, True, -1, "", "x", [], {}, ["x", 1], {"x": None}]
SAMPLES = 12
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


def told(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    """A right result, or exit 1 with one line that is no fault of pa-lite."""
    capsys.readouterr()
    code = main(words)
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert code in (0, 1), words
    assert len(err) == code, (words, err)
    assert not any("fault of pa-lite" in line for line in err), err


def ask_everything(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    out = folder.parent
    told(capsys, ["report", str(folder), "-o", str(out / "p.html"), "--csv", str(out / "c.csv"),
                  "--lm-eval", str(out / "lm"), "--force", "--json"])  # fmt: skip
    told(capsys, ["sweep", "demo", *WORDS, "--run", str(folder), "--dry-run"])
    told(capsys, ["sweep", "demo", *WORDS, "--run", str(folder), "--json"])


@pytest.mark.parametrize(("n_lams", "n_tasks"), [(1002, 1), (1, 1001)])
def test_more_lams_or_tasks_than_can_be_shown_are_one_line(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str], n_lams: int, n_tasks: int
) -> None:
    """A small file can hold thousands: charts and resamplings of them all would take hours."""
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
    assert main(["report", str(folder)]) == 1
    told = f"the study has {n_lams} lams and {n_tasks} tasks. At most 1001 lams and 1000 tasks can be shown"
    assert told in capsys.readouterr().err


def test_lams_that_differ_after_six_digits_get_files_of_their_own(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    with closing(sqlite3.connect(folder / FILE)) as c, c:
        c.execute("UPDATE cells SET lam = 0.1234567 + lam / 1e7")
    assert main(["report", str(folder), "--lm-eval", str(tmp_path / "lm")]) == 0
    lams = sorted(json.loads(p.read_text("utf-8"))["pa_lite"]["lam"] for p in (tmp_path / "lm").iterdir())
    assert lams == pytest.approx([0.1234567, 0.1234568], abs=1e-12)
    assert lams[0] < lams[1]


def mutations(value: Any) -> Iterator[Any]:
    """The value with each member, at any depth, removed and replaced by values of other kinds."""
    yield from ODD
    if isinstance(value, dict):
        for key in value:
            yield {k: v for k, v in value.items() if k != key}
            yield from ({**value, key: inner} for inner in mutations(value[key]))
    elif isinstance(value, list) and value:
        yield value[1:]
        yield [*value, value[0]]
        yield from ([inner, *value[1:]] for inner in ODD)


def cases(folder: Path) -> list[tuple[str, str, Any]]:
    found: list[tuple[str, str, Any]] = [(t, c, v) for t, names in COLUMNS.items() for c in names for v in VALUES]
    with closing(sqlite3.connect(folder / FILE)) as c:
        for table, columns in COLUMNS.items():
            for column in columns:
                for (text,) in c.execute(f"SELECT DISTINCT {column} FROM {table} LIMIT 20").fetchall():
                    if isinstance(text, str) and text[:1] in '{["':
                        found += [(table, column, (text, json.dumps(v))) for v in mutations(json.loads(text))]
    return found


def test_tampered_rows_are_one_line_or_a_right_result(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every = cases(whole)
    assert len(every) > 500
    for number, (table, column, value) in enumerate(random.Random(0).sample(every, SAMPLES)):
        folder = tmp_path / str(number) / "run"
        shutil.copytree(whole, folder)
        with closing(sqlite3.connect(folder / FILE)) as c:
            old, new = value if isinstance(value, tuple) else (None, value)
            new = new.encode("utf-8", "surrogatepass") if isinstance(new, str) else new
            kind = "CAST(? AS TEXT)" if isinstance(new, bytes) and new != b"\xff" else "?"
            where = f"{column} = ?" if old is not None else f"{column} = (SELECT max({column}) FROM {table})"
            with c:
                c.execute(
                    f"UPDATE OR IGNORE {table} SET {column} = {kind} WHERE {where}", (new, *([old] if old else []))
                )
        ask_everything(capsys, folder)


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
def test_what_pa_lite_does_not_define_is_refused(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str], script: str
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    with closing(sqlite3.connect(tmp_path / "run" / FILE)) as c:
        c.executescript(script)
    before = (tmp_path / "run" / FILE).read_bytes()
    for words in (["report", str(tmp_path / "run")], ["sweep", "demo", *WORDS, "--run", str(tmp_path / "run")]):
        assert main(words) == 1
        assert "is not as pa-lite makes it" in capsys.readouterr().err
    assert (tmp_path / "run" / FILE).read_bytes() == before


def test_a_journal_removes_no_file_that_it_names(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    victim = tmp_path / "thesis.txt"
    victim.write_text("mine", "utf-8")
    name = str(victim).encode()
    magic = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
    journal = (magic + bytes(12) + (512).to_bytes(4, "big") + (4096).to_bytes(4, "big")).ljust(512, b"\0")
    journal += b"\0\0\0\x01" + name + len(name).to_bytes(4, "big") + sum(name).to_bytes(4, "big") + magic
    (tmp_path / "run" / f"{FILE}-journal").write_bytes(journal)
    for words in (["report", str(tmp_path / "run")], ["sweep", "demo", *WORDS, "--run", str(tmp_path / "run")]):
        assert main(words) == 1
        assert f"{FILE}-journal: is not pa-lite's" in capsys.readouterr().err
    assert victim.read_text("utf-8") == "mine"
    assert (tmp_path / "run" / f"{FILE}-journal").read_bytes() == journal


def test_reading_changes_nothing_even_beside_a_log(tmp_path: Path) -> None:
    with open_store(tmp_path / "run") as store:
        store.note({"pair": "demo"})
        shutil.copytree(tmp_path / "run", tmp_path / "killed")  # as a killed run leaves it: with its log

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
