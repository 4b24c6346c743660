"""One study's results in one SQLite file: cells, their items, and what they were measured with. Computes nothing.

A cell's key is a digest of all that decides its numbers, so that a changed input is another cell. The old one stays: a
study that goes back to it finds it done, readers see only the cells of the last run (the fact `cells`). Items are
committed a chunk at a time, in one transaction: a killed run has all of a chunk or nothing of it.

Run folders are shared between people, and what is in them is a stranger's. The file is kept in WAL mode, and gets its
name with its tables in it: a killed run leaves a `-wal` and a `-shm` beside it, never a `-journal`. One that is there
is refused, as SQLite would undo what it says, and remove files that it names. Results are read from a private copy;
the file itself is opened, to write, only after its copy was found to be ours.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import shutil
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pa_lite.errors import InputError, OutputError
from pa_lite.files import sync_folder
from pa_lite.markers import temporary_folder
from pa_lite.opening import TRIES, NotPlainError, check_own, create_file, open_own, open_regular
from pa_lite.study.rows import read_cell, read_fact, read_record

SCHEMA = 1
_LOCK_TEXT = b"pa-lite: held while a study is written\n"  # a lock of 0.1.0 is empty
# the files that SQLite keeps beside its own: what they begin with, where they are not empty
_COMPANIONS = {
    "-wal": (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83"),
    "-shm": ((3007000).to_bytes(4, sys.byteorder), bytes(4)),
    "-journal": (),  # not even a real one: see above
}
_PATIENCE = 60.0  # seconds that a question may take, and for each 4 MB of the file one more
_PATIENT_BYTES = 4e6
_STEPS = 100_000  # of SQLite's machine between two looks at the clock
_LIMITS = (("SQL_LENGTH", 10_000), ("COLUMN", 100), ("EXPR_DEPTH", 50), ("ATTACHED", 0), ("TRIGGER_DEPTH", 1))
_COPIES = 50  # tries to copy results that a running study changes
_PAUSE = 0.05  # seconds between two of them
_Row = TypeVar("_Row")
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
def _readable(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except sqlite3.OperationalError as e:
        if str(e) == "interrupted":
            raise damaged(path, "to read them takes longer than any study's results") from e
        if "full" in str(e):
            raise OutputError(
                f"{path}: the disk is full; what was finished is kept. Free some space, and run the same command again."
            ) from e
        raise OutputError(
            f"{path}: cannot be used ({e}). What was finished is kept: see to its disk, and run the command again."
        ) from e
    except sqlite3.DatabaseError as e:
        raise damaged(path, str(e)) from e


def damaged(path: Path, told: str) -> InputError:
    """Return the error for results that cannot be used; `told` says what is wrong, and where."""
    return InputError(
        f"{path}: the results are damaged ({told}). Nothing was changed: restore a copy, or use another folder (--run)."
    )


def _check(path: Path, connection: sqlite3.Connection, whole: bool = True) -> None:
    """Raise InputError for a file that is not a study's, is newer than we know, or is damaged.

    `whole` is to read every page too.
    """
    with _readable(path):
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != _APPLICATION:
            raise InputError(f"{path}: is no file of results of pa-lite. Name another folder (--run).")
        if version > SCHEMA:
            raise InputError(
                f"{path}: was written by a newer pa-lite (schema {version}, known {SCHEMA}). Update pa-lite."
            )
        odd = sorted(set(_schema(connection)) ^ set(_our_schema()), key=str)
        if odd:
            kind, name = (str(word).encode("utf-8", "replace").decode()[:80] for word in odd[0][:2])
            raise damaged(path, f"the {kind} {name!r} is not as pa-lite makes it")
        (told,) = connection.execute("PRAGMA quick_check(1)").fetchone() if whole else ("ok",)
        if told != "ok":
            raise damaged(path, told)


def _schema(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
    """All that a file defines: tables, indexes, views and triggers, with their SQL. One row more than ours at most."""
    return connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master LIMIT 10").fetchall()


@functools.cache
def _our_schema() -> tuple[tuple[Any, ...], ...]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(_TABLES)
        return tuple(_schema(connection))


@functools.cache
def _empty_results() -> bytes:
    """The content of a file with nothing in its tables."""
    with temporary_folder() as folder:
        path = folder / FILE
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(
                f"BEGIN; PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {SCHEMA}; {_TABLES} COMMIT;"
            )
        return path.read_bytes()


def _fill(file: BinaryIO) -> None:
    file.write(_empty_results())
    file.flush()
    os.fsync(file.fileno())


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
        had_results = has_results(folder)
        if had_results:
            with _copy(path) as copy:
                copy.check()
        else:
            with _writable(folder):  # SQLite would follow a link that came there just now
                if path.exists():  # a file that never got its content
                    with open_own(path) as file:
                        _fill(file)
                else:
                    create_file(path, _fill).close()
                sync_folder(folder)
        _check_files(path)
        with _readable(path), closing(_connect(path)) as connection:
            _check(path, connection, whole=False)
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
                    start = file.read(4)
                if start and not starts:
                    raise NotPlainError(each, "a study leaves none, and SQLite would undo what it says")
                if start not in (b"", *starts):
                    raise NotPlainError(each, "it is not a file that SQLite keeps beside its own")
        except FileNotFoundError:
            pass
        except OSError as e:
            if not isinstance(e, NotPlainError):
                raise OutputError(f"{each}: cannot be read: {e.strerror}.") from e
            raise _not_ours(e) from e


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
    _check_files(path)
    with _copy(path) as store:
        store.check()
        yield store


@contextmanager
def _copy(path: Path) -> Iterator[Store]:
    """The results in a copy of one's own, checked to be a study's; errors name the file that was copied."""
    with temporary_folder() as folder:
        copy = folder / FILE
        try:
            _copy_files(path, copy)
        except NotPlainError as e:
            raise _not_ours(e) from e
        except OSError as e:
            raise OutputError(
                f"{path}: cannot be copied to {folder.parent} to be read: {e.strerror}. See to its rights, or free some "
                "space (TMPDIR names another place)."
            ) from e
        with _readable(path), closing(_connect(copy)) as connection:
            connection.execute("PRAGMA query_only = ON")
            _set_deadline(connection, copy.stat().st_size)
            _check(path, connection)
            yield Store(path, connection)


def _copy_files(path: Path, copy: Path) -> None:
    """Copy the results and SQLite's log of them, as they were at one moment.

    Whatever SQLite moved from the log to the file meanwhile is in both, as long as the log was not begun anew.
    """
    log, copied = path.with_name(f"{path.name}-wal"), copy.with_name(f"{copy.name}-wal")
    for _ in range(_COPIES):
        before = _log_start(log)
        _copy_file(path, copy)
        copied.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            _copy_file(log, copied)
        if _log_start(copied) == before:
            return
        time.sleep(_PAUSE)
    raise OSError(errno.EBUSY, "it changes all the time", str(path))


def _log_start(log: Path) -> bytes:
    """The header of SQLite's log, which is another each time that the log is begun anew; empty where there is none."""
    try:
        with open_regular(log) as file:
            return file.read(32)
    except FileNotFoundError:
        return b""


