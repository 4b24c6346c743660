"""Unfinished output: a file under a temporary name, and a journal of the tensors that it has.

`.NAME.part` contains the data. `.NAME.part.done`, the journal, starts with our marker, which has a digest of the output
and one of the data's first bytes, followed by one line for each complete tensor on the disk. The journal is created
first and removed last: it proves that the data next to it are ours. Once the file has its final name, both are gone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from pa_lite.checkpoints.readers import RandomFile
from pa_lite.errors import OutputError
from pa_lite.ggml.container import HeaderBytes
from pa_lite.system.atomic import NO_MARKER, in_the_way, reserve, sync_folder
from pa_lite.system.interrupts import uninterrupted
from pa_lite.system.locks import PATIENCE, take_lock
from pa_lite.system.markers import MERGE, Marker, marker_line, merge_proves, parse_marker, read_marker
from pa_lite.system.opening import TRIES, NotPlainError, create_file, is_at, open_own, read_at_most

_MAX_JOURNAL = 1 << 26  # bytes that are read
_START = 4096  # bytes of the data whose digest the journal has


class PartialFile:
    """An unfinished target, locked against other processes from `open` to `close`.

    `header` starts the file and `size` is its final length; `digest` covers all that decides its content. With
    `resume`, a partial file with the same digest is continued, and after a failure a partial file with complete tensors
    is kept. Otherwise it is removed.
    `close` removes whatever `open` left, even if an interrupt stopped `open`: call it in a `finally` around `open`.
    """

    def __init__(self, target: Path, header: HeaderBytes, size: int, digest: str, resume: bool) -> None:
        self.target, self.resume = target, resume
        self.path = target.with_name(f".{target.name}.part")
        self.journal = target.with_name(f".{target.name}.part.done")
        self.done: frozenset[str] = frozenset()
        self._header, self._size, self._digest = header, size, digest
        self._is_whole = False
        self._has_some = False
        self._was_opened = False
        self._list: BinaryIO | None = None
        self._data: BinaryIO | None = None
        self._marker: Marker | None = None
        self._listed: list[bytes] = []
        self._is_new = False  # this object created the journal
        self._is_made = False  # and the data
        self._is_ours = False  # both are locked by this object
        self._file: RandomFile | None = None

    @property
    def file(self) -> RandomFile:
        """The data, between `open` and `close`."""
        assert self._file is not None
        return self._file

    def open(self) -> None:
        """Lock the partial file and write its header, or continue it.

        Raises OutputError when another process writes it, or when a file that is not ours has one of its two names.
        """
        self._was_opened = True
        self._acquire()
        assert self._data is not None
        self._file = RandomFile(self.path, "r+", descriptor=os.dup(self._data.fileno()))

    def _acquire(self) -> None:
        """Lock journal and data, creating them if necessary. Raises OutputError as `open` does, OSError."""
        for _ in range(TRIES):
            self._release()
            try:
                if self._take_list() and self._take_data():
                    self._is_ours = True
                    return
            except Exception as e:
                if self._is_made and self._data is not None:
                    self._remove(self._data, self.path)
                if self._is_new and self._list is not None:
                    self._remove(self._list, self.journal)
                self._release()
                if isinstance(e, NotPlainError):
                    raise in_the_way(Path(e.filename), e.what, self.target) from e
                raise
        raise self._busy()

    def _take_list(self) -> bool:
        """Lock the journal, creating it if absent, and read it. Return False when another process was faster."""
        start = self._header.start(_START)
        start_digest = [len(start), hashlib.sha256(start).hexdigest()]
        line = marker_line(MERGE, self.path.name, digest=self._digest, start=start_digest)
        self._is_new, self._is_made, self._listed = False, False, []
        try:
            self._list = create_file(self.journal, line, lock=True, append=True)
            self._is_new, self._marker = True, parse_marker(line)
            return True
        except FileExistsError:
            pass
        try:
            self._list = open_own(self.journal, append=True)
        except FileNotFoundError:
            return False
        if not self._lock(self._list, self.journal):
            return False
        self._marker = read_marker(self._list)
        if self._marker is None or self._marker["kind"] != MERGE:
            self._list.seek(0)
            if self._list.read(len(self._digest) + 1) != self._digest.encode() + b"\n":  # the format of 0.1.0
                raise in_the_way(self.journal, NO_MARKER, self.target)
            self._marker = {"digest": self._digest}
        lines = read_at_most(self._list, _MAX_JOURNAL).split(b"\n")
        self._listed = lines[:-1]  # an incomplete last line is ignored
        return True

    def _lock(self, file: BinaryIO, path: Path) -> bool:
        """Lock an open file. Return False when its name now belongs to another file."""
        locked = take_lock(file.fileno(), PATIENCE)
        if locked is False:
            raise self._busy()
        return locked is None or is_at(file.fileno(), path)

    def _take_data(self) -> bool:
        """Lock and continue the data, or create them. Return False after removing data that cannot be continued."""
        assert self._list is not None
        assert self._marker is not None
        try:
            self._data = open_own(self.path)
        except FileNotFoundError:
            if self._listed or not self._is_new:
                self._remove(self._list, self.journal)
                return False
            return self._make_data()
        if not self._lock(self._data, self.path):
            return False
        if not self._is_proven():
            raise in_the_way(self.path, NO_MARKER, self.target)
        if self.resume and self._continue():
            return True
        self._remove(self._data, self.path)
        self._remove(self._list, self.journal)
        return False

    def _is_proven(self) -> bool:
        """Return whether the data are ours: they start with our header, or match the digest in the journal."""
        assert self._data is not None
        assert self._marker is not None
        return self._header.begins(self._data) or merge_proves(self._marker, self._data)

    def _make_data(self) -> bool:
        """Create the data file, locked, with its header and final length. Return False when another process did."""

        def write_start(file: BinaryIO) -> None:
            file.writelines(self._header.parts)
            file.flush()
            reserve(file, self._size)

        try:
            self._data = create_file(self.path, write_start, lock=True)
        except FileExistsError:
            return False
        self._is_made = True
        sync_folder(self.target.parent)
        return True

    def _continue(self) -> bool:
        """Continue the data if they are of this merge. Return False if journal, header or length do not match."""
        assert self._data is not None
        assert self._marker is not None
        same = self._header.begins(self._data) and self._data.seek(0, os.SEEK_END) == self._size
        if not same or self._marker.get("digest") != self._digest:
            return False
        try:
            self.done = frozenset(line.decode("utf-8") for line in self._listed)
        except UnicodeDecodeError:
            return False
        self._has_some = bool(self.done)
        return True

    def record(self, names: Sequence[str]) -> None:
        """Sync the data, then record tensors as complete in the journal."""
        assert self._list is not None
        self.file.sync()
        self._list.write("".join(f"{name}\n" for name in names).encode())
        self._list.flush()
        os.fsync(self._list.fileno())
        self._has_some = True

    def discard(self) -> None:
        """Have `close` remove the partial file: the inputs changed, so it must not be continued."""
        self.resume = False

    def finish(self) -> None:
        """Sync the complete file; `close` may then rename it."""
        self.file.sync()
        self._is_whole = True

    def close(self, keep: bool) -> None:
        """Rename the finished file if `keep`; otherwise remove it, or leave it for `resume`."""
        if self._file is not None:
            self._file.__exit__()
        if self._was_opened and not self._is_ours:
            # an interrupt came before the locks were recorded, or another process has them: then this fails again
            with contextlib.suppress(OutputError, OSError):
                self._acquire()
        if not self._is_ours:
            self._release()
            return
        assert self._data is not None
        assert self._list is not None
        try:
            if keep and self._is_whole:
                self._rename()
            elif not (self.resume and self._has_some):
                self._remove(self._data, self.path)
                self._remove(self._list, self.journal)
        finally:
            self._release()

    def _rename(self) -> None:
        """Rename the data, then remove the journal, whose lock keeps other processes from starting."""
        assert self._data is not None
        assert self._list is not None
        try:
            if not is_at(self._data.fileno(), self.path):
                raise OutputError(f"{self.target}: another program removed or replaced {self.path} meanwhile.")
            if os.name != "posix":
                self._data.close()  # Windows cannot rename an open file
            self.path.replace(self.target)
            sync_folder(self.target.parent)
        except OSError:
            self._remove(self._data, self.path)
            raise
        finally:
            self._remove(self._list, self.journal)

    def _remove(self, file: BinaryIO, path: Path) -> None:
        """Remove a file of ours unless its name now belongs to another."""
        if file.closed or is_at(file.fileno(), path):
            if os.name != "posix":
                file.close()
            path.unlink(missing_ok=True)

    def _release(self) -> None:
        self._is_ours = False
        for file in (self._data, self._list):
            if file is not None:
                file.close()

    def _busy(self) -> OutputError:
        return OutputError(f"{self.target}: another process is writing it. Wait for it, or choose another output (-o).")


@contextlib.contextmanager
def partial_files(files: Sequence[PartialFile]) -> Iterator[None]:
    """Open all files. At the end all are renamed, or, after any exception, Ctrl-C included, none is."""
    went_well = False
    try:
        for file in files:
            file.open()
        yield
        went_well = True
    finally:
        with uninterrupted(), contextlib.ExitStack() as ends:
            for file in reversed(files):  # all of them, in order, even if one fails
                ends.callback(file.close, went_well)
