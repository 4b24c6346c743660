"""Storage of a study's results in one SQLite file: cells, their items, and facts about the study.

A cell's key is a digest of everything that determines its numbers, so that a changed input makes another cell. The old
cell stays: a study that returns to the old inputs finds it finished, while readers see only the cells of the last run
(the fact `cells`). Items are committed one chunk per transaction: a killed run has all of a chunk or none of it.

Run folders are shared between people, so SQLite works on a checked private copy of the results; `working_copy` writes
commits back to the run folder.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from pa_lite.errors import InputError, OutputError
from pa_lite.study.cells import Cell as Cell
from pa_lite.study.cells import StoredCell as StoredCell
from pa_lite.study.records import FinishedItem, Record
from pa_lite.study.results_file import (
    FILE,
    Deadline,
    check_files,
    check_ours,
    connect,
    copy_files,
    damaged,
    fill,
    is_blank,
    not_ours,
    readable,
    writable,
)
from pa_lite.study.rows import parse_column, read_cell, read_fact
from pa_lite.study.run_lock import LOCK, open_lock, take_run
from pa_lite.study.working_copy import WorkingCopy, replace_results
from pa_lite.study.workloads import WORKLOADS
from pa_lite.system.atomic import sync_folder
from pa_lite.system.markers import temporary_folder
from pa_lite.system.opening import NotPlainError, create_file

_BLANK_BYTES = 4096  # most bytes of a file that a killed run of 0.1.0 left without tables: one page
_LONGEST = 1 << 24  # bytes of one value: a fact, a cell's inputs, an item's record
_COLUMNS = {
    "facts": "name value",
    "cells": "key lam type kind name n_items inputs environment started seconds summary",
    "items": "cell number record",
}
_LONGEST_SUM = 1 << 29  # bytes of a cell's records, of all facts and of all cells, each of which must fit in memory


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class Store:
    """An open results file, safe for several threads. `open_store` opens it for writing, `read_store` for reading."""

    def __init__(self, path: Path, connection: sqlite3.Connection, working: WorkingCopy | None = None) -> None:
        self.path = path
        self._own, self._working = connection, working
        self._lock = threading.Lock()
        self._sizes: dict[str, int] = {}  # bytes of a cell's records
        (self._file,) = (file for _, name, file in connection.execute("PRAGMA database_list") if name == "main")
        self._deadline = Deadline(connection, Path(self._file).stat().st_size)

    @property
    def _connection(self) -> sqlite3.Connection:
        """The current connection; the working copy makes a new one when it replaces the results."""
        now = self._own if self._working is None else self._working.connection
        if now is not self._own:
            self._own, self._deadline = now, Deadline(now, Path(self._file).stat().st_size)
        return now

    @contextmanager
    def _asked(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection, to one thread at a time."""
        with self._lock, readable(self.path, Path(self._file).parent):
            connection = self._connection
            self._deadline.start()
            yield connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._asked() as connection:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
            if self._working is not None:
                self._working.publish()

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._asked() as connection:
            return connection.execute(query, values).fetchall()

    @contextmanager
    def _row(self, table: str, row: object) -> Iterator[None]:
        """Convert a ValueError for an invalid value to an InputError that names file, table and row."""
        try:
            yield
        except ValueError as e:
            shown = str(row).encode("utf-8", "replace").decode()
            raise damaged(self.path, f"table {table}, row {shown:.80}: {e}") from None

    def facts(self) -> dict[str, Any]:
        """Return the facts about the study as a whole. Raises InputError, naming the row, for an invalid value."""
        found = {}
        for name, text in self._rows("SELECT name, value FROM facts ORDER BY name"):
            with self._row("facts", name):
                checked, value = read_fact(name, text)
                found[checked] = value
        return found

    def kept(self) -> dict[str, tuple[str, ...]]:
        """Return the stale results that the last run kept (--keep-stale): cell key -> how its inputs differ.

        Raises InputError for an invalid value.
        """
        return {key: tuple(reasons) for key, reasons in self.facts().get("kept", {}).items()}

    def note(self, facts: Mapping[str, Any]) -> None:
        """Store facts about the study as a whole, replacing those of the same name."""
        with self._transaction() as c:
            c.executemany("REPLACE INTO facts VALUES (?, ?)", [(n, self._text(n, v)) for n, v in facts.items()])

    def enter(self, cells: Sequence[Cell], environment: Mapping[str, Any]) -> None:
        """Insert the cells that are new, in one transaction, as each costs a sync of the disk."""
        environment_text, now = _dump(environment), time.time()
        rows = [
            (c.key, c.lam, c.type, c.kind, c.name, c.n_items, self._text(c.name, c.inputs), environment_text, now)
            for c in cells
        ]
        with self._transaction() as c:
            c.executemany(
                "INSERT OR IGNORE INTO cells (key, lam, type, kind, name, n_items, inputs, environment, started) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )

    def done(self) -> dict[str, set[int]]:
        """Return the finished items of every cell that has any: key -> item numbers."""
        out: dict[str, set[int]] = {}
        for key, number in self._rows("SELECT cell, number FROM items"):
            out.setdefault(key, set()).add(number)
        return out

    def add(self, key: str, records: Mapping[int, Any], seconds: float) -> None:
        """Commit a chunk of a cell's items, number -> record, and the time it took.

        Raises OutputError for records beyond the lengths that can be read back.
        """
        rows = [(key, number, self._text(f"item {number}", record)) for number, record in records.items()]
        added = sum(len(text.encode("utf-8", "surrogatepass")) for _, _, text in rows)
        with self._transaction() as c:
            if key not in self._sizes:
                (self._sizes[key],) = c.execute(
                    "SELECT ifnull(sum(length(CAST(record AS BLOB))), 0) FROM items WHERE cell = ?", (key,)
                ).fetchone()
            if self._sizes[key] + added > _LONGEST_SUM:
                raise self._too_long(f"the records of cell {key:.12}", _LONGEST_SUM)
            c.executemany("INSERT INTO items VALUES (?, ?, ?)", rows)
            c.execute("UPDATE cells SET seconds = seconds + ? WHERE key = ?", (seconds, key))
            self._sizes[key] += added

    def _text(self, what: str, value: Any) -> str:
        """Return a value as JSON. Raises OutputError for one beyond the length that can be read back."""
        text = _dump(value)
        if len(text) * 4 > _LONGEST and len(text.encode("utf-8", "surrogatepass")) > _LONGEST:
            raise self._too_long(what, _LONGEST)
        return text

    def _too_long(self, what: str, most: int) -> OutputError:
        return OutputError(
            f"{self.path}: {what} would take more than {most >> 20} MB, which is too long to store. Finished results "
            "are kept: limit the answers (--limit, --follow-limit, the task's max_tokens)."
        )

    def finish(self, key: str, summary: Mapping[str, Any]) -> None:
        """Mark a cell as finished by storing its summary."""
        with self._transaction() as c:
            c.execute("UPDATE cells SET summary = ? WHERE key = ?", (_dump(summary), key))

    def cells(self) -> list[StoredCell]:
        """Return every cell, ordered by kind, name, type and lam, including stale ones.

        Raises InputError, naming the row, for an invalid value.
        """
        rows = self._rows(
            "SELECT key, lam, type, kind, name, n_items, (SELECT count(*) FROM items WHERE cell = key), inputs, "
            "environment, started, seconds, summary FROM cells ORDER BY kind, name, type, lam, key"
        )
        names = [f.name for f in fields(StoredCell)]
        found = []
        for row in rows:
            with self._row("cells", row[0]):
                cell = StoredCell(**read_cell(dict(zip(names, row, strict=True)), WORKLOADS))
                if not cell.is_whole():
                    raise ValueError("its key is not the digest of its inputs")
                found.append(cell)
        return found

    def finished(self, keys: Sequence[str]) -> set[str]:
        """Return which of the keys belong to finished cells."""
        done = {key for (key,) in self._rows("SELECT key FROM cells WHERE summary IS NOT NULL")}
        return done.intersection(keys)

    def items(self, key: str) -> list[Record]:
        """Return a cell's finished records as stored, in the order of the items.

        Raises InputError, naming the row, for an invalid one.
        """
        return [record for record, _ in self._items(key)]

    def results(self, key: str) -> list[Any]:
        """Return a cell's finished records, decoded by its workload; raises as `items` does."""
        return [result for _, result in self._items(key)]

    def _items(self, key: str) -> Iterator[tuple[Record, FinishedItem]]:
        rows = self._rows(
            "SELECT number, record, kind FROM items JOIN cells ON key = cell WHERE cell = ? ORDER BY 1", key
        )
        for number, text, workload in rows:
            with self._row("items", f"{number} of cell {key:.12}"):
                record = parse_column("record", text, nan=True)
                yield record, WORKLOADS[workload].decode(record)

    def check(self) -> None:
        """Raise InputError, naming the row, for an invalid fact or cell, or an item without a cell.

        The lengths of all values are checked before any value is fetched.
        """
        self._check_lengths()
        self.facts()
        self.cells()
        odd = self._rows(
            "SELECT cell, number, key FROM items LEFT JOIN cells ON key = cell "
            "WHERE key IS NULL OR typeof(number) <> 'integer' OR number < 0 OR number >= n_items LIMIT 1"
        )
        for cell, number, key in odd:
            with self._row("items", f"{number} of cell {cell}"):
                raise ValueError("its cell does not exist" if key is None else "the cell has no item of this number")

    def _check_lengths(self) -> None:
        for table, names in _COLUMNS.items():
            columns = names.split()
            each = [f"ifnull(length(CAST({column} AS BLOB)), 0)" for column in columns]
            row, widest, total = columns[0], f"max({', '.join(each)})", f"sum({' + '.join(each)})"
            found = self._rows(
                f"SELECT substr({row}, 1, 80), max({widest}), {total} FROM {table} GROUP BY {row} "
                f"HAVING max({widest}) > ? OR {total} > ? LIMIT 1",
                _LONGEST,
                _LONGEST_SUM,
            )
            for name, longest, _ in found:
                with self._row(table, name):
                    most = _LONGEST if longest > _LONGEST else _LONGEST_SUM
                    raise ValueError(f"it takes more than {most >> 20} MB")
            if table != "items" and (self._rows(f"SELECT {total} FROM {table}")[0][0] or 0) > _LONGEST_SUM:
                raise damaged(self.path, f"table {table} takes more than {_LONGEST_SUM >> 20} MB")


_MODEL_FILES = ("config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json")


@contextmanager
def open_store(folder: Path) -> Iterator[Store]:
    """Open the results in a run folder for writing, by one process at a time; create them if necessary.

    Raises OutputError when another process has them open or the folder cannot be written, InputError for a file that is
    damaged (it is not changed), newer, or not a study's.
    """
    path = folder / FILE
    was_there = folder.exists()
    if was_there and not path.exists() and (model := next((n for n in _MODEL_FILES if (folder / n).exists()), None)):
        raise OutputError(f"{folder}: contains a model ({model}), not a study. Name another folder (--run).")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock, has_made_lock = open_lock(folder / LOCK)
    except NotPlainError as e:
        raise not_ours(e) from e
    except OSError as e:
        raise OutputError(f"{folder}: cannot be written: {e.strerror}. Name another folder (--run).") from e
    with closing(lock):
        take_run(lock, folder)
        check_files(path)
        had_results = has_results(folder)
        if not had_results:
            with writable(folder):
                if path.exists():  # a file that never got its tables
                    replace_results(path, fill)
                else:
                    create_file(path, fill).close()
                    sync_folder(folder)
        with temporary_folder() as private, _working_copy(path, private) as working:
            try:
                yield Store(path, working.connection, working)
            finally:
                if not had_results and _is_empty(working.connection):
                    working.abandon()
                    _unmake(folder, has_made_lock, was_there)


@contextmanager
def _working_copy(path: Path, private: Path) -> Iterator[WorkingCopy]:
    """Yield a checked working copy of the results; commits are published at the end."""
    with _copy_in(path, private) as store:
        store.check()
    with readable(path, private):
        working = WorkingCopy(path, private / FILE)
        try:
            yield working
        except BaseException:
            with suppress(OutputError, InputError, sqlite3.Error):  # the first error is reported
                working.close()
            raise
        working.close()


def _is_empty(connection: sqlite3.Connection) -> bool:
    """Return whether there are no cells and facts; False for a file that cannot be read."""
    with suppress(sqlite3.Error):
        counts = connection.execute("SELECT (SELECT count(*) FROM cells) + (SELECT count(*) FROM facts)").fetchone()
        return bool(counts == (0,))
    return False


def _unmake(folder: Path, has_made_lock: bool, was_there: bool) -> None:
    """Remove the files created for a study that never started, as far as possible; earlier files stay."""
    names = [FILE, f"{FILE}-wal", f"{FILE}-shm", *([LOCK] if has_made_lock else [])]
    with suppress(OSError):
        for name in names:
            (folder / name).unlink(missing_ok=True)
        if not was_there:
            folder.rmdir()


def has_results(folder: Path) -> bool:
    """Return whether a run folder has results; a killed run of 0.1.0 may leave a file without tables.

    A file or link that is not ours counts as results. Raises what read_store raises.
    """
    path = folder / FILE
    if path.is_symlink() or not path.is_file():
        return path.is_symlink()
    size = path.stat().st_size
    if 0 < size <= _BLANK_BYTES:
        check_files(path)
        with temporary_folder() as private, _copied(path, private) as connection:
            return not is_blank(connection)
    return size > 0


@contextmanager
def read_store(folder: Path) -> Iterator[Store]:
    """Open the results in a run folder for reading, also during a sweep; nothing in the folder is changed.

    Raises InputError for results that are missing, damaged, or not a study's; OutputError for files that are not ours,
    or when there is no space for a copy.
    """
    path = folder / FILE
    if not has_results(folder):
        raise InputError(f"{folder}: has no study results ({FILE}). Run `pa-lite sweep PAIR --run {folder}` first.")
    check_files(path)
    with temporary_folder() as private, _copy_in(path, private) as store:
        store.check()
        yield store


@contextmanager
def _copy_in(path: Path, private: Path) -> Iterator[Store]:
    """Yield a store on a copy in a private folder, checked to be a study's; errors name the original file."""
    with _copied(path, private) as connection:
        store = Store(path, connection)
        check_ours(path, connection)
        yield store


@contextmanager
def _copied(path: Path, private: Path) -> Iterator[sqlite3.Connection]:
    copy = private / FILE
    try:
        copy_files(path, copy)
    except NotPlainError as e:
        raise not_ours(e) from e
    except OSError as e:
        raise OutputError(
            f"{path}: cannot be copied to {private.parent} for reading: {e.strerror}. Check its permissions, free some "
            "space, or set TMPDIR to another folder."
        ) from e
    with readable(path, private), closing(connect(copy)) as connection:
        connection.execute("PRAGMA query_only = ON")
        yield connection
