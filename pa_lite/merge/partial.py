"""Output that is not whole yet: a file under a temporary name, and a journal of the tensors that are in it.

`.NAME.part` holds the data and `.NAME.part.done` a digest of what is being made, then one line for each tensor that is
whole and on the disk. Both are gone when the file has its own name.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from pa_lite.checkpoints.gguf_file import HeaderBytes, reserve
from pa_lite.errors import OutputError
from pa_lite.files import PATIENCE, is_at, sync_folder, take_lock, uninterrupted
from pa_lite.merge.readers import RandomFile


class PartialFile:
    """A target in the making, locked against other processes, from `open` to `close`.

    `header` is the file's beginning and `size` its length when it is whole; `digest` stands for all that decides its
    content. With `resume`, a partial file of the same digest is continued, and a failure keeps one that has whole
    tensors; else it is removed.
    `close` mends whatever `open` left, wherever an interrupt met it: call it in a `finally` around `open` itself.
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
        self._lock: BinaryIO | None = None
        self._is_ours = False
        self._file: RandomFile | None = None

    @property
    def file(self) -> RandomFile:
        """The data, between `open` and `close`."""
        assert self._file is not None
        return self._file

    def open(self) -> None:
        """Lock the partial file and write its header, or take it up. Raises OutputError when it is being written."""
        self._begun = True
        self._acquire()
        if not (self.resume and self._continue()):
            self.journal.unlink(missing_ok=True)
            with self.path.open("wb") as f:
                f.writelines(self._header.parts)
            reserve(self.path, self._size)
            self.journal.write_text(self._digest + "\n", "utf-8")
            sync_folder(self.target.parent)
        self._file = RandomFile(self.path, "r+")

    def _continue(self) -> bool:
        """Take up the partial file, when its journal belongs to this very merge and its header and length are right."""
        try:
            lines = self.journal.read_text("utf-8").split("\n")
            with self.path.open("rb") as f:
                same = all(f.read(len(part)) == part for part in self._header.parts)
                same = same and f.seek(0, os.SEEK_END) == self._size
        except (OSError, UnicodeDecodeError):
            return False
        if not same or lines[0] != self._digest or len(lines) < 2:
            return False
        self.done = frozenset(lines[1:-1])  # what stands behind the last line's end was cut off
        self._has_some = bool(self.done)
        return True

    def record(self, names: Sequence[str]) -> None:
        """Note that tensors are whole; what was written is brought to the disk first."""
        self.file.sync()
        with self.journal.open("a", encoding="utf-8") as f:
            f.write("".join(f"{name}\n" for name in names))
            f.flush()
            os.fsync(f.fileno())
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
            # interrupted before we knew of our lock, or another process has it: then this fails again
            with contextlib.suppress(OutputError):
                self._acquire()
        if not self._is_ours:
            return
        if keep and self._is_whole:
            # before the file has its name, since with that goes the lock: another process may begin its own journal
            self.journal.unlink(missing_ok=True)
            try:
                self.path.replace(self.target)
            except OSError:
                self.path.unlink(missing_ok=True)
                raise
            sync_folder(self.target.parent)
        elif not (self.resume and self._has_some):
            self.journal.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
        self._release()

    def _acquire(self) -> None:
        """Open the partial file, made if need be, and lock it. Raises OutputError when another process has it."""
        while True:
            self._lock = self.path.open("ab")
            locked = take_lock(self._lock.fileno(), PATIENCE)
            if locked is False:
                self._release()
                raise OutputError(
                    f"{self.target}: another process is writing it. Wait for it, or name another output (-o)."
                )
            if locked is None:
                self._release()  # Windows lets nobody replace or remove a file that is open, which guards and binds us
                self._is_ours = True
                return
            if is_at(self._lock.fileno(), self.path):
                self._is_ours = True
                return
            self._release()  # the other process finished between our opening and locking

    def _release(self) -> None:
        self._is_ours = False
        if self._lock is not None:
            self._lock.close()


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
