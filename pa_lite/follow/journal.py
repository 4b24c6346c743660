"""A journal of finished entries beside a result that is not whole yet: what a killed run leaves, and the next takes up.

One JSON line says what run it is of, one more follows for each entry, in the order in which they were finished.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from pa_lite.errors import OutputError
from pa_lite.files import check_target, write_errors, write_text
from pa_lite.follow.records import Record

_SYNC_SECONDS = 1.0


class Journal:
    """A context manager around the work for one target file; `entries` holds what an earlier run had finished.

    A run that ends without `finish` leaves its journal when there is an entry in it, else nothing.
    """

    def __init__(self, target: Path, run: Mapping[str, Any], resume: bool = False, force: bool = False) -> None:
        """Check the target and the journal that may be there; `run` names all that the entries depend on.

        Raises OutputError when the target exists (unless `force`), or when there is a journal and neither `resume` nor
        `force` says what to do with it, or `resume` does and it is of another run.
        """
        check_target(target, force)
        self.target = target
        self.path = target.with_name(f".{target.name}.journal")
        self.entries: list[Record] = []
        self._run = json.loads(json.dumps(run))
        self._size = 0
        if self.path.exists():
            if resume:
                self._take_up()
            elif not force:
                raise OutputError(
                    f"{self.path}: an interrupted run left this. Say --resume to go on, or --force to begin anew."
                )

    def _take_up(self) -> None:
        """Read the whole lines of an earlier run; a line that was broken off is cut away when writing goes on."""
        with write_errors(self.path.parent):
            lines = self.path.read_bytes().split(b"\n")[:-1]
        read: list[Record] = []
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                break
            if not isinstance(entry, dict):
                break
            read.append(entry)
            self._size += len(line) + 1
        if not read:
            self._size = 0
            return
        changed = sorted(k for k in {*read[0], *self._run} if read[0].get(k) != self._run.get(k))
        if changed:
            raise OutputError(
                f"{self.path}: is of another run ({', '.join(changed)} differ). Run as before, or say --force to begin "
                "anew without --resume."
            )
        self.entries = read[1:]

    def __enter__(self) -> Journal:
        with write_errors(self.path.parent):
            self._file: BinaryIO = self.path.open("r+b" if self._size else "wb")
            self._file.truncate(self._size)
            self._file.seek(self._size)
        self._written, self._synced = len(self.entries), time.monotonic()
        if not self._size:
            self._write(self._run)
        return self

    def add(self, entry: Record) -> None:
        """Keep an entry: against a killed process at once, against a power cut within a second or so."""
        self._write(entry)
        self._written += 1

    def _write(self, entry: Record) -> None:
        with write_errors(self.path.parent):
            self._file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
            if time.monotonic() > self._synced + _SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()

    def finish(self, text: str) -> None:
        """Write the target whole and remove the journal."""
        write_text(self.target, text)
        self._file.close()
        self.path.unlink(missing_ok=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if not self._written:
            self.path.unlink(missing_ok=True)
