"""Rows of other people's JSONL, JSON, CSV, TSV and TOML files: one reader, with limits; errors name file and line."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from pa_lite.errors import InputError
from pa_lite.system.opening import MOST_TOML_BYTES, TooLargeError, open_regular, read_regular
from pa_lite.untrusted.strict_json import csv_delimiter, json_memory, parse_csv, parse_json, parse_toml

Row = Mapping[str, Any]
Note = Callable[[Row, str], Any]
_LARGEST, _MEMORY = 256 << 20, 1 << 30  # bytes of a file that is read whole, and of its rows in memory
_BLOCK = 1 << 20  # bytes of JSONL that are read at a time
_LONGEST_LINE = 16 << 20  # bytes of a row
_MOST_ROWS = 4_000_000  # of a file: the offset of each is kept
_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # the first bytes of what spreadsheets call Unicode text


class Rows(Protocol):
    """The rows of one file."""

    @property
    def path(self) -> Path: ...

    def __len__(self) -> int: ...

    def row(self, i: int) -> Row: ...

    def where(self, i: int) -> str:
        """Return file and line (or row, from 1) of row i, for messages."""
        ...


@dataclass(frozen=True)
class Listed:
    """Rows in memory; `numbers` are the lines they end on, or None when rows are numbered instead."""

    path: Path
    rows: Sequence[Row]
    numbers: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, i: int) -> Row:
        return self.rows[i]

    def where(self, i: int) -> str:
        return f"{self.path}:{self.numbers[i]}" if self.numbers else f"{self.path}: row {i + 1}"


@dataclass(kw_only=True)
class Lines:
    """Rows of a JSONL file, of which only the offsets are kept: each row is read and parsed when it is needed."""

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
            self._newest = (i, parse_object(line.decode("utf-8"), self.where(i)))
        return self._newest[1]

    def _load(self, start: int, end: int) -> None:
        with _opened(self.path) as file:
            if _identity(file) != self.identity:
                raise InputError(f"{self.path}: changed while it was being read. Start again when it is complete.")
            file.seek(start)
            self._first, self._block = start, file.read(max(end - start, _BLOCK))

    def where(self, i: int) -> str:
        """Return file and line, for messages."""
        return f"{self.path}:{self.numbers[i]}"


def unreadable(path: Path, error: OSError) -> InputError:
    """Return the error for a file that cannot be opened or read."""
    return InputError(f"{path}: cannot be read: {error.strerror or error}.")


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with open_regular(path) as file:
            yield file
    except OSError as e:
        raise unreadable(path, e) from e


def _identity(file: BinaryIO) -> tuple[int, int]:
    facts = os.fstat(file.fileno())
    return facts.st_size, facts.st_mtime_ns


def parse_object(text: str, where: str) -> dict[str, Any]:
    """Return the object of a JSON document; NaN and infinities are allowed. Raises InputError, naming `where`."""
    try:
        row = parse_json(text.strip(), nan=True)
    except ValueError as e:
        raise InputError(f"{where}: is not JSON: {e}.") from e
    if not isinstance(row, dict):
        raise InputError(f"{where}: is not a JSON object.")
    return row


def read_text(path: Path, is_csv: bool = False) -> str:
    """Return the UTF-8 text of a file whose rows are all kept in memory. Raises InputError, also if it is too large."""
    try:
        content = read_regular(path, _LARGEST)
        if (memory := json_memory(content, is_csv)) > _MEMORY:
            raise TooLargeError(path, f"its rows take {memory >> 20} MB of memory, and the limit is {_MEMORY >> 20} MB")
    except TooLargeError as e:
        advice = "Split it, or convert a task's rows to JSONL, which is read line by line."
        raise InputError(f"{path}: is too large to be read whole: {e.strerror}. {advice}") from e
    except OSError as e:
        raise unreadable(path, e) from e
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        if content.startswith(_UTF_16):
            raise InputError(f"{path}: is UTF-16, not UTF-8. Save it as UTF-8 (in spreadsheets: CSV UTF-8).") from e
        raise InputError(f"{path}: is not UTF-8 ({e.reason} at byte {e.start}). Save it as UTF-8.") from e


def read_toml(path: Path) -> tuple[dict[str, Any], str]:
    """Return the table of a TOML file, and its text. Raises InputError."""
    try:
        text = read_regular(path, MOST_TOML_BYTES).decode("utf-8")
        return parse_toml(text), text
    except OSError as e:
        raise unreadable(path, e) from e
    except ValueError as e:
        raise InputError(f"{path}: is not TOML: {e}.") from e


def read_objects(path: Path) -> Listed:
    """Return the rows of a file that is a JSON list of objects, or JSONL, whatever its name. Raises InputError."""
    text = read_text(path)
    if text.lstrip().startswith("["):
        return json_rows(path, text)
    lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]  # a string may hold U+2028
    return Listed(path, [parse_object(line, f"{path}:{n}") for n, line in lines], [n for n, _ in lines])


def json_rows(path: Path, text: str) -> Listed:
    """Return the rows of a JSON document: a list of objects, or an object with one such list. Raises InputError."""
    try:
        document = parse_json(text, nan=True)
    except ValueError as e:
        raise InputError(f"{path}: is not JSON: {e}.") from e
    lists = [v for v in document.values() if isinstance(v, list)] if isinstance(document, dict) else [document]
    if len(lists) != 1 or not isinstance(lists[0], list):
        raise InputError(f"{path}: must be a list of objects, or an object with one such list.")
    for i, row in enumerate(lists[0], 1):
        if not isinstance(row, dict):
            raise InputError(f"{path}: row {i}: is not a JSON object.")
    return Listed(path, lists[0])


def csv_rows(path: Path, text: str, delimiter: str = "") -> Listed:
    """Return the rows of CSV as dictionaries keyed by the names in its first line; cells are strings.

    Without a delimiter, it is the most frequent of comma, semicolon and tab in the first line. Raises InputError.
    """
    try:
        (_, names), *lines = parse_csv(text, delimiter or csv_delimiter(text)) or [(0, [])]
    except ValueError as e:
        raise InputError(f"{path}: is not CSV: {e}.") from e
    for name, count in Counter(names).items():
        if name and count > 1:
            raise InputError(f"{path}: has the column {name!r} {count} times. Rename or remove all but one.")
    for number, cells in lines:
        if len(cells) != len(names):
            raise InputError(f"{path}:{number}: has {len(cells)} cells for {len(names)} columns.")
    rows = [dict(zip(names, cells, strict=True)) for _, cells in lines]
    return Listed(path, rows, [number for number, _ in lines])


def check_number(path: Path, n: int) -> None:
    """Raise InputError if a file has more rows than the limit."""
    if n > _MOST_ROWS:
        raise InputError(f"{path}: has more than {_MOST_ROWS} rows, the limit for a file. Use a smaller file.")


def scan_lines(path: Path, note: Note | None, notes: list[Any]) -> Lines:
    """Check each line of a JSONL file, keep where it starts, and append `note(row, where)` to `notes`."""
    starts, numbers = array("Q"), array("Q")
    with _opened(path) as file:
        identity = _identity(file)
        at = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
        file.seek(at)
        number = 0
        while line := file.readline(_LONGEST_LINE + 1):  # ends only at \n: a string may hold U+2028
            number += 1
            where = f"{path}:{number}"
            if len(line) > _LONGEST_LINE:
                raise InputError(f"{where}: is longer than {_LONGEST_LINE >> 20} MB, the limit for a row.")
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as e:
                raise InputError(f"{where}: is not UTF-8 ({e.reason} at byte {e.start}).") from e
            if text.strip():
                row = parse_object(text, where)
                starts.append(at)
                numbers.append(number)
                check_number(path, len(starts))
                if note:
                    notes.append(note(row, where))
            at += len(line)
    return Lines(path=path, identity=identity, starts=starts, numbers=numbers)
