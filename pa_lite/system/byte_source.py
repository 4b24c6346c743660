"""Read bytes from local files, or from remote files in ranges; all file formats are read through this."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, TypeGuard

from pa_lite.errors import CheckpointError
from pa_lite.system.opening import open_regular

CONNECTIONS = 8  # requests at a time


@dataclass(frozen=True)
class Stamp:
    """A file's size in bytes and its time of last modification in nanoseconds, to detect changes.

    The inode number is left out, as network file systems may change it.
    """

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, facts: os.stat_result) -> Stamp:
        return cls(facts.st_size, facts.st_mtime_ns)


class RemoteSource(Protocol):
    """A remote file that never changes, read in byte ranges."""

    @property
    def name(self) -> str:
        """The file's name, without folders."""
        ...

    @property
    def size(self) -> int:
        """The file's size in bytes."""
        ...

    @property
    def etag(self) -> str:
        """The identifier of the file's content."""
        ...

    def read_into(self, buffer: memoryview, offset: int, stop: threading.Event | None = None) -> None:
        """Fill the buffer with the bytes from `offset` on; fail soon after `stop` is set."""
        ...

    def open(self, mode: str = "rb") -> BinaryIO:
        """Return the file, opened for buffered reading at its start."""
        ...


ByteSource = Path | RemoteSource


def is_remote(source: ByteSource) -> TypeGuard[RemoteSource]:
    """Return whether a source is a remote file, and not a path."""
    return not isinstance(source, Path)


@contextlib.contextmanager
def read_errors(source: ByteSource) -> Iterator[None]:
    """Turn what the system says of a file that cannot be read into a CheckpointError that names it."""
    try:
        yield
    except FileNotFoundError:
        raise CheckpointError(f"{source}: does not exist.") from None
    except OSError as e:
        raise CheckpointError(f"{source}: cannot be read: {e.strerror}.") from e


def size_of(source: ByteSource) -> int:
    """Return a file's size in bytes. Raises OSError, also for what is not a regular file: opening it could block."""
    if not isinstance(source, Path):
        return source.size
    facts = source.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(errno.EINVAL, "is not a regular file", str(source))
    return facts.st_size


def open_file(source: ByteSource) -> BinaryIO:
    """Open a local or remote file for reading. Raises OSError, also for what is not a regular file."""
    return open_regular(source) if isinstance(source, Path) else source.open()


def stamp_of(source: ByteSource) -> Stamp | None:
    """Return the current stamp of a local file, None for a remote one, which never changes. Raises OSError."""
    return Stamp.of(source.stat()) if isinstance(source, Path) else None


def samples(source: ByteSource, offsets: Sequence[int], length: int) -> list[bytes]:
    """Return at most `length` bytes from each offset on; remote files are read with several requests at a time."""
    if not isinstance(source, Path):
        remote = source

        def read(offset: int) -> bytes:
            held = bytearray(max(0, min(length, remote.size - offset)))
            remote.read_into(memoryview(held), offset)
            return bytes(held)

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            return list(pool.map(read, offsets))
    out = []
    with open_file(source) as f:
        for offset in offsets:
            f.seek(offset)
            out.append(f.read(length))
    return out
