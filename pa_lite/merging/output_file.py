"""Output that is not whole yet: a file under a temporary name, and a list of the tensors that are in it.

`.NAME.part` holds the data. `.NAME.part.done`, the list, begins with our marker, which holds a digest of what is being
made and one of the data's first bytes; then comes one line for each tensor that is whole and on the disk. The list is
made first and removed last: it proves that the data beside it are ours. Both are gone when the file has its own name.
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

_LONGEST_LIST = 1 << 26  # bytes of names of tensors that are read
_START = 4096  # bytes of the data that the list has a digest of


class PartialFile:
    """A target in the making, locked against other processes, from `open` to `close`.

    `header` is the file's beginning and `size` its length when it is whole; `digest` stands for all that decides its
    content. With `resume`, a partial file of the same digest is continued, and a failure keeps one that has whole
    tensors; else it is removed.
    `close` removes whatever `open` left, wherever an interrupt met it: call it in a `finally` around `open` itself.
    """

    def __init__(self, target: Path, header: HeaderBytes, size: int, digest: str, resume: bool) -> None:
        self.target, self.resume = target, resume
        self.path = target.with_name(f".{target.name}.part")
        self.journal = target.with_name(f".{target.name}.part.done")
        self.done: frozenset[str] = frozenset()
        self._header, self._size, self._digest = header, size, digest
        self._is_whole = False
        self._has_some = False
        self._begun = False
        self._list: BinaryIO | None = None
        self._data: BinaryIO | None = None
        self._marker: Marker | None = None
        self._listed: list[bytes] = []
        self._is_new = False  # the list was made just now
        self._is_made = False  # and the data too
        self._is_ours = False
        self._file: RandomFile | None = None

    @property
    def file(self) -> RandomFile:
        """The data, between `open` and `close`."""
        assert self._file is not None
        return self._file

    def open(self) -> None:
        """Lock the partial file and write its header, or take it up.

        Raises OutputError when it is being written, or when something that is not ours has one of its two names.
        """
        self._begun = True
        self._acquire()
        assert self._data is not None
        self._file = RandomFile(self.path, "r+", descriptor=os.dup(self._data.fileno()))

    def _acquire(self) -> None:
        """Lock list and data, both made if need be. Raises OutputError as `open` does, OSError."""
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
        """Lock the list, made if it is not there, and read it; False when another process was quicker."""
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
            if self._list.read(len(self._digest) + 1) != self._digest.encode() + b"\n":  # as 0.1.0 began a list
                raise in_the_way(self.journal, NO_MARKER, self.target)
            self._marker = {"digest": self._digest}
        lines = read_at_most(self._list, _LONGEST_LIST).split(b"\n")
        self._listed = lines[:-1]  # what stands after the last line's end was cut off
        return True

    def _lock(self, file: BinaryIO, path: Path) -> bool:
        """Lock an open file; False when it is not the one of that name any more."""
        locked = take_lock(file.fileno(), PATIENCE)
        if locked is False:
            raise self._busy()
        return locked is None or is_at(file.fileno(), path)

    def _take_data(self) -> bool:
        """Lock the data and continue them, or make them anew; False when what was there had to be removed first."""
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
        """Whether the data are ours: they begin as ours do, or as the list says that ours began."""
        assert self._data is not None
        assert self._marker is not None
        return self._header.begins(self._data) or merge_proves(self._marker, self._data)

    def _make_data(self) -> bool:
        """Make the file of the data, locked, with its header and final length; False when another process did."""

        def begin(file: BinaryIO) -> None:
            file.writelines(self._header.parts)
            file.flush()
            reserve(file, self._size)

        try:
            self._data = create_file(self.path, begin, lock=True)
        except FileExistsError:
            return False
        self._is_made = True
        sync_folder(self.target.parent)
        return True

    def _continue(self) -> bool:
        """Take up the data, when the list belongs to this very merge and their header and length are right."""
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
        """Note that tensors are whole; what was written is brought to the disk first."""
        assert self._list is not None
        self.file.sync()
        self._list.write("".join(f"{name}\n" for name in names).encode())
        self._list.flush()
        os.fsync(self._list.fileno())
        self._has_some = True

    def discard(self) -> None:
        """Let nobody continue what is there: it was made of inputs that changed."""
        self.resume = False

    def finish(self) -> None:
        """Bring all of it to the disk; `close` may then give the file its name."""
        self.file.sync()
        self._is_whole = True

    def close(self, keep: bool) -> None:
        """Give the finished file its name if `keep`; else remove it, or leave it for `resume`."""
        if self._file is not None:
            self._file.__exit__()
        if self._begun and not self._is_ours:
            # interrupted before we knew of our locks, or another process has them: then this fails again
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
        """Give the data their name, then remove the list, whose lock keeps other processes from beginning their own."""
        assert self._data is not None
        assert self._list is not None
        try:
            if not is_at(self._data.fileno(), self.path):
                raise OutputError(f"{self.target}: another program removed or replaced {self.path} meanwhile.")
            if os.name != "posix":
                self._data.close()  # there an open file cannot be renamed
            self.path.replace(self.target)
            sync_folder(self.target.parent)
        except OSError:
            self._remove(self._data, self.path)
            raise
        finally:
            self._remove(self._list, self.journal)

    def _remove(self, file: BinaryIO, path: Path) -> None:
        """Remove a file of ours, unless another has its name by now."""
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
        return OutputError(f"{self.target}: another process is writing it. Wait for it, or name another output (-o).")


@contextlib.contextmanager
def partial_files(files: Sequence[PartialFile]) -> Iterator[None]:
    """Open all files; at the end each gets its name, or, after any exception, Ctrl-C included, none does."""
    went_well = False
    try:
        for file in files:
            file.open()
        yield
        went_well = True
    finally:
        with uninterrupted(), contextlib.ExitStack() as ends:
            for file in reversed(files):  # all of them, in their order, even if one fails
                ends.callback(file.close, went_well)