def _copy_file(path: Path, copy: Path) -> None:
    check_own(path)
    with open_regular(path) as source:
        size = os.fstat(source.fileno()).st_size
        if size > shutil.disk_usage(copy.parent).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        with copy.open("wb") as target:
            left = size  # not what is added meanwhile
            while left and (part := source.read(min(left, 1 << 20))):
                target.write(part)
                left -= len(part)


def _set_deadline(connection: sqlite3.Connection, size: int) -> None:
    """End what reads the results when it takes much longer than a file of that size ever does."""
    end = time.thread_time() + _PATIENCE + size / _PATIENT_BYTES
    connection.set_progress_handler(lambda: time.thread_time() > end, _STEPS)


def _connect(path: Path) -> sqlite3.Connection:
    """Open a file with all that a stranger's file could do switched off, as far as this SQLite can."""
    uri = f"{Path(os.path.realpath(path.parent), path.name).as_uri()}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, timeout=30, isolation_level=None, check_same_thread=False)
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    for setting in ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0", "recursive_triggers = OFF"):
        connection.execute(f"PRAGMA {setting}")
    if sys.version_info >= (3, 11):
        for name, value in _LIMITS:
            connection.setlimit(getattr(sqlite3, f"SQLITE_LIMIT_{name}"), value)
    return connection


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
