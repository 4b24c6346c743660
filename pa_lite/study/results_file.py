"""The untrusted results file of a study: checks before SQLite reads it, and private copies.

Run folders are shared between people. The file is in WAL mode and is created with its tables in it, so a killed run
leaves a `-wal` file next to it (0.1.0 also a `-shm`), never a `-journal`. A `-journal` is refused, as SQLite would roll
back its pages and delete files that it names. SQLite opens no file in a run folder, only private copies.
"""

from __future__ import annotations

import errno
import functools
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from pa_lite.errors import InputError, OutputError
from pa_lite.system.markers import temporary_folder
from pa_lite.system.opening import TRIES, NotPlainError, check_own, open_regular

SCHEMA = 1
# SQLite's companion files, and the bytes they start with unless empty
_COMPANIONS = {
    "-wal": (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83"),
    "-shm": ((3007000).to_bytes(4, sys.byteorder), bytes(4)),
    "-journal": (),  # always refused: see above
}
_PATIENCE = 60.0  # seconds that a query may take, plus one for each _PATIENT_BYTES of the file
_PATIENT_BYTES = 4e6
_STEPS = 100_000  # instructions of SQLite's virtual machine between two checks of the deadline
_MOST_BYTES = 4 << 30  # of the file, and of its log; also bounds the sum of all values, as they share no bytes
_LONGEST_ROW = 1 << 26  # bytes of a row that SQLite may return, where Python can set it (3.11)
_LIMITS = (
    ("LENGTH", _LONGEST_ROW), ("SQL_LENGTH", 10_000), ("COLUMN", 100), ("EXPR_DEPTH", 50), ("ATTACHED", 0),
    ("TRIGGER_DEPTH", 1),
)  # fmt: skip
_COPIES = 50  # attempts to copy results that a running study changes
_PAUSE = 0.05  # seconds between attempts
_HEADER_BYTES, _MAGIC = 100, b"SQLite format 3\0"
_SLACK = 1 << 24  # bytes that a file may have beyond its pages, as after a power failure
_APPLICATION = 0x70614C69  # "paLi", the application id in the file's header
FILE = "study.sqlite"
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


@contextmanager
def readable(path: Path, folder: Path | None = None) -> Iterator[None]:
    """Convert SQLite's errors to ours. `folder` is where the private copy of the results at `path` is."""
    try:
        yield
    except sqlite3.OperationalError as e:
        if str(e) == "interrupted":
            raise damaged(path, "reading them takes too long for a file of this size") from e
        if "full" in str(e):
            raise disk_full(path, folder) from e
        raise OutputError(
            f"{path}: cannot be used ({e}). Finished results are kept: check the disk and run the same command again."
        ) from e
    except sqlite3.DatabaseError as e:
        raise damaged(path, str(e)) from e


def disk_full(path: Path, folder: Path | None = None) -> OutputError:
    """Return the error for a full disk: that of the results, or of the folder with their private copy."""
    advice = "" if folder is None else " or set TMPDIR to another folder"
    return OutputError(
        f"{folder or path}: the disk is full; finished results are kept. Free some space{advice}, and run the same "
        "command again."
    )


def damaged(path: Path, problem: str) -> InputError:
    """Return the error for unusable results; `problem` says what is wrong, and where."""
    return InputError(
        f"{path}: the results are damaged ({problem}). Nothing was changed: restore a copy, or use another folder "
        "(--run)."
    )


def check_ours(path: Path, connection: sqlite3.Connection) -> None:
    """Raise InputError for a file that is not a study's, has a newer schema, or is damaged. Reads every page."""
    with readable(path):
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != _APPLICATION:
            raise InputError(f"{path}: is not a pa-lite results file. Name another folder (--run).")
        if version > SCHEMA:
            raise InputError(
                f"{path}: was written by a newer pa-lite (schema {version}; supported: {SCHEMA}). Update pa-lite."
            )
        odd = sorted(set(_schema(connection)) ^ set(_our_schema()), key=str)
        if odd:
            workload, name = (str(word).encode("utf-8", "replace").decode()[:80] for word in odd[0][:2])
            raise damaged(path, f"the {workload} {name!r} differs from pa-lite's schema")
        (problem,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if problem != "ok":
            raise damaged(path, problem)


def is_blank(connection: sqlite3.Connection) -> bool:
    """Return whether a database is empty, as when 0.1.0 was killed before it had made the tables."""
    numbers = [connection.execute(f"PRAGMA {n}").fetchone()[0] for n in ("application_id", "user_version")]
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    return numbers == [0, 0] and pages <= 1 and not _schema(connection)


def _schema(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
    """Return the tables, indexes, views and triggers with their SQL; at most 10 rows, which is more than ours."""
    return connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master LIMIT 10").fetchall()


@functools.cache
def _our_schema() -> tuple[tuple[Any, ...], ...]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(_TABLES)
        return tuple(_schema(connection))


@functools.cache
def _empty_results() -> bytes:
    """Return the content of a results file with empty tables."""
    with temporary_folder() as folder:
        path = folder / FILE
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(
                f"BEGIN; PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {SCHEMA}; {_TABLES} COMMIT;"
            )
        return path.read_bytes()


def fill(file: BinaryIO) -> None:
    file.write(_empty_results())
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Convert an OSError from creating a file in the folder to an OutputError."""
    try:
        yield
    except OSError as e:
        raise OutputError(f"{folder}: cannot be written: {e.strerror}. Name another folder (--run).") from e


def not_ours(error: NotPlainError) -> OutputError:
    return OutputError(
        f"{error.filename}: is not a file of pa-lite: {error.strerror}. Move it, or use another folder (--run)."
    )


def check_files(path: Path) -> None:
    """Raise OutputError for links, files that are not regular, and companion files that a study does not leave.

    SQLite would follow links out of the folder, wait for pipes, and act on the content of companion files.
    """
    for ending, starts in {"": (), **_COMPANIONS}.items():
        each = path.with_name(path.name + ending)
        try:
            check_own(each)
            if ending and not os.path.lexists(path):
                raise NotPlainError(each, f"its {FILE} is missing")
            if ending:
                with _open_read(each) as file:
                    start = file.read(4)
                if start and ending == "-wal" and path.lstat().st_size == 0:
                    raise NotPlainError(each, f"its {FILE} is empty")
                if start and not starts:
                    raise NotPlainError(each, "a study does not leave one, and SQLite would roll back its pages")
                if start not in (b"", *starts):
                    raise NotPlainError(each, "it is not an SQLite file of this kind")
        except FileNotFoundError:
            pass
        except OSError as e:
            if not isinstance(e, NotPlainError):
                raise OutputError(f"{each}: cannot be read: {e.strerror}.") from e
            raise not_ours(e) from e


def copy_files(path: Path, copy: Path) -> None:
    """Copy a consistent state of the results and SQLite's log (`-wal`).

    Pages that SQLite moves from the log to the file meanwhile are in both, unless the log was restarted; then the copy
    is repeated. Raises InputError for files that are too large or not a study's, OSError.
    """
    log, copied = log_of(path), log_of(copy)
    for _ in range(_COPIES):
        before = _log_start(log)
        _copy_file(path, copy)
        copied.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            _copy_file(log, copied)
        if _log_start(copied) == before:
            return
        time.sleep(_PAUSE)
    raise OSError(errno.EBUSY, "it keeps changing", str(path))


def log_of(path: Path) -> Path:
    """Return the path of SQLite's log for a file."""
    return path.with_name(f"{path.name}-wal")


def check_size(path: Path, size: int) -> None:
    """Raise InputError for a file or log that is too large to read."""
    if size > _MOST_BYTES:
        raise InputError(
            f"{path}: has {size / 1e9:.1f} GB, more than the {_MOST_BYTES / 1e9:.1f} GB supported. Use another folder "
            "(--run) for some of the lams, tasks or types."
        )


def _log_start(log: Path) -> bytes:
    """Return the header of SQLite's log, which changes each time the log is restarted; empty without a log."""
    try:
        with _open_read(log) as file:
            return file.read(32)
    except FileNotFoundError:
        return b""


def _open_read(path: Path) -> BinaryIO:
    """Open a file in a run folder for reading, but no symbolic or hard link. Raises OSError, NotPlainError."""
    for _ in range(TRIES):
        seen = check_own(path)
        file = open_regular(path)
        if os.path.samestat(seen, os.fstat(file.fileno())):
            return file
        file.close()  # a running study replaced it between check and opening
    raise NotPlainError(path, "it is being replaced continually")


def _copy_file(path: Path, copy: Path) -> None:
    with _open_read(path) as source:
        size = os.fstat(source.fileno()).st_size
        check_size(path, size)
        if size > shutil.disk_usage(copy.parent).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        if path.name.endswith("-wal"):
            size = _log_end(source, size)
        else:
            _check_header(path, source, size)
        with copy.open("wb") as target:
            copy_bytes(source, target, size)  # without bytes that are appended meanwhile


def _log_end(source: BinaryIO, size: int) -> int:
    """Return where the valid pages of a log end: at the first page from before the log was restarted."""
    head = source.read(32)
    frame = int.from_bytes(head[8:12], "big") + 24
    at = min(len(head), size)
    while at + frame <= size and frame > 24:
        source.seek(at)
        mark = source.read(24)
        if mark[8:16] != head[16:24] or not any(mark[:4]):
            break
        at += frame
    source.seek(0)
    return at


def _check_header(path: Path, source: BinaryIO, size: int) -> None:
    """Raise InputError, before copying, for another program's database, or one longer than its header says.

    It may be shorter, as some pages may be only in the log. A killed 0.1.0 may leave a file that is empty, or without
    an application id in its header.
    """
    head = source.read(_HEADER_BYTES)
    source.seek(0)
    if not size:
        return
    application = int.from_bytes(head[68:72], "big")
    if len(head) < _HEADER_BYTES or not head.startswith(_MAGIC) or application not in (0, _APPLICATION):
        raise InputError(f"{path}: is not a pa-lite results file. Name another folder (--run).")
    page = int.from_bytes(head[16:18], "big")
    page = 1 << 16 if page == 1 else page
    pages = int.from_bytes(head[28:32], "big")
    if page < 512 or page & (page - 1):
        raise damaged(path, f"its header gives a page size of {page} bytes")
    # the page count is valid only if the two change counters agree; an older SQLite did not keep it
    if head[24:28] == head[92:96] and pages and size > max(pages * page, _SLACK):
        raise damaged(path, f"it has {size} bytes, but its header says {pages} pages of {page} bytes")


def copy_bytes(source: BinaryIO, target: BinaryIO, n: int) -> None:
    """Copy up to `n` bytes."""
    while n and (part := source.read(min(n, 1 << 20))):
        target.write(part)
        n -= len(part)


class Deadline:
    """A time limit for each query, far above what a valid file of that size takes."""

    def __init__(self, connection: sqlite3.Connection, size: int) -> None:
        self._seconds = _PATIENCE + size / _PATIENT_BYTES
        self.start()
        connection.set_progress_handler(lambda: time.thread_time() > self._end, _STEPS)

    def start(self) -> None:
        """Restart the time for the next query, which must run in this thread."""
        self._end = time.thread_time() + self._seconds


def connect(path: Path) -> sqlite3.Connection:
    """Open a private copy of an untrusted file with every protection that this SQLite version has."""
    uri = f"{Path(os.path.realpath(path.parent), path.name).as_uri()}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, timeout=30, isolation_level=None, check_same_thread=False)
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    for setting in ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0", "recursive_triggers = OFF"):
        connection.execute(f"PRAGMA {setting}")
    if sys.version_info >= (3, 11):
        for name, value in _LIMITS:
            connection.setlimit(getattr(sqlite3, f"SQLITE_LIMIT_{name}"), value)
    return connection
