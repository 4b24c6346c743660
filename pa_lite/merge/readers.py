"""Files that many threads read and write at places of their own: on the disk, or on the Hub, read ahead of its use."""

from __future__ import annotations

import io
import itertools
import os
import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pa_lite.checkpoints.remote import CONNECTIONS, FilePath, RemoteFile
from pa_lite.errors import CheckpointError, HubError
from pa_lite.kernels import ByteArray


class Reader(Protocol):
    """Where a tensor's bytes come from."""

    def read_into(self, buffer: ByteArray, offset: int) -> None:
        """Fill the buffer from byte `offset` on. Raises CheckpointError when the file has changed or cannot be had."""
        ...


class RandomFile:
    """A file that threads read and write at positions of their own. A context manager."""

    def __init__(self, path: Path, mode: str) -> None:
        self.path = path
        self._file = io.FileIO(path, mode)
        self._lock = threading.Lock()

    def __enter__(self) -> RandomFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def read_into(self, buffer: ByteArray, offset: int) -> None:
        """Fill the buffer from byte `offset` on. Raises CheckpointError when the file has become shorter."""
        view, done = buffer.data, 0
        while done < len(view):
            if hasattr(os, "preadv"):
                n = os.preadv(self._file.fileno(), [view[done:]], offset + done)
            else:
                with self._lock:
                    self._file.seek(offset + done)
                    n = self._file.readinto(view[done:])
            if not n:
                raise CheckpointError(f"{self.path}: became shorter while it was read. Fetch it again.")
            done += n

    def write(self, data: ByteArray, offset: int) -> None:
        """Write all of the data at byte `offset`. Raises OSError when the disk is full."""
        view, done = data.data, 0
        while done < len(view):
            if hasattr(os, "pwrite"):
                done += os.pwrite(self._file.fileno(), view[done:], offset + done)
            else:
                with self._lock:
                    self._file.seek(offset + done)
                    done += self._file.write(view[done:]) or 0

    def sync(self) -> None:
        """Wait until what was written is on the disk."""
        os.fsync(self._file.fileno())

    def forget_cache(self) -> None:
        """Let the next reads come from the disk, where the system can be told so."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


_SLOTS = 2 * CONNECTIONS  # segments held at a time: one for each connection, and as many that wait for their use
_LEAST, _MOST = 1 << 18, 1 << 22  # bytes of a segment
READ_AHEAD = _SLOTS * _MOST  # bytes, by default and at most
LEAST_READ_AHEAD = _SLOTS * _LEAST
_BEHIND = _SLOTS // 2  # segments so far behind the one in use are not waited for any more


@dataclass(frozen=True)
class Region:
    """Bytes of a file that will be read, from the first to the last."""

    path: FilePath
    offset: int
    nbytes: int


class _Segment:
    """A part of a region on the Hub, and what became of it: `waiting`, `coming`, `here`, `gone`."""

    def __init__(self, index: int, file: RemoteFile, start: int, stop: int) -> None:
        self.index, self.file, self.start, self.stop = index, file, start, stop
        self.state = "waiting"
        self.left = stop - start  # bytes not used yet
        self.readers = 0
        self.buffer = memoryview(b"")
        self.error: BaseException | None = None


class ReadAhead:
    """Fetches regions of files on the Hub before they are used, over several connections, into buffers it reuses.

    `rounds` tell what will be read, about in this order; the regions of one round are read side by side. That is a
    forecast and no more: what it leaves out, or has let go already, is read directly. Memory is `nbytes`, at most.
    """

    def __init__(self, rounds: Iterable[Sequence[Region]], nbytes: int) -> None:
        self._size = max(_LEAST, min(_MOST, nbytes // _SLOTS))
        self._segments: list[_Segment] = []
        self._by_file: dict[RemoteFile, list[_Segment]] = {}
        for regions in rounds:
            for parts in itertools.zip_longest(*map(self._cut, regions)):
                for file, start, stop in filter(None, parts):
                    segment = _Segment(len(self._segments), file, start, stop)
                    self._segments.append(segment)
                    self._by_file.setdefault(file, []).append(segment)
        for segments in self._by_file.values():
            segments.sort(key=lambda s: (s.start, s.index))
        self._starts = {file: [s.start for s in segments] for file, segments in self._by_file.items()}
        self._free = [memoryview(bytearray(0))] * _SLOTS  # grown when they are used for the first time
        self._next = self._oldest = 0
        self._changed, self._stop = threading.Condition(), threading.Event()
        # they hold nothing that must be brought to an end: a stalled connection need not be waited for
        for _ in range(min(CONNECTIONS, len(self._segments))):
            threading.Thread(target=self._fetch, daemon=True).start()

    def _cut(self, region: Region) -> Iterator[tuple[RemoteFile, int, int]]:
        end = region.offset + region.nbytes
        if isinstance(region.path, RemoteFile):
            for start in range(region.offset, end, self._size):
                yield region.path, start, min(end, start + self._size)

    def stop(self) -> None:
        """Fetch no more, and let whoever waits go with an error."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()

    def read_into(self, file: RemoteFile, buffer: ByteArray, offset: int) -> None:
        """Fill the buffer from byte `offset` of the file on. Raises HubError."""
        view = buffer.data
        while len(view):
            segment = self._find(file, offset)
            n = len(view) if segment is None else min(len(view), segment.stop - offset)
            if segment is None or not self._wait_for(segment):
                file.read_into(view[:n], offset, self._stop)
                self._passed(segment, n)
            else:
                view[:n] = segment.buffer[offset - segment.start :][:n]
                self._used(segment, n)
            view, offset = view[n:], offset + n

    def _find(self, file: RemoteFile, offset: int) -> _Segment | None:
        """The first segment in order of use that holds this byte and has not been used up."""
        segments = self._by_file.get(file, [])
        found = None
        for i in range(bisect_right(self._starts.get(file, []), offset) - 1, -1, -1):
            segment = segments[i]
            if segment.stop <= offset:
                break
            if segment.state != "gone":
                found = segment
        return found

    def _wait_for(self, segment: _Segment) -> bool:
        """Whether the segment came, or comes: then it is kept until `_used`. If not, it must be read directly."""
        with self._changed:
            while True:
                if self._stop.is_set():
                    raise HubError(f"{segment.file}: the transfer was stopped.")
                if segment.error is not None:
                    raise segment.error
                if segment.state == "here":
                    segment.readers += 1
                    return True
                if segment.state == "gone":
                    return False
                if segment.state == "waiting":
                    self._let_go(segment.index - _BEHIND)
                    if not self._free:
                        return False
                self._changed.wait()

    def _passed(self, segment: _Segment | None, n: int) -> None:
        """Bytes were read directly: a segment of which nothing is left need not be fetched."""
        with self._changed:
            if segment is not None and segment.state == "waiting":
                segment.left -= n
                segment.state = "waiting" if segment.left > 0 else "gone"

    def _used(self, segment: _Segment, n: int) -> None:
        with self._changed:
            segment.readers -= 1
            segment.left -= n
            if segment.left <= 0:
                self._release(segment)

    def _let_go(self, before: int) -> None:
        """Release segments that came and of which nobody has asked for the rest (rows that the result leaves out)."""
        while self._oldest < before and self._segments[self._oldest].state in ("here", "gone"):
            self._segments[self._oldest].left = 0
            self._release(self._segments[self._oldest])
            self._oldest += 1

    def _release(self, segment: _Segment) -> None:
        if segment.state == "here" and not segment.readers:
            segment.state = "gone"
            self._free.append(segment.buffer)
            segment.buffer = memoryview(b"")
            self._changed.notify_all()

    def _fetch(self) -> None:
        """One connection: segment after segment, as buffers become free."""
        while True:
            with self._changed:
                while not self._stop.is_set() and self._next < len(self._segments) and not self._free:
                    self._changed.wait()
                if self._stop.is_set() or self._next == len(self._segments):
                    return
                segment = self._segments[self._next]
                self._next += 1
                if segment.state == "gone":
                    continue
                segment.state = "coming"
                segment.buffer = self._free.pop()
            try:
                if not len(segment.buffer):
                    segment.buffer = memoryview(bytearray(self._size))
                segment.file.read_into(segment.buffer[: segment.stop - segment.start], segment.start, self._stop)
            except Exception as e:  # noqa: BLE001 - raised where the bytes are needed
                segment.error = e
            with self._changed:
                segment.state = "here"
                self._changed.notify_all()


class _Remote:
    """A file on the Hub, as a Reader."""

    def __init__(self, file: RemoteFile, ahead: ReadAhead) -> None:
        self._file, self._ahead = file, ahead

    def read_into(self, buffer: ByteArray, offset: int) -> None:
        self._ahead.read_into(self._file, buffer, offset)


class Readers:
    """The files that tensors lie in, open for reading. A context manager.

    `rounds` tell what will be read, as for ReadAhead, and `read_ahead` how many bytes of it may be held.
    """

    def __init__(self, rounds: Sequence[Sequence[Region]], read_ahead: int = READ_AHEAD) -> None:
        paths = {region.path for regions in rounds for region in regions}
        self._ahead = ReadAhead(rounds, read_ahead)
        self.by_path: dict[FilePath, RandomFile | _Remote] = {
            path: RandomFile(path, "r") if isinstance(path, Path) else _Remote(path, self._ahead) for path in paths
        }

    def stop(self) -> None:
        """Let threads that wait for the Hub go with an error."""
        self._ahead.stop()

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        for reader in self.by_path.values():
            if isinstance(reader, RandomFile):
                reader.__exit__()
