"""Rows of JSONL files: each line is checked once, and read again when its row is needed."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pa_lite.errors import InputError
from pa_lite.system.opening import open_regular
from pa_lite.untrusted.strict_json import parse_json

Row = Mapping[str, Any]
Note = Callable[[Row, str], Any]
_BLOCK = 1 << 20  # bytes of JSONL that are read at a time
_LONGEST_LINE = 16 << 20  # bytes of a row
_MOST_ROWS = 4_000_000  # of a file: the place of each is kept


@dataclass
class Lines:
    """Rows of a JSONL file, of which only the places are kept: each is read and parsed when it is needed."""

    path: Path
    identity: tuple[int, int]
    starts: array[int]
    numbers: array[int]
    _block: bytes = b""
    _first: int = 0  # where the block starts
    _newest: tuple[int, Row] = (-1, {})

    def __len__(self) -> int:
        return len(self.starts)

    def row(self, i: int) -> Row:
        """Return row i. Raises InputError for a file that changed."""
        if self._newest[0] != i:
            end = self.starts[i + 1] if i + 1 < len(self.starts) else self.identity[0]
            if not self._first <= self.starts[i] <= end <= self._first + len(self._block):
                self._load(self.starts[i], end)
            line = self._block[self.starts[i] - self._first : end - self._first]
            self._newest = (i, _parse_line(self.path, self.numbers[i], line.decode("utf-8").strip()))
        return self._newest[1]

    def _load(self, start: int, end: int) -> None:
        try:
            with open_regular(self.path) as file:
                facts = os.fstat(file.fileno())
                if (facts.st_size, facts.st_mtime_ns) != self.identity:
                    raise InputError(f"{self.path}: changed while it was being read. Start again when it is complete.")
                file.seek(start)
                self._first, self._block = start, file.read(max(end - start, _BLOCK))
        except OSError as e:
            raise InputError(f"{self.path}: cannot be read: {e.strerror or e}.") from e

    def where(self, i: int) -> str:
        """Return file and line, for messages."""
        return f"{self.path}:{self.numbers[i]}"


def check_number(path: Path, n: int) -> None:
    """Raise InputError for a file of more rows than are kept track of."""
    if n > _MOST_ROWS:
        raise InputError(f"{path}: has more than {_MOST_ROWS} rows, the limit of a file. Give the task a part of it.")


def scan_lines(path: Path, note: Note | None, notes: list[Any]) -> Lines:
    """Check each line of a JSONL file, and keep where it starts."""
    starts, numbers = array("Q"), array("Q")
    with open_regular(path) as file:
        facts = os.fstat(file.fileno())
        at = number = 0
        if file.read(3) == b"\xef\xbb\xbf":
            at = 3
        file.seek(at)
        while line := file.readline(_LONGEST_LINE + 1):  # ends at \n alone: a text may hold U+2028
            number += 1
            if len(line) > _LONGEST_LINE:
                raise InputError(f"{path}:{number}: is longer than {_LONGEST_LINE >> 20} MB, the limit of a row.")
            try:
                text = line.decode("utf-8").strip()
            except UnicodeDecodeError as e:
                raise InputError(f"{path}:{number}: is not UTF-8: {e}.") from e
            if text:
                row = _parse_line(path, number, text)
                starts.append(at)
                numbers.append(number)
                check_number(path, len(starts))
                if note:
                    notes.append(note(row, f"{path}:{number}"))
            at += len(line)
    return Lines(path, (facts.st_size, facts.st_mtime_ns), starts, numbers)


def _parse_line(path: Path, number: int, text: str) -> Row:
    try:
        row = parse_json(text, nan=True)
    except ValueError as e:
        raise InputError(f"{path}:{number}: is no JSON: {e}.") from e
    if not isinstance(row, dict):
        raise InputError(f"{path}:{number}: is no JSON object.")
    return row
