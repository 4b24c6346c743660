"""Files that many threads read and write at separate offsets: on the disk, or on the Hub with read-ahead."""

from __future__ import annotations

import errno
import functools
import io
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pa_lite.errors import CheckpointError, HubError, InputChangedError
from pa_lite.ggml.kernels import ByteArray
from pa_lite.system.byte_source import CONNECTIONS, ByteSource, RemoteSource, Stamp, is_remote
from pa_lite.system.machine import allow_open_files
from pa_lite.system.opening import descriptor_of

# fills a buffer with a file's bytes from an offset; raises CheckpointError when the file has changed or is missing
Read = Callable[[ByteArray, int], None]
_OTHER_FILES = 128  # open files of a process besides its weights


class RandomFile:
    """A file that threads read and write at separate offsets. A context manager.

    With a `stamp` it is an input, which must keep that stamp. `descriptor` is that of a file that is already open; this
    object closes it. Raises CheckpointError when an input cannot be opened or is not a regular file, InputChangedError
    when it has changed already.
    """

    def __init__(self, path: Path, mode: str, stamp: Stamp | None = None, descriptor: int | None = None) -> None:
        self.path, self._stamp = path, stamp
        try:
            if stamp is not None and descriptor is None:
                descriptor = descriptor_of(path)
            self._file = io.FileIO(path if descriptor is None else descriptor, mode)
        except OSError as e:
            if stamp is None:
                raise
            if e.errno == errno.EMFILE:
                raise CheckpointError(
                    f"{path}: cannot be opened: too many open files. Raise the limit (ulimit -n), or use checkpoints "
                    "with fewer, larger shards."
                ) from e
            raise CheckpointError(f"{path}: cannot be read: {e.strerror}.") from e
        self._lock = threading.Lock()
        try:
            self.check()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> RandomFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def read_into(self, buffer: ByteArray, offset: int) -> None:
        """Fill the buffer from byte `offset`.

        Raises CheckpointError when reading fails, InputChangedError when the file has become shorter.
        """
        view, done = buffer.data, 0
        while done < len(view):
            try:
                n = self._read(view[done:], offset + done)
            except OSError as e:
                raise CheckpointError(
                    f"{self.path}: cannot be read at byte {offset + done}: {e.strerror}. Check its disk, or fetch "
                    "it again."
                ) from e
            if not n:
                raise InputChangedError(f"{self.path}: became shorter while being read. Fetch it again.")
            done += n

    def _read(self, view: memoryview, offset: int) -> int | None:
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [view], offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.readinto(view)

    def check(self) -> None:
        """Raise InputChangedError when an input's stamp has changed, of the open file or of the file at its path."""
        if self._stamp is None:
            return
        try:
            found = [Stamp.of(os.fstat(self._file.fileno())), Stamp.of(self.path.stat())]
        except OSError as e:
            raise InputChangedError(f"{self.path}: was deleted while being read ({e.strerror}).") from e
        if any(stamp != self._stamp for stamp in found):
            raise InputChangedError(
                f"{self.path}: changed while being read: another program wrote to it. No output was written; retry "
                "when it is complete."
            )

    def write(self, data: ByteArray, offset: int) -> None:
        """Write all data at byte `offset`. Raises OSError when the disk is full."""
        view, done = data.data, 0
        while done < len(view):
            if hasattr(os, "pwrite"):
                done += os.pwrite(self._file.fileno(), view[done:], offset + done)
            else:
                with self._lock:
                    self._file.seek(offset + done)
                    done += self._file.write(view[done:]) or 0

    def sync(self) -> None:
        """Wait until all written data is on the disk."""
        os.fsync(self._file.fileno())

    def forget_cache(self) -> None:
        """Make the next reads come from the disk, where the system supports that."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


_SLOTS = 2 * CONNECTIONS  # segments in memory: one for each connection, and as many that wait to be used
_SMALLEST, _LARGEST = 1 << 18, 1 << 22  # bytes of a segment
READ_AHEAD = _SLOTS * _LARGEST  # bytes, by default and at most
LEAST_READ_AHEAD = _SLOTS * _SMALLEST
_STALE = _SLOTS // 2  # segments this far before the last one used are dropped when there are no free buffers


@dataclass(frozen=True)
class Region:
    """A range of a file that will be read from start to end."""

    path: ByteSource
    offset: int
    nbytes: int


class _Segment:
    """A part of a region on the Hub and its buffer; `left` bytes have not been used yet."""

    __slots__ = ("buffer", "error", "file", "index", "is_here", "left", "readers", "start", "stop")

    def __init__(self, index: int, file: RemoteSource, start: int, stop: int, buffer: memoryview) -> None:
        self.index, self.file, self.start, self.stop, self.buffer = index, file, start, stop, buffer
        self.left, self.readers, self.is_here = stop - start, 0, False
        self.error: BaseException | None = None


class ReadAhead:
    """Read-ahead of regions of files on the Hub, over several connections, into reused buffers.

    `rounds` is a forecast of what will be read, roughly in this order; the regions of one round are read at the same
    time. Bytes that the forecast lacks, or that were dropped, are read directly. Memory is at most `nbytes`.
    """

    def __init__(self, rounds: Iterable[Sequence[Region]], nbytes: int) -> None:
        self._size = max(_SMALLEST, min(_LARGEST, nbytes // _SLOTS))
        self._forecast: Iterator[tuple[RemoteSource, int, int]] | None = self._cut(rounds)
        self._live: list[_Segment] = []  # in the order of the forecast
        self._free = [memoryview(b"")] * _SLOTS  # allocated on first use
        self._started, self._latest = 0, 0  # number of segments started, and the last one used
        self._changed, self._stop = threading.Condition(), threading.Event()
        # daemons: they hold nothing that needs cleanup, so a stalled connection need not be waited for
        for _ in range(CONNECTIONS):
            threading.Thread(target=self._fetch, daemon=True).start()

    def _cut(self, rounds: Iterable[Sequence[Region]]) -> Iterator[tuple[RemoteSource, int, int]]:
        for regions in rounds:
            for parts in itertools.zip_longest(*map(self._parts, regions)):
                yield from filter(None, parts)

    def _parts(self, region: Region) -> Iterator[tuple[RemoteSource, int, int]]:
        end = region.offset + region.nbytes
        if is_remote(region.path):
            for start in range(region.offset, end, self._size):
                yield region.path, start, min(end, start + self._size)

    def stop(self) -> None:
        """Stop fetching, and raise an error in threads that wait."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()

    def read_into(self, file: RemoteSource, buffer: ByteArray, offset: int) -> None:
        """Fill the buffer from byte `offset` of the file. Raises HubError."""
        view = buffer.data
        while len(view):
            segment = self._wait_for(file, offset)
            if segment is None:
                file.read_into(view, offset, self._stop)
                return
            n = min(len(view), segment.stop - offset)
            view[:n] = segment.buffer[offset - segment.start :][:n]
            self._used(segment, n)
            view, offset = view[n:], offset + n

    def _wait_for(self, file: RemoteSource, offset: int) -> _Segment | None:
        """Wait for the segment with this byte and keep it until `_used`; None if the byte must be read directly."""
        with self._changed:
            while True:
                if self._stop.is_set():
                    raise HubError(f"{file}: the transfer was stopped.")
                segment = next((s for s in self._live if s.file is file and s.start <= offset < s.stop), None)
                if segment is not None and segment.error is not None:
                    raise segment.error
                if segment is not None and segment.is_here:
                    segment.readers += 1
                    self._latest = max(self._latest, segment.index)
                    return segment
                if segment is None:
                    if self._forecast is None:
                        return None
                    if not self._free:
                        self._drop_stale()
                    if not self._free:
                        return None
                self._changed.wait()

    def _used(self, segment: _Segment, n: int) -> None:
        with self._changed:
            segment.readers -= 1
            segment.left -= n
            self._release(segment)

    def _drop_stale(self) -> None:
        """Release old segments whose rest will not be used: rows that the output leaves out."""
        for segment in [s for s in self._live if s.is_here and s.index < self._latest - _STALE]:
            segment.left = 0
            self._release(segment)

    def _release(self, segment: _Segment) -> None:
        if segment.left <= 0 and not segment.readers:
            self._live.remove(segment)
            self._free.append(segment.buffer)
            self._changed.notify_all()

    def _start(self) -> _Segment | None:
        """Return the next segment of the forecast once there is a buffer for it; None at the end."""
        with self._changed:
            while not self._stop.is_set() and self._forecast is not None and not self._free:
                self._changed.wait()
            if self._stop.is_set() or self._forecast is None:
                return None
            part = next(self._forecast, None)
            if part is None:
                self._forecast = None
                self._changed.notify_all()
                return None
            buffer = self._free.pop() or memoryview(bytearray(self._size))
            segment = _Segment(self._started, *part, buffer)
            self._started += 1
            self._live.append(segment)
            self._changed.notify_all()
            return segment

    def _fetch(self) -> None:
        """Fetch segments over one connection as buffers become free."""
        while (segment := self._start()) is not None:
            try:
                segment.file.read_into(segment.buffer[: segment.stop - segment.start], segment.start, self._stop)
            except Exception as e:  # noqa: BLE001 - raised in the thread that needs the bytes
                segment.error = e
            with self._changed:
                segment.is_here = True
                self._changed.notify_all()


