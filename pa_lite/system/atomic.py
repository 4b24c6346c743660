"""Write files atomically: under a temporary name, then synced and renamed, so that none is ever half-written."""

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

NO_MARKER = "it has no marker of pa-lite"  # why something is not removed


def check_target(path: Path, force: bool = False, option: str = "-o") -> None:
    """Raise OutputError if a file cannot or must not be written to `path`.

    That is: its folder does not exist, it exists and `force` is not set, or it is a folder, device, socket or pipe,
    which a rename would replace by a file, so `force` does not help. A link counts as a file: with `force` the link is
    replaced and its target stays. `option` names the command-line option that chooses another path.
    """
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent}: the folder to write {path.name} to does not exist.")
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file.")
    if path.exists() and not path.is_file():
        raise OutputError(f"{path}: is a device, socket or pipe; name a file.")
    if os.path.lexists(path) and not force:
        raise OutputError(f"{path}: exists already. Use --force to overwrite it, or {option} for another name.")


def in_the_way(path: Path, why: str, target: Path) -> OutputError:
    """Return the error for a path that a temporary file needs and that something else already has."""
    return OutputError(
        f"{path}: is in the way of {target.name}: {why}. Move it or delete it yourself, or choose another output (-o)."
    )


def check_space(folder: Path, needed: int) -> None:
    """Raise OutputError unless the folder's disk has `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{folder}: needs {needed / 1e6:.0f} MB of disk space, {free / 1e6:.0f} MB are free. "
            "Free some space, or write elsewhere with -o."
        )


def existing_parent(folder: Path) -> Path:
    """Return the folder, or its nearest parent that exists, to ask for the free space of the disk."""
    folder = folder.absolute()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder


def system_words(error: OSError) -> str:
    """Return the system's words for an error, and what to do where they do not say enough, without a full stop."""
    words = error.strerror or str(error)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{words}. Close some, or allow more (ulimit -n 4096)"
    if error.errno == errno.EFBIG and not isinstance(error, TooLargeError):
        return words + file_limit()
    return words


def file_limit() -> str:
    """Return whether this process or the disk limits file sizes, and what to do, as the end of a message."""
    most = soft_limit("RLIMIT_FSIZE")
    if most is None:
        return ": this disk does not accept larger files. Write elsewhere"
    return f": files may not exceed {most / 1e6:.3g} MB here (ulimit -f). Allow more (ulimit -f unlimited)"


@contextlib.contextmanager
def write_errors(
    folder: Path, when_full: str = "nothing was left behind. Free some space, or write elsewhere with -o."
) -> Iterator[None]:
    """Turn an OSError of writing below `folder` into an OutputError.

    `when_full` says what a full disk has left behind, and what to do.
    """
    try:
        yield
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(f"{folder}: the disk is full ({e.strerror}); {when_full}") from e
        if e.errno == errno.EFBIG:
            kept = when_full.partition(". ")[0]
            raise OutputError(f"{folder}: cannot be written: {system_words(e)}; {kept}.") from e
        if e.errno in (errno.EACCES, errno.EPERM, errno.EROFS):  # the path is a temporary one that users do not know
            raise OutputError(f"{folder}: cannot be written: {system_words(e)}.") from e
        raise OutputError(f"{e.filename or folder}: cannot be written: {system_words(e)}.") from e


def sync_folder(folder: Path) -> None:
    """Sync a folder's entries to the disk where possible, so that a file renamed into it survives a crash."""
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return  # a folder may be writable and not readable
    try:
        os.fsync(descriptor)
    except OSError as e:
        if e.errno not in UNABLE:
            raise
    finally:
        os.close(descriptor)


def reserve(file: BinaryIO, size: int) -> None:
    """Give an open file its final size (bytes), allocating it now where the system can, so a full disk fails early."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.truncate(size)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new temporary file next to `path` for the caller to write and sync; rename it to `path` on success.

    On any exception, Ctrl-C included, it is removed and `path` stays unchanged. Temporary files of killed processes for
    the same path are removed first. A link at `path` is replaced, not its target.
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
                    file.close()  # Windows cannot rename an open file
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8, with lone surrogates escaped. See write_bytes."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically. Raises OutputError when it cannot be written; see check_target for refusals."""
    with write_errors(path.parent), whole_file(path) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
