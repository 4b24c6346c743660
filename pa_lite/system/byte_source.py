"""Where bytes are read from: a file on the disk, or one elsewhere that is read in ranges. Below all file formats."""

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
    """What a file was at a moment: its size in bytes, and when it was last written, in nanoseconds.

    Not its number on the disk: network file systems give a file another one now and then.
    """

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, facts: os.stat_result) -> Stamp:
        return cls(facts.st_size, facts.st_mtime_ns)


class RemoteSource(Protocol):
    """A file that stays where it is and never changes: its bytes are asked for in ranges."""

    @property
    def name(self) -> str:
        """The file's own name, without folders."""
        ...

    @property
    def size(self) -> int:
        """Its length in bytes."""
        ...

    @property
    def etag(self) -> str:
        """What tells its content from every other."""
        ...

    def read_into(self, buffer: memoryview, offset: int, stop: threading.Event | None = None) -> None:
        """Fill the buffer, bytes, from byte `offset` on; when `stop` is set, end with an error soon."""
        ...

    def open(self, mode: str = "rb") -> BinaryIO:
        """Return the file open for reading from its start on, buffered."""
        ...


ByteSource = Path | RemoteSource


def is_remote(source: ByteSource) -> TypeGuard[RemoteSource]:
    """Return whether the bytes lie elsewhere than on a disk of this machine."""
    return not isinstance(source, Path)


@contextlib.contextmanager
def read_errors(source: ByteSource) -> Iterator[None]:
    """Turn what the system says of a file that cannot be read into a CheckpointError that names it."""
    try:
        yield
    except FileNotFoundError:
        raise CheckpointError(f"{source}: there is no such file.") from None
    except OSError as e:
        raise CheckpointError(f"{source}: cannot be read: {e.strerror}.") from e


def size_of(source: ByteSource) -> int:
    """Return a file's length in bytes. Raises OSError, also for what opening could wait on for ever."""
    if not isinstance(source, Path):
        return source.size
    facts = source.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(errno.EINVAL, "is no regular file", str(source))
    return facts.st_size


def open_file(source: ByteSource) -> BinaryIO:
    """Open a file to read, wherever it lies. Raises OSError, also for anything but a regular file."""
    return open_regular(source) if isinstance(source, Path) else source.open()


def stamp_of(source: ByteSource) -> Stamp | None:
    """Return what a file on the disk is now; None for one elsewhere, which stays as it is. Raises OSError."""
    return Stamp.of(source.stat()) if isinstance(source, Path) else None


def samples(source: ByteSource, offsets: Sequence[int], length: int) -> list[bytes]:
    """Return at most `length` bytes from each offset on, several at a time where the file is far away."""
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
