"""The lock of a run folder: only one process at a time writes a study there."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from pa_lite.errors import OutputError
from pa_lite.system.opening import NotPlainError, open_or_create

LOCK = "study.lock"
_TEXT = b"pa-lite: held while a study is written\n"  # 0.1.0 left it empty


def open_lock(path: Path) -> tuple[BinaryIO, bool]:
    """Return the open lock file, and whether it was created. Raises NotPlainError for a file that is not ours."""
    lock, is_new = open_or_create(path, _TEXT)
    if not is_new and lock.read(len(_TEXT) + 1) not in (b"", _TEXT):
        lock.close()
        raise NotPlainError(path, "it is not a pa-lite lock file")
    return lock, is_new


def take_run(lock: BinaryIO, folder: Path) -> None:
    """Lock the folder for this process until the file is closed. Raises OutputError when another process holds it."""
    message = f"{folder}: another process is running a study there. Wait for it, or name another folder (--run)."
    try:
        import fcntl
    except ImportError:
        import msvcrt

        try:
            msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError:
            raise OutputError(message) from None
        return
    try:
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError(message) from None
