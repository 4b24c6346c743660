"""Files that stay on the Hub: read in ranges, where other checkpoints' files lie on the disk."""

from __future__ import annotations

import errno
import io
import stat
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from pa_lite.checkpoints.hub.http import FileFacts, Subject
from pa_lite.checkpoints.hub.ranges import RemoteContent
from pa_lite.system.atomic import Stamp
from pa_lite.system.opening import open_regular

CONNECTIONS = 8  # requests at a time
_BUFFER = 1 << 18  # bytes asked for at once where a header is read piece by piece


class RemoteFile:
    """A file of one commit on the Hub. It has a path's `name` and `open`, and is equal to itself alone.

    Whatever is read belongs to one content, that of `facts`; see RemoteContent for what is raised otherwise.
    """

    def __init__(self, subject: Subject, facts: FileFacts) -> None:
        assert subject.file is not None
        self.subject, self.size, self.etag = subject, facts.size, facts.etag
        self.name = subject.file.rpartition("/")[2]
        self._content = RemoteContent(subject, facts)

    def __str__(self) -> str:
        return f"{self.subject}/{self.subject.file}"

    def read_into(self, buffer: memoryview, offset: int, stop: threading.Event | None = None) -> None:
        """Fill the buffer, bytes, from byte `offset` on. Raises HubError; when `stop` is set, ends with one soon."""
        for piece in self._content.pieces(offset, offset + len(buffer), stop):
            buffer[: len(piece)] = piece
            buffer = buffer[len(piece) :]

    def open(self, mode: str = "rb") -> BinaryIO:
        """The file for reading from its start on, buffered."""
        assert mode == "rb"
        return io.BufferedReader(_Raw(self), _BUFFER)


class _Raw(io.RawIOBase):
    def __init__(self, file: RemoteFile) -> None:
        self._file, self._position = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        n = max(0, min(len(buffer), self._file.size - self._position))
        self._file.read_into(memoryview(buffer)[:n].cast("B"), self._position)
        self._position += n
        return n


FilePath = Path | RemoteFile


def size_of(path: FilePath) -> int:
    """A file's length in bytes. Raises OSError when it cannot be told, or for what opening could wait on for ever."""
    if isinstance(path, RemoteFile):
        return path.size
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    return facts.st_size


def open_file(path: FilePath) -> BinaryIO:
    """Open a file to read, on the disk or on the Hub. Raises OSError, also for anything but a regular file."""
    return path.open() if isinstance(path, RemoteFile) else open_regular(path)


def stamp_of(path: FilePath) -> Stamp | None:
    """What a file on the disk is now; None for one on the Hub, which stays as it is. Raises OSError."""
    return None if isinstance(path, RemoteFile) else Stamp.of(path.stat())


def samples(path: FilePath, offsets: Sequence[int], length: int) -> list[bytes]:
    """At most `length` bytes from each offset on, several at a time where the file is far away."""
    if isinstance(path, RemoteFile):

        def read(offset: int) -> bytes:
            held = bytearray(max(0, min(length, path.size - offset)))
            path.read_into(memoryview(held), offset)
            return bytes(held)

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            return list(pool.map(read, offsets))
    out = []
    with open_file(path) as f:
        for offset in offsets:
            f.seek(offset)
            out.append(f.read(length))
    return out
