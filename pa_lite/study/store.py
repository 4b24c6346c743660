"""One study's results in one SQLite file: cells, their items, and what they were measured with. Computes nothing.

A cell's key is a digest of all that decides its numbers, so that a changed input is another cell. The old one stays: a
study that goes back to it finds it done, readers see only the cells of the last run (the fact `cells`). Items are
committed a chunk at a time, in one transaction: a killed run has all of a chunk or nothing of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

from pa_lite.errors import InputError, OutputError
from pa_lite.opening import TRIES, NotPlainError, check_own, create_file, open_own, open_regular

SCHEMA = 1
_LOCK_TEXT = b"pa-lite: held while a study is written\n"  # a lock of 0.1.0 is empty
# the files that SQLite keeps beside its own: what they begin with, where they are not empty
_COMPANIONS = {
    "-wal": (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83"),
    "-shm": ((3007000).to_bytes(4, sys.byteorder), bytes(4)),
    "-journal": (b"\xd9\xd5\x05\xf9", bytes(4)),
}
_APPLICATION = 0x70614C69  # "paLi", in the file's header
FILE, _LOCK = "study.sqlite", "study.lock"
_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE cells (
  key TEXT PRIMARY KEY, lam REAL NOT NULL, type TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL,
  n_items INTEGER NOT NULL, inputs TEXT NOT NULL, environment TEXT NOT NULL, started REAL NOT NULL,
  seconds REAL NOT NULL DEFAULT 0, summary TEXT
) WITHOUT ROWID;
CREATE TABLE items (
  cell TEXT NOT NULL REFERENCES cells (key), number INTEGER NOT NULL, record TEXT NOT NULL, PRIMARY KEY (cell, number)
) WITHOUT ROWID;
"""


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
        with self._lock, _readable(self.path), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock, _readable(self.path):
            return self._connection.execute(query, values).fetchall()

    def facts(self) -> dict[str, Any]:
        """What was noted about the study as a whole."""
        return {name: json.loads(value) for name, value in self._rows("SELECT name, value FROM facts ORDER BY name")}

    def kept(self) -> dict[str, tuple[str, ...]]:
        """Return the older results that the last run kept (--keep-stale): a cell's key -> in what its inputs differ.

        Raises InputError when the file has anything else there.
        """
        found = self.facts().get("kept", {})
        if not isinstance(found, dict) or not all(isinstance(reasons, list) for reasons in found.values()):
            raise _damaged(self.path, "the fact 'kept' is not a table of lists")
        return {key: tuple(map(str, reasons)) for key, reasons in found.items()}

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
        """Every cell, by kind, name, type and lam; those of inputs that have changed since are among them."""
        rows = self._rows(
            "SELECT key, lam, type, kind, name, n_items, (SELECT count(*) FROM items WHERE cell = key), inputs, "
            "environment, started, seconds, summary FROM cells ORDER BY kind, name, type, lam, key"
        )
        as_json = ("inputs", "environment", "summary")
        names = [f.name for f in fields(StoredCell)]
        return [
            StoredCell(*(json.loads(v or "null") if n in as_json else v for n, v in zip(names, row, strict=True)))
            for row in rows
        ]

    def finished(self, keys: Sequence[str]) -> set[str]:
        """Those of the keys whose cells are finished."""
        done = {key for (key,) in self._rows("SELECT key FROM cells WHERE summary IS NOT NULL")}
        return done.intersection(keys)

    def items(self, key: str) -> list[Any]:
        """A cell's finished records in the items' order."""
        rows = self._rows("SELECT record FROM items WHERE cell = ? ORDER BY number", key)
        return [json.loads(record) for (record,) in rows]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except sqlite3.OperationalError as e:
        if "full" in str(e):
            raise OutputError(
                f"{path}: the disk is full; what was finished is kept. Free some space, and run the same command again."
            ) from e
        raise OutputError(
            f"{path}: cannot be used ({e}). What was finished is kept: see to its disk, and run the command again."
        ) from e
    except sqlite3.DatabaseError as e:
        raise _damaged(path, str(e)) from e


def _damaged(path: Path, told: str) -> InputError:
    return InputError(
        f"{path}: the results are damaged ({told}). Nothing was changed: restore a copy, or use another folder (--run)."
    )


def _check(path: Path, connection: sqlite3.Connection) -> None:
    """Raise InputError for a file that is not a study's, is newer than we know, or is damaged."""
    with _readable(path):
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != _APPLICATION:
            raise InputError(f"{path}: is no file of results of pa-lite. Name another folder (--run).")
        if version > SCHEMA:
            raise InputError(
                f"{path}: was written by a newer pa-lite (schema {version}, known {SCHEMA}). Update pa-lite."
            )
        (told,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if told != "ok":
            raise _damaged(path, told)


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
        raise _not_ours(e) from e
    except OSError as e:
        raise OutputError(f"{folder}: cannot be written: {e.strerror}. Name another folder (--run).") from e
    with closing(lock):
        _take(lock, folder)
        _check_files(path)
        had_results = path.exists()
        if not had_results:
            with _writable(folder):
                create_file(path).close()  # SQLite would follow a link that came there just now
        with _readable(path), closing(_connect(path, "rw")) as connection:
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(
                    f"BEGIN; PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {SCHEMA}; {_TABLES} COMMIT;"
                )
            _check(path, connection)
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


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Turn an OSError of making a file in the folder into an OutputError."""
    try:
        yield
    except OSError as e:
        raise OutputError(f"{folder}: cannot be written: {e.strerror}. Name another folder (--run).") from e


def _not_ours(error: NotPlainError) -> OutputError:
    return OutputError(
        f"{error.filename}: is not pa-lite's: {error.strerror}. Move it elsewhere, or use another folder (--run)."
    )


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


def _check_files(path: Path) -> None:
    """Raise OutputError where SQLite would follow a link out of the folder, or wait for what is not a regular file.

    Companions without results were not left by a study: SQLite would act on what they hold.
    """
    for ending, starts in {"": (), **_COMPANIONS}.items():
        each = path.with_name(path.name + ending)
        try:
            check_own(each)
            if ending and not os.path.lexists(path):
                raise NotPlainError(each, f"there is no {FILE} that it belongs to")
            if ending:
                with open_regular(each) as file:
                    if file.read(4) not in (b"", *starts):
                        raise NotPlainError(each, "it is not a file that SQLite keeps beside its own")
        except FileNotFoundError:
            pass
        except OSError as e:
            if not isinstance(e, NotPlainError):
                raise OutputError(f"{each}: cannot be read: {e.strerror}.") from e
            raise _not_ours(e) from e


@contextmanager
def read_store(folder: Path) -> Iterator[Store]:
    """The results in a run folder, to read, also while they grow. Raises InputError when there are none."""
    path = folder / FILE
    if not path.is_file():
        raise InputError(
            f"{folder}: has no results of a study ({FILE}). Run `pa-lite sweep PAIR --run {folder}` first."
        )
    _check_files(path)
    # opened to write, or the log that SQLite makes for every reader would stay behind; it is not written to
    with _readable(path), closing(_connect(path, "rw")) as connection:
        connection.execute("PRAGMA query_only = ON")
        _check(path, connection)
        yield Store(path, connection)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{Path(os.path.realpath(path.parent), path.name).as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=30, isolation_level=None, check_same_thread=False)


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
