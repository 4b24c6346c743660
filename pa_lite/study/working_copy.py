"""Writing of results: SQLite works on a private copy, and its log is appended to the one in the run folder.

SQLite acts on its companion files (`-journal`, `-wal`, `-shm`): it applies or rolls back their pages and deletes files
that they name. Anyone who can write a run folder could put such a file there at any moment, even between a check and
SQLite's opening. So SQLite opens no file there, only a copy in a folder of this user. After each commit the new part of
its log (`-wal`) is appended to the log in the run folder, and synced. Results and log there are always in a state that
SQLite itself would leave: a killed run resumes from them, and any version of pa-lite reads them. From time to time, and
at the end, the results are replaced by the whole copy, and a new log is started.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from pa_lite.errors import OutputError
from pa_lite.study.results_file import check_files, check_size, connect, copy_bytes, log_of, not_ours
from pa_lite.system.atomic import sync_folder, whole_file, write_errors
from pa_lite.system.interrupts import uninterrupted
from pa_lite.system.opening import NotPlainError, create_file, is_at

_LOG_BYTES = 16 << 20  # a log longer than this plus the results is replaced together with them
_HEADER, _FRAME = 32, 24  # bytes of the headers of a log and of each page in it, in SQLite's file format
_IN_WAL_MODE = b"\2\2"  # at byte 18 of a database
_SETTINGS = ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "wal_autocheckpoint = 0", "synchronous = OFF")
_PATIENCE = 10.0  # seconds to wait for readers where an open file cannot be replaced (Windows)
_PAUSE = 0.1


class WorkingCopy:
    """The results at `path` and their private copy, which SQLite has open. Not safe for several threads at a time.

    `replace` makes a new `connection`. Methods raise OutputError when the run folder cannot be written.
    """

    def __init__(self, path: Path, copy: Path) -> None:
        self.path, self.copy = path, copy
        self._log: BinaryIO | None = None  # in the run folder
        self._published = 0  # bytes of the copy's log that are in the run folder's log
        self._is_lost = False  # a replacement failed, so that the copy's log does not match the run folder's results
        needs_replacing = any(os.path.lexists(each) for each in _companions(path)) or not _is_in_wal_mode(copy)
        self.connection = self._connected()
        if needs_replacing:
            self.replace()

    def publish(self) -> None:
        """Write and sync all commits to the run folder."""
        with _writing(self.path):
            self._publish()
        size = self.copy.stat().st_size
        check_size(self.path, (size + self._published) * 9 // 8)  # before it becomes too large to read
        if self._published > _LOG_BYTES + size and shutil.disk_usage(self.path.parent).free > 2 * size:
            self.replace()

    def replace(self) -> None:
        """Replace the results in the run folder by the whole copy, and start a new log."""
        with _writing(self.path), uninterrupted():
            self._publish()
            self._replace()

    def close(self) -> None:
        """Publish the rest and merge the log into the results, unless the disk is too full; then the log stays."""
        try:
            self.publish()
            if self._log is not None:
                with contextlib.suppress(OutputError):
                    self.replace()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close all files without writing."""
        self.connection.close()
        self._close_log()

    def _connected(self) -> sqlite3.Connection:
        connection = connect(self.copy)
        for setting in _SETTINGS:
            connection.execute(f"PRAGMA {setting}")
        return connection

    def _publish(self) -> None:
        """Append the new part of the copy's log, up to the last commit, to the log in the run folder."""
        if self._is_lost:
            raise OutputError(f"{self.path}: could not be replaced. Run the same command again.")
        end = self._committed()
        if end <= self._published:
            return
        if self._log is None:
            self._log = _new_log(self.path)
        elif not is_at(self._log.fileno(), log_of(self.path)):
            self._replace()  # another SQLite program opened the results, which moved the log into them
            return
        with log_of(self.copy).open("rb") as source:
            source.seek(self._published)
            self._log.seek(self._published)
            copy_bytes(source, self._log, end - self._published)
        self._log.flush()
        os.fsync(self._log.fileno())
        self._published = end

    def _committed(self) -> int:
        """Return the offset of the end of the last commit in the copy's log.

        The frame of a commit's last page contains the number of pages of the database, other frames 0. Pages of a
        rolled-back transaction may follow, until the next one overwrites them.
        """
        end = self._published
        try:
            log = log_of(self.copy).open("rb")
        except FileNotFoundError:
            return end
        with log:
            header = log.read(_HEADER)
            size = int.from_bytes(header[8:12], "big") + _FRAME
            at = max(_HEADER, end)
            while len(frame := _read_at(log, at, _FRAME)) == _FRAME and frame[8:16] == header[16:24]:
                at += size
                if any(frame[4:8]):
                    end = at
        return end

    def _replace(self) -> None:
        check_files(self.path)
        self._is_lost = True
        self.connection.close()  # SQLite moves the log into the copy
        try:
            left = log_of(self.copy)
            if left.exists() and left.stat().st_size:
                raise OutputError(f"{self.copy.parent}: the disk is full or failing. Finished results are kept.")
            self._close_log()
            replace_results(self.path, self._fill)
            self._published, self._is_lost = 0, False
        finally:
            self.connection = self._connected()

    def _fill(self, file: BinaryIO) -> None:
        with self.copy.open("rb") as source:
            copy_bytes(source, file, self.copy.stat().st_size)

    def _close_log(self) -> None:
        if self._log is not None:
            with contextlib.suppress(OSError):  # write errors were reported when they occurred
                self._log.close()
            self._log = None


def replace_results(path: Path, fill: Callable[[BinaryIO], None]) -> None:
    """Replace a results file by what `fill` writes, and remove the log of the old one. Raises OSError.

    The new file must include the changes in the old log (or the old file and log be empty): a process that is killed in
    between leaves the old log next to the new file, and SQLite applies it.
    """
    mode = stat.S_IMODE(path.lstat().st_mode)
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            with whole_file(path) as file:
                if hasattr(os, "fchmod"):
                    with contextlib.suppress(OSError):  # file systems without permissions
                        os.fchmod(file.fileno(), mode)
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            break
        except PermissionError:
            if os.name == "posix" or time.monotonic() > end:
                raise
            time.sleep(_PAUSE)
    for each in _companions(path):
        each.unlink(missing_ok=True)


def _companions(path: Path) -> tuple[Path, Path]:
    return log_of(path), path.with_name(f"{path.name}-shm")


def _is_in_wal_mode(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(20)[18:] == _IN_WAL_MODE


def _read_at(file: BinaryIO, at: int, n: int) -> bytes:
    file.seek(at)
    return file.read(n)


def _new_log(path: Path) -> BinaryIO:
    """Create the log in the run folder. Raises NotPlainError when another program has created one with content."""
    log = log_of(path)
    check_files(path)
    if os.path.lexists(log):
        if log.lstat().st_size:
            raise NotPlainError(log, "another program is changing the results")
        log.unlink(missing_ok=True)
    file = create_file(log)
    sync_folder(log.parent)
    return file


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Convert errors from writing in the run folder to ours."""
    when_full = "finished results are kept. Free some space, and run the same command again."
    with write_errors(path.parent, when_full):
        try:
            yield
        except NotPlainError as e:
            raise not_ours(e) from e
        except FileExistsError as e:
            raise not_ours(NotPlainError(Path(e.filename), "another program has just created it")) from e
