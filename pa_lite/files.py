"""Files that are whole or not there: temporary names, locked, synced and renamed. Imports only errors."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import secrets
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from pa_lite.errors import OutputError

FOLDER_PREFIX = "pa-lite-"  # of folders among the system's temporary files
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{12}\.part")
_SETTLED = 60.0  # seconds after which a folder of ours is locked, or nobody's
_ABANDONED = 86400.0  # seconds without a change that make a file nobody's where nothing can be locked
PATIENCE = 0.5  # seconds for which a lock may be held by who only looks whether it is
_PAUSE = 0.02  # seconds
# what file systems answer that cannot lock or sync such a thing; NFS locks nothing that is open to read alone (EBADF)
_UNABLE = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF)


def check_target(path: Path, force: bool = False, option: str = "-o") -> None:
    """Raise OutputError if a file cannot or must not be written there: no folder, no file of ours, or it exists.

    A folder, device, socket or pipe is refused even with `force`: a rename would put a file into its place. `option` is
    the one that names another place.
    """
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent}: there is no such folder to write {path.name} to.")
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file.")
    if path.exists() and not path.is_file():
        raise OutputError(f"{path}: is a device, socket or pipe; name a file.")
    if path.exists() and not force:
        raise OutputError(f"{path}: exists already. Use --force to overwrite it, or {option} for another name.")


def check_space(folder: Path, needed: int) -> None:
    """Raise OutputError unless the folder's disk has `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{folder}: {needed / 1e6:.0f} MB are needed there, {free / 1e6:.0f} MB are free. "
            "Free some space, or write elsewhere with -o."
        )


def existing_parent(folder: Path) -> Path:
    """The folder, or the nearest above it that exists: where its disk's free space can be asked for."""
    folder = folder.absolute()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder


def system_words(error: OSError) -> str:
    """What the system says went wrong, without a full stop; and what to do, where that says too little."""
    told = error.strerror or str(error)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{told}. Close some, or allow more (ulimit -n 4096)"
    return told


@contextlib.contextmanager
def write_errors(
    folder: Path, when_full: str = "nothing was left behind. Free some space, or write elsewhere with -o."
) -> Iterator[None]:
    """Turn an OSError of writing below `folder` into an OutputError; `when_full` tells what is left, and what to do."""
    try:
        yield
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OutputError(f"{folder}: the disk is full ({e.strerror}); {when_full}") from e
        raise OutputError(f"{e.filename or folder}: cannot be written: {system_words(e)}.") from e


@contextlib.contextmanager
def uninterrupted() -> Iterator[Callable[[], bool]]:
    """Put Ctrl-C off until the block is through, which gets a function that tells whether one is due.

    Does nothing outside the main thread, which alone is interrupted.
    """
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            handler(*came[0])


@dataclass(frozen=True)
class Stamp:
    """What a file was at a moment: its size in bytes, and when it was last written, in nanoseconds.

    Not its number on the disk: network file systems give a file another one now and then.
    """

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, facts: os.stat_result) -> Stamp:
        return cls(facts.st_size, facts.st_mtime_ns)


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk, where that can be: a file that was renamed there then survives a crash."""
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return  # one may write there and not read
    try:
        os.fsync(descriptor)
    except OSError as e:
        if e.errno not in _UNABLE:
            raise
    finally:
        os.close(descriptor)


def take_lock(descriptor: int, patience: float = 0.0) -> bool | None:
    """Lock an open file or folder against other processes until it is closed, also by the process' death.

    False when another has it for longer than `patience`, in seconds; None where the system or the file system has no
    such locks.
    """
    try:
        import fcntl
    except ImportError:
        return None
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(_PAUSE)
        except OSError as e:
            if e.errno in _UNABLE:
                return None
            raise
        else:
            return True


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one of that name: another process may have renamed or removed it."""
    try:
        held, there = os.fstat(descriptor), os.lstat(path)
    except FileNotFoundError:
        return False
    return (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino)


def open_locked(path: Path) -> BinaryIO:
    """Open a temporary file to append to and to read, made if need be, and lock it, so that nobody removes it.

    Waits for a process that has it; who removes leftovers has it for a moment.
    """
    while True:
        file = path.open("a+b")
        try:
            if take_lock(file.fileno(), math.inf) is None or is_at(file.fileno(), path):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # it was removed between our opening and locking


def is_free(path: Path) -> bool:
    """Whether no process that lives holds a temporary file or folder of ours. See remove_if_free."""
    return _if_free(path, lambda: None)


def remove_if_free(path: Path, *companions: Path) -> bool:
    """Remove a temporary file or folder of ours, and what belongs to it, unless a process holds it.

    Returns whether it was removed. Where nothing can be locked, what was not written to for a day counts as nobody's.
    Raises OSError.
    """

    def remove() -> None:
        for each in companions:
            each.unlink(missing_ok=True)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    return _if_free(path, remove)


def _if_free(path: Path, then: Callable[[], None]) -> bool:
    """Call `then` while we hold the lock, if nobody else does."""
    if os.name != "posix":
        if age_of(path) < _ABANDONED:
            return False
        then()
        return True
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        locked = take_lock(descriptor)
        free = age_of(path) >= _ABANDONED if locked is None else locked and not _is_being_made(path)
        if free and is_at(descriptor, path):
            then()
            return True
        return False
    finally:
        os.close(descriptor)


def age_of(path: Path) -> float:
    """Seconds since a file or folder was written to, by the clock; 0 for one of the future."""
    return max(0.0, time.time() - path.lstat().st_mtime)


def _is_being_made(path: Path) -> bool:
    """Whether a folder is so new that its process, which lives, may not have locked it yet."""
    found = re.match(rf"{FOLDER_PREFIX}(\d+)-", path.name)
    if found is None or age_of(path) >= _SETTLED:
        return False
    try:
        os.kill(int(found[1]), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder among the system's temporary files, ours as long as we live, and removed at the end.

    One that a killed process left is told from it: nobody holds its lock.
    """
    with tempfile.TemporaryDirectory(prefix=f"{FOLDER_PREFIX}{os.getpid()}-") as folder, locked_folder(Path(folder)):
        yield Path(folder)


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Keep a folder locked, so that nobody takes it for a leftover."""
    if os.name != "posix":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        take_lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def target_of(temporary: Path) -> str | None:
    """The name of the file that a temporary one of whole_file was to become; None for any other file."""
    found = _TEMPORARY.fullmatch(temporary.name)
    return found[1] if found else None


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, to be written and synced by the caller; it becomes `path` if all went well.

    On any exception, Ctrl-C included, it is removed and `path` stays as it was. What killed processes left of their
    tries is removed first, where it can be.
    """
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):
            if name.startswith(f".{path.name}.") and target_of(Path(name)) == path.name:
                remove_if_free(path.with_name(name))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    lock: BinaryIO | None = None
    try:
        lock = open_locked(temporary)  # within the try: an interrupt right behind it leaves nothing either
        if os.name != "posix":
            lock.close()  # there an open file cannot be renamed
        yield temporary
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
        if lock is not None:
            lock.close()


def write_text(path: Path, text: str) -> None:
    """Write a text file whole, as UTF-8. See write_bytes."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole. Raises OutputError when it cannot be written; see check_target for refusals."""
    with write_errors(path.parent), whole_file(path) as temporary, temporary.open("wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
