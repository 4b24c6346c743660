"""Open regular files safely: without blocking, and without links where the program writes.

In a folder that others can write to, any name may be a link, a named pipe or a device.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from pa_lite.system.locks import UNABLE, take_lock

TRIES = 100  # attempts to open a file that other processes create and remove meanwhile
MOST_BYTES = 1 << 30  # of a file that is read at once, such as answers; parsed JSON takes several times that
_PIECE = 1 << 16  # bytes read at a time beyond the size that the system reported
MOST_TOML_BYTES = 1 << 24  # Python's TOML reader takes a second for a few MB
# flags that a system lacks are 0; there only the checks before and after opening protect
_PRIVATE = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOINHERIT", 0) | getattr(os, "O_BINARY", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_UNNAMED = getattr(os, "O_TMPFILE", 0)
_FILE_TYPES = (
    (stat.S_ISLNK, "link"), (stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "named pipe"), (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"), (stat.S_ISBLK, "device"),
)  # fmt: skip


class NotPlainError(OSError):
    """A path is not a regular file, or is a file with a second name (a hard link); `strerror` says what it is."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(errno.EINVAL, what, str(path))
        self.what = what


class TooLargeError(OSError):
    """A file is too large to be read at once; `strerror` gives its size and the limit."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(errno.EFBIG, what, str(path))


def type_of(facts: os.stat_result) -> str | None:
    """Return what kind of thing is not a regular file, such as `named pipe`; None for a regular file."""
    if getattr(facts, "st_file_attributes", 0) & getattr(stat, "FILE_ATTRIBUTE_REPARSE_POINT", 0):
        return "link"  # a link or junction of Windows
    if stat.S_ISREG(facts.st_mode):
        return None
    return next((name for test, name in _FILE_TYPES if test(facts.st_mode)), "device")


def is_link(path: Path) -> bool:
    """Return whether a path is a link or junction; False for a missing one. Raises OSError."""
    try:
        return type_of(path.lstat()) == "link"
    except FileNotFoundError:
        return False


def _check_type(path: Path, facts: os.stat_result) -> None:
    file_type = type_of(facts)
    if file_type is not None:
        raise NotPlainError(path, f"it is a {file_type}, not a regular file")


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, following links, without ever waiting for another process.

    Raises NotPlainError for a folder, named pipe, socket or device, other OSErrors as `open` does.
    """
    return os.fdopen(descriptor_of(path), "rb")


