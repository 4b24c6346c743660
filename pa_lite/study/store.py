"""One study's results in one SQLite file: cells, their items, and what they were measured with. Computes nothing.

A cell's key is a digest of all that decides its numbers, so that a changed input is another cell. The old one stays: a
study that goes back to it finds it done, readers see only the cells of the last run (the fact `cells`). Items are
committed a chunk at a time, in one transaction: a killed run has all of a chunk or nothing of it.

Run folders are shared between people: results are read from a private copy, and the file itself is opened, to write,
only after its copy was found to be ours.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

from pa_lite.errors import InputError, OutputError
from pa_lite.files import sync_folder
from pa_lite.markers import temporary_folder
from pa_lite.opening import TRIES, NotPlainError, create_file, open_own
from pa_lite.study.results_file import (
    FILE,
    check_files,
    check_ours,
    connect,
    copy_files,
    damaged,
    fill,
    not_ours,
    readable,
    set_deadline,
    writable,
)
from pa_lite.study.rows import read_cell, read_fact, read_record

_LOCK = "study.lock"
_LOCK_TEXT = b"pa-lite: held while a study is written\n"  # a lock of 0.1.0 is empty


@dataclass(frozen=True)
class Cell:
    """One task, or the instructions, at one lam: `inputs` is all that decides its numbers, as JSON values.

    `kind` is `task`, `follow`, `answers` or `wins`; `type` the weights' type.
    """

    lam: float
    type: str
    kind: str
    name: str
    n_items: int
    inputs: Mapping[str, Any]

    @property
    def key(self) -> str:
        """SHA-256, hex, of everything above."""
        whole = [self.lam, self.type, self.kind, self.name, self.n_items, self.inputs]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class StoredCell:
    """A cell as the file has it: items finished so far, and its summary once all are."""

    key: str
    lam: float
    type: str
    kind: str
    name: str
    n_items: int
    n_done: int
    inputs: Mapping[str, Any]
    environment: Mapping[str, Any]
    started: float
    seconds: float
    summary: Mapping[str, Any] | None


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class Store:
    """The open file. Threads may share it. Made by `open_store` to write, `read_store` to read."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._lock = threading.Lock()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, readable(self.path), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock, readable(self.path):
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _row(self, table: str, row: object) -> Iterator[None]:
        """Name the file, the table and the row when a value is not what it should be."""
        try:
            yield
        except ValueError as e:
            told = str(row).encode("utf-8", "replace").decode()
            raise damaged(self.path, f"table {table}, row {told:.80}: {e}") from None

    def facts(self) -> dict[str, Any]:
        """What was noted about the study as a whole. Raises InputError, naming the row, for a value that cannot be."""
        found = {}
        for name, text in self._rows("SELECT name, value FROM facts ORDER BY name"):
            with self._row("facts", name):
                known, value = read_fact(name, text)
                found[known] = value
        return found

    def kept(self) -> dict[str, tuple[str, ...]]:
        """Return the older results that the last run kept (--keep-stale): a cell's key -> in what its inputs differ.

        Raises InputError when the file has anything else there.
        """
        return {key: tuple(reasons) for key, reasons in self.facts().get("kept", {}).items()}

    def note(self, facts: Mapping[str, Any]) -> None:
        """Note facts about the study as a whole, replacing those of the same name."""
        with self._transaction() as c:
            c.executemany("REPLACE INTO facts VALUES (?, ?)", [(name, _dump(v)) for name, v in facts.items()])

    def begin(self, cell: Cell, environment: Mapping[str, Any]) -> set[int]:
        """Enter a cell if it is new; returns the items that are finished."""
        self.enter([cell], environment)
        return {number for (number,) in self._rows("SELECT number FROM items WHERE cell = ?", cell.key)}

    def enter(self, cells: Sequence[Cell], environment: Mapping[str, Any]) -> None:
        """Enter the cells that are new, all in one transaction: each costs the disk a sync."""
        told, now = _dump(environment), time.time()
        rows = [(c.key, c.lam, c.type, c.kind, c.name, c.n_items, _dump(c.inputs), told, now) for c in cells]
        with self._transaction() as c:
            c.executemany(
                "INSERT OR IGNORE INTO cells (key, lam, type, kind, name, n_items, inputs, environment, started) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )

    def done(self) -> dict[str, set[int]]:
        """The finished items of every cell that has some: key -> numbers."""
        out: dict[str, set[int]] = {}
        for key, number in self._rows("SELECT cell, number FROM items"):
            out.setdefault(key, set()).add(number)
        return out

    def add(self, key: str, records: Mapping[int, Any], seconds: float) -> None:
        """Commit a chunk of a cell's items, number -> record, and the time it took."""
        with self._transaction() as c:
            c.executemany(
                "INSERT INTO items VALUES (?, ?, ?)", [(key, number, _dump(r)) for number, r in records.items()]
            )
            c.execute("UPDATE cells SET seconds = seconds + ? WHERE key = ?", (seconds, key))

    def finish(self, key: str, summary: Mapping[str, Any]) -> None:
        """Note that all of a cell's items are there, and what they come to."""
        with self._transaction() as c:
            c.execute("UPDATE cells SET summary = ? WHERE key = ?", (_dump(summary), key))

    def cells(self) -> list[StoredCell]:
        """Every cell, by kind, name, type and lam; those of inputs that have changed since are among them.

        Raises InputError, naming the row, for a value that cannot be.
        """
        rows = self._rows(
            "SELECT key, lam, type, kind, name, n_items, (SELECT count(*) FROM items WHERE cell = key), inputs, "
            "environment, started, seconds, summary FROM cells ORDER BY kind, name, type, lam, key"
        )
        names = [f.name for f in fields(StoredCell)]
        found = []
        for row in rows:
            with self._row("cells", row[0]):
                found.append(StoredCell(**read_cell(dict(zip(names, row, strict=True)))))
        return found

    def finished(self, keys: Sequence[str]) -> set[str]:
        """Those of the keys whose cells are finished."""
        done = {key for (key,) in self._rows("SELECT key FROM cells WHERE summary IS NOT NULL")}
        return done.intersection(keys)

    def items(self, key: str) -> list[Any]:
        """A cell's finished records in the items' order. Raises InputError, naming the row, for one that cannot be."""
        rows = self._rows(
            "SELECT number, record, kind FROM items JOIN cells ON key = cell WHERE cell = ? ORDER BY 1", key
        )
        records = []
        for number, text, kind in rows:
            with self._row("items", f"{number} of cell {key:.12}"):
                records.append(read_record(kind, text))
        return records

    def check(self) -> None:
        """Raise InputError, naming the row, for a fact or a cell that cannot be, or an item that no cell has."""
        self.facts()
        self.cells()
        odd = self._rows(
            "SELECT cell, number, key FROM items LEFT JOIN cells ON key = cell "
            "WHERE key IS NULL OR typeof(number) <> 'integer' OR number < 0 OR number >= n_items LIMIT 1"
        )
        for cell, number, key in odd:
            with self._row("items", f"{number} of cell {cell}"):
                raise ValueError("its cell is not there" if key is None else "the cell has no item of this number")


@contextmanager
def open_store(folder: Path) -> Iterator[Store]:
    """The results in a run folder, made if need be, for one process at a time.

    Raises OutputError when another process works there or nothing can be written, InputError for a file that is damaged
    (it is left as it is), newer, or no study's.
    """
    path = folder / FILE
    was_there = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock, has_made_lock = _open_lock(folder / _LOCK)
    except NotPlainError as e:
        raise not_ours(e) from e
    except OSError as e:
        raise OutputError(f"{folder}: cannot be written: {e.strerror}. Name another folder (--run).") from e
    with closing(lock):
        _take(lock, folder)
        check_files(path)
        had_results = has_results(folder)
        if had_results:
            with _copy(path) as copy:
                copy.check()
        else:
            with writable(folder):  # SQLite would follow a link that came there just now
                if path.exists():  # a file that never got its content
                    with open_own(path) as file:
                        fill(file)
                else:
                    create_file(path, fill).close()
                sync_folder(folder)
        check_files(path)
        with readable(path), closing(connect(path)) as connection:
            check_ours(path, connection, whole=False)
            connection.execute("PRAGMA synchronous = FULL")
            try:
                yield Store(path, connection)
            finally:
                if not had_results and _is_empty(connection):
                    connection.close()
                    _unmake(folder, has_made_lock, was_there)


def _is_empty(connection: sqlite3.Connection) -> bool:
    """Whether nothing was entered; a file that cannot be asked is not."""
    with suppress(sqlite3.Error):
        counts = connection.execute("SELECT (SELECT count(*) FROM cells) + (SELECT count(*) FROM facts)").fetchone()
        return bool(counts == (0,))
    return False


def _unmake(folder: Path, has_made_lock: bool, was_there: bool) -> None:
    """Remove what was made for a study that never began, as far as the system lets us; what was there before stays."""
    names = [FILE, f"{FILE}-wal", f"{FILE}-shm", *([_LOCK] if has_made_lock else [])]
    with suppress(OSError):
        for name in names:
            (folder / name).unlink(missing_ok=True)
        if not was_there:
            folder.rmdir()


def _open_lock(path: Path) -> tuple[BinaryIO, bool]:
    """Open the file to lock, made if need be; whether it was made. Raises NotPlainError for one that is not ours."""
    for _ in range(TRIES):
        try:
            return create_file(path, _LOCK_TEXT), True
        except FileExistsError:
            pass
        try:
            lock = open_own(path)
        except FileNotFoundError:
            continue
        if lock.read(len(_LOCK_TEXT) + 1) in (b"", _LOCK_TEXT):
            return lock, False
        lock.close()
        raise NotPlainError(path, "it holds something else than a lock of pa-lite")
    raise NotPlainError(path, "it is removed and made again all the time")


def has_results(folder: Path) -> bool:
    """Whether a run folder has a file of results with anything in it: a killed run of 0.1.0 may leave an empty one."""
    path = folder / FILE
    return path.is_file() and path.stat().st_size > 0


@contextmanager
def read_store(folder: Path) -> Iterator[Store]:
    """The results in a run folder, to read, also while they grow; nothing in the folder is written or changed.

    Raises InputError when there are none, they are damaged, or are not a study's; OutputError for files that are not
    ours, or when there is no room for a copy.
    """
    path = folder / FILE
    if not path.is_file():
        raise InputError(
            f"{folder}: has no results of a study ({FILE}). Run `pa-lite sweep PAIR --run {folder}` first."
        )
    check_files(path)
    with _copy(path) as store:
        store.check()
        yield store


@contextmanager
def _copy(path: Path) -> Iterator[Store]:
    """The results in a copy of one's own, checked to be a study's; errors name the file that was copied."""
    with temporary_folder() as folder:
        copy = folder / FILE
        try:
            copy_files(path, copy)
        except NotPlainError as e:
            raise not_ours(e) from e
        except OSError as e:
            raise OutputError(
                f"{path}: cannot be copied to {folder.parent} to be read: {e.strerror}. See to its rights, or free "
                "some space (TMPDIR names another place)."
            ) from e
        with readable(path), closing(connect(copy)) as connection:
            connection.execute("PRAGMA query_only = ON")
            set_deadline(connection, copy.stat().st_size)
            check_ours(path, connection)
            yield Store(path, connection)


def _take(lock: BinaryIO, folder: Path) -> None:
    """Lock the folder for this process until the file is closed. Raises OutputError when another has it."""
    told = f"{folder}: another process is working there. Wait for it, or name another folder (--run)."
    try:
        import fcntl
    except ImportError:
        import msvcrt

        try:
            msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError:
            raise OutputError(told) from None
        return
    try:
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError(told) from None