class Readers:
    """Open files that many threads read, with their stamps when the headers were read. A context manager.

    `rounds` is the forecast for ReadAhead, `read_ahead` its memory in bytes.
    """

    def __init__(
        self, paths: Mapping[ByteSource, Stamp | None], rounds: Iterable[Sequence[Region]], read_ahead: int = READ_AHEAD
    ) -> None:
        self._files: list[RandomFile] = []
        try:
            allow_open_files(len(paths) + _OTHER_FILES)
            for path, stamp in paths.items():
                if isinstance(path, Path):
                    self._files.append(RandomFile(path, "r", stamp))
        except BaseException:
            self._close()
            raise
        self.by_path: dict[ByteSource, Read] = {file.path: file.read_into for file in self._files}
        remote = [path for path in paths if is_remote(path)]
        self._ahead = ReadAhead(rounds, read_ahead) if remote else None
        self.by_path |= {path: functools.partial(self._ahead.read_into, path) for path in remote if self._ahead}

    def stop(self) -> None:
        """Raise an error in threads that wait for the Hub."""
        if self._ahead is not None:
            self._ahead.stop()

    def check(self) -> None:
        """Raise InputChangedError when a file has changed since its header was read."""
        for file in self._files:
            file.check()

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        self._close()

    def _close(self) -> None:
        for file in self._files:
            file.__exit__()
