"""Files that stay on the Hub: read in ranges, where other checkpoints' files lie on the disk."""

from __future__ import annotations

import io
import threading
from typing import BinaryIO

from pa_lite.checkpoints.hub.http import FileFacts, Subject
from pa_lite.checkpoints.hub.ranges import RemoteContent

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
