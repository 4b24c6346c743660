"""Output that is not whole yet: a file under a temporary name, and a journal of the tensors that are in it.

`.NAME.part` holds the data and `.NAME.part.done` a digest of what is being made, then one line for each tensor that is
whole and on the disk. Both are gone when the file has its own name.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from pa_lite.checkpoints.gguf_file import reserve
from pa_lite.errors import OutputError
from pa_lite.merge.stream import RandomFile


class PartialFile:
    """A target in the making, locked against other processes. A context manager.

    `header` is the file's beginning and `size` its length when it is whole; `digest` stands for all that decides its
    content. With `resume`, a partial file of the same digest is continued, and a failure keeps it; else it is removed.
    """

    def __init__(self, target: Path, header: bytes, size: int, digest: str, resume: bool) -> None:
        self.target, self.resume = target, resume
        self.path = target.with_name(f".{target.name}.part")
        self.journal = target.with_name(f".{target.name}.part.done")
        self.done: frozenset[str] = frozenset()
        self._header, self._size, self._digest = header, size, digest
        self._is_whole = False

    def __enter__(self) -> PartialFile:
        self._lock = _locked(self.path, self.target)
        try:
            if not (self.resume and self._continue()):
                self.journal.unlink(missing_ok=True)
                self.path.write_bytes(self._header)
                reserve(self.path, self._size)
                self.journal.write_text(self._digest + "\n", "utf-8")
            self.file = RandomFile(self.path, "r+")
        except BaseException:
            self._remove()
            raise
        return self

    def _continue(self) -> bool:
        """Take up the partial file, when its journal belongs to this very merge and its header and length are right."""
        try:
            lines = self.journal.read_text("utf-8").split("\n")
            with self.path.open("rb") as f:
                same = f.read(len(self._header)) == self._header and f.seek(0, os.SEEK_END) == self._size
        except (OSError, UnicodeDecodeError):
            return False
        if not same or lines[0] != self._digest or len(lines) < 2:
            return False
        self.done = frozenset(lines[1:-1])  # what stands behind the last line's end was cut off
        return True

    def record(self, names: Sequence[str]) -> None:
        """Note that tensors are whole; what was written is brought to the disk first."""
        self.file.sync()
        with self.journal.open("a", encoding="utf-8") as f:
            f.write("".join(f"{name}\n" for name in names))
            f.flush()
            os.fsync(f.fileno())

    def finish(self) -> None:
        """Bring all of it to the disk; leaving the context without an error then gives the file its name."""
        self.file.sync()
        self._is_whole = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.__exit__()
        if kind is None and self._is_whole:
            self.path.replace(self.target)
            _sync_folder(self.target.parent)
            self.journal.unlink(missing_ok=True)
            self._lock.close()
        elif self.resume:
            self._lock.close()
        else:
            self._remove()

    def _remove(self) -> None:
        self.journal.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)
        self._lock.close()


def _locked(path: Path, target: Path) -> BinaryIO:
    """Open the partial file, made if need be, and lock it. Raises OutputError when another process has it."""
    while True:
        file = path.open("ab")
        try:
            import fcntl
        except ImportError:
            file.close()  # Windows lets nobody replace or remove a file that is open, which guards it and binds us
            return file
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            held, there = os.fstat(file.fileno()), os.stat(path)
        except BlockingIOError:
            file.close()
            raise OutputError(
                f"{target}: another process is writing it. Wait for it, or name another output (-o)."
            ) from None
        except FileNotFoundError:
            pass
        else:
            if (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino):
                return file
        file.close()  # the other process finished between our opening and locking


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
