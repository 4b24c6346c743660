"""What was typed in earlier chats, in a file that only the user can read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import BinaryIO

from pa_lite.system.machine import state_folder
from pa_lite.system.opening import open_or_create

_MOST_BYTES = 1_000_000  # of the file; when it is longer, the older half is dropped
_LONGEST = 20_000  # characters of an entry; longer ones, such as pasted files, are not kept
_PRIVATE = 0o600
_PATIENCE = 2.0  # seconds to wait for another chat that writes


class ChatHistory:
    """Entries in the order they were typed, one JSON string a line. Lines that are damaged are skipped.

    The file is created when the first entry is added. Methods raise OSError where it cannot be read or written.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Use a file, by default `chat-history` in the folder of the user's state."""
        self.path = path or state_folder() / "chat-history"

    def load(self) -> list[str]:
        """Return all entries, the oldest first; none if there is no file."""
        if not self.path.exists():
            return []
        with self._open(append=False) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _MOST_BYTES // 2) if size > _MOST_BYTES else 0)
            data = file.read(_MOST_BYTES)
            if size > _MOST_BYTES:
                data = data.partition(b"\n")[2]
                file.seek(0)
                file.write(data)
                file.truncate()
        return [entry for line in data.split(b"\n") if (entry := _entry(line))]

    def add(self, text: str) -> None:
        """Append an entry."""
        if len(text) > _LONGEST:
            return
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._open(append=True) as file:
            file.write(json.dumps(text).encode("ascii") + b"\n")

    def _open(self, append: bool) -> BinaryIO:
        file, _ = open_or_create(self.path, lock=_PATIENCE, append=append, mode=_PRIVATE)
        if hasattr(os, "fchmod"):
            os.fchmod(file.fileno(), _PRIVATE)
        return file


def _entry(line: bytes) -> str:
    """Return the entry in a line, or an empty string."""
    try:
        found = json.loads(line)
        found.encode("utf-8")
    except (ValueError, AttributeError, RecursionError):
        return ""
    return found if isinstance(found, str) else ""