def descriptor_of(path: Path) -> int:
    """Return the descriptor of a regular file, opened for reading. See open_regular."""
    _check_type(path, path.stat())  # before opening: opening a device can have effects
    descriptor = os.open(path, os.O_RDONLY | _PRIVATE | _NO_WAIT)
    try:
        _check_type(path, os.fstat(descriptor))  # another file may have the name by now
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_regular(path: Path, most: int = MOST_BYTES) -> bytes:
    """Return a regular file's content. See open_regular.

    Raises TooLargeError for more than `most` bytes, before anything is read, and for more than fits in memory.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise TooLargeError(path, f"it has {size / 1e6:.3g} MB; the limit is {most / 1e6:.3g} MB")
        try:
            parts = [file.read(size)]
            while part := file.read(_PIECE):  # what was appended meanwhile, or all where the system reports no size
                parts.append(part)
                size += len(part)
                if size > most:
                    raise TooLargeError(path, f"it is growing beyond the limit of {most / 1e6:.3g} MB")
            return b"".join(parts) if len(parts) > 1 else parts[0]
        except MemoryError as e:
            raise TooLargeError(path, f"its {size / 1e6:.3g} MB do not fit in memory") from e


def read_at_most(file: BinaryIO, most: int) -> bytes:
    """Return what follows in an open file, at most `most` bytes."""
    return file.read(min(most, os.fstat(file.fileno()).st_size))  # `read` allocates as many bytes as it is asked for


def open_own(path: Path, append: bool = False) -> BinaryIO:
    """Open one of the program's files, whose name others can predict, for reading and writing.

    Raises NotPlainError for a link, for what is not a regular file, and for a file with a second name (a hard link):
    writing would change a file elsewhere. Other OSErrors as `open` does.
    """
    check_own(path)
    flags = os.O_RDWR | _PRIVATE | _NO_WAIT | _NO_LINK | (os.O_APPEND if append else 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as e:
        if e.errno in (errno.ELOOP, errno.EMLINK):  # it became a link just now
            raise NotPlainError(path, "it is a link, not a regular file") from e
        raise
    try:
        _check_own(path, os.fstat(descriptor))
        return os.fdopen(descriptor, "a+b" if append else "r+b")
    except BaseException:
        os.close(descriptor)
        raise


def check_own(path: Path) -> os.stat_result:
    """Return the stat result of a file that `open_own` would open. Raises what it raises."""
    facts = path.lstat()
    _check_own(path, facts)
    return facts


def _check_own(path: Path, facts: os.stat_result) -> None:
    _check_type(path, facts)
    if facts.st_nlink > 1:
        raise NotPlainError(path, "it is a hard link: the file also has another name")


def create_file(
    path: Path,
    content: bytes | Callable[[BinaryIO], None] = b"",
    lock: bool = False,
    append: bool = False,
    mode: int = 0o666,
) -> BinaryIO:
    """Create a file and return it open for reading and writing. Raises FileExistsError if the path exists.

    `content` is written and, with `lock`, the file locked before it gets its name, where the system can do that
    (Linux): no other process ever sees it empty or unlocked. After an error the file is removed. `mode` is its
    permissions, of which the process's mask leaves some out.
    """
    more = _PRIVATE | (os.O_APPEND if append else 0)
    how = "a+b" if append else "r+b"
    if _UNNAMED and not os.path.lexists(path):
        with contextlib.suppress(_CannotError):
            return _create_unnamed(path, content, lock, os.O_RDWR | _UNNAMED | more, how, mode)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINK | more, mode)
    file: BinaryIO = os.fdopen(descriptor, how)  # type: ignore[assignment]
    try:
        _fill(file, content, lock)
    except BaseException:
        remove_open(file, path)
        file.close()
        raise
    return file


def open_or_create(
    path: Path,
    content: bytes | Callable[[BinaryIO], None] = b"",
    lock: float | None = None,
    append: bool = False,
    mode: int = 0o666,
) -> tuple[BinaryIO, bool]:
    """Open one of pa-lite's own files, created with `content` and `mode` if missing; return it and whether it is new.

    With `lock` it is locked; BlockingIOError is raised if another process holds it for more than `lock` seconds.
    Raises NotPlainError as `open_own` does, other OSErrors.
    """
    for _ in range(TRIES):
        with contextlib.suppress(FileExistsError):
            return create_file(path, content, lock is not None, append, mode), True
        try:
            file = open_own(path, append)
        except FileNotFoundError:
            continue
        try:
            is_held = None if lock is None else take_lock(file.fileno(), lock)
            if is_held is False:
                raise BlockingIOError(errno.EAGAIN, "another process has it", str(path))
            if is_held is None or is_at(file.fileno(), path):
                return file, False
        except BaseException:
            file.close()
            raise
        file.close()  # it was removed between our opening and locking
    raise NotPlainError(path, "it is removed and made again all the time")


class _CannotError(Exception):
    """This file system does not support files without a name."""


def _create_unnamed(
    path: Path, content: bytes | Callable[[BinaryIO], None], lock: bool, flags: int, how: str, mode: int
) -> BinaryIO:
    try:
        descriptor = os.open(path.parent, flags, mode)
    except OSError as e:
        if e.errno in (*UNABLE, errno.EISDIR, errno.ENOENT, errno.EPERM, errno.EACCES):
            raise _CannotError from e
        raise
    file: BinaryIO = os.fdopen(descriptor, how)  # type: ignore[assignment]
    try:
        _fill(file, content, lock)
        try:
            # Python follows the link in /proc only if a descriptor is given; with an absolute path it is not used
            os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor, follow_symlinks=True)
        except FileExistsError:
            raise
        except OSError as e:
            raise _CannotError from e
    except BaseException:
        file.close()
        raise
    return file


def _fill(file: BinaryIO, content: bytes | Callable[[BinaryIO], None], lock: bool) -> None:
    if lock:
        take_lock(file.fileno())
    if callable(content):
        content(file)
    else:
        file.write(content)
    file.flush()


def remove_open(file: BinaryIO, path: Path) -> bool:
    """Remove an open file if it still has that name; return whether it did. On Windows this closes it first."""
    if not is_at(file.fileno(), path):
        return False
    if os.name != "posix":
        file.close()
    path.unlink(missing_ok=True)
    return True


def is_at(descriptor: int, path: Path) -> bool:
    """Return whether an open file still has that name: another process may have renamed or removed it."""
    try:
        held, there = os.fstat(descriptor), os.lstat(path)
    except FileNotFoundError:
        return False
    if os.name != "posix":
        return type_of(there) is None  # on Windows an open file cannot be replaced, and inodes are not always reported
    return (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino)
