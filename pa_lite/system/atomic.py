"""Files that are whole or not there: written under a temporary name, synced and renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pa_lite.errors import OutputError
from pa_lite.system.locks import UNABLE
from pa_lite.system.machine import soft_limit
from pa_lite.system.markers import ENDING, FILE, claimed, remove_marked, target_of
from pa_lite.system.opening import TooLargeError, create_file, is_at

NO_MARKER = "it has no marker of pa-lite"  # why something stays


def check_target(path: Path, force: bool = False, option: str = "-o") -> None:
    """Raise OutputError if a file cannot or must not be written there: no folder, no file of ours, or it exists.

    A folder, device, socket or pipe is refused even with `force`: a rename would put a file into its place. A link
    counts as a file, wherever it leads: with `force` it is replaced, and what it leads to stays. `option` is the one
    that names another place.
    """
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent}: there is no such folder to write {path.name} to.")
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file.")
    if path.exists() and not path.is_file():
        raise OutputError(f"{path}: is a device, socket or pipe; name a file.")
    if os.path.lexists(path) and not force:
        raise OutputError(f"{path}: exists already. Use --force to overwrite it, or {option} for another name.")


def in_the_way(path: Path, why: str, target: Path) -> OutputError:
    """Return the error for something at the name of a temporary file that is not known to be ours: it stays."""
    return OutputError(
        f"{path}: is in the way of {target.name}: {why}. Move it elsewhere or delete it yourself, or choose another "
        "output (-o)."
    )


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
    if error.errno == errno.EFBIG and not isinstance(error, TooLargeError):
        return told + file_limit()
    return told


def file_limit() -> str:
    """Return what to do where a file may not become larger: that this process has a limit, or that the disk has one."""
    most = soft_limit("RLIMIT_FSIZE")
    if most is None:
        return ": this disk takes no larger file. Write elsewhere"
    return f": no file may grow beyond {most / 1e6:.3g} MB here (ulimit -f). Allow more (ulimit -f unlimited)"


@contextlib.contextmanager
def write_errors(
    folder: Path, when_full: str = "nothing was left behind. Free some space, or write elsewhere with -o."
) -> Iterator[None]:
    """Turn an OSError of writing below `folder` into an OutputError; `when_full` tells what is left, and what to do."""
    try:
        yield
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(f"{folder}: the disk is full ({e.strerror}); {when_full}") from e
        if e.errno == errno.EFBIG:
            kept = when_full.partition(". ")[0]
            raise OutputError(f"{folder}: cannot be written: {system_words(e)}; {kept}.") from e
        if e.errno in (errno.EACCES, errno.EPERM, errno.EROFS):  # of a temporary name, which nobody gave
            raise OutputError(f"{folder}: cannot be written: {system_words(e)}.") from e
        raise OutputError(f"{e.filename or folder}: cannot be written: {system_words(e)}.") from e


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
        if e.errno not in UNABLE:
            raise
    finally:
        os.close(descriptor)


def reserve(file: BinaryIO, size: int) -> None:
    """Give an open file its final length, taking the disk space now where the system can: a full disk shows early."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.truncate(size)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A new file beside `path`, open to be written and synced by the caller; it becomes `path` if all went well.

    On any exception, Ctrl-C included, it is removed and `path` stays as it was. What killed processes left of their
    tries is removed first, where it can be. A link at `path` is replaced, not what it leads to.
    """
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):
            of = name.removesuffix(ENDING)
            if of != name and name.startswith(f".{path.name}.") and target_of(of) == path.name:
                with contextlib.suppress(OSError):
                    remove_marked(path.with_name(name))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    with claimed(temporary, FILE):
        try:
            with create_file(temporary) as file:
                yield file
                file.flush()
                if not is_at(file.fileno(), temporary):
                    raise OutputError(f"{path}: another program removed or replaced the file that was being written.")
                if os.name != "posix":
                    file.close()  # there an open file cannot be renamed
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole, as UTF-8; a lone surrogate, which UTF-8 has not, is written out. See write_bytes."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole. Raises OutputError when it cannot be written; see check_target for refusals."""
    with write_errors(path.parent), whole_file(path) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
