"""Readers for files of JSON objects: prompts, model_outputs and annotations, with one-line errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pa_lite.errors import InputError
from pa_lite.untrusted.rows import read_objects

Record = dict[str, Any]


def read_records(path: Path) -> list[Record]:
    """Return the objects of a JSON list or JSONL file.

    Raises InputError, naming file and line or row, for any other file and for an empty one.
    """
    rows = read_objects(path).rows
    if not rows:
        raise InputError(f"{path}: has no entries.")
    return [dict(row) for row in rows]


def text_of(row: Record, key: str, where: str, empty: bool = False) -> str:
    """Return a record's string under a key.

    Raises InputError, naming `where`, when it is not a string, holds a lone surrogate, or is only white space (unless
    `empty` allows that).
    """
    value = row.get(key)
    if not isinstance(value, str):
        problem = "no string"
    elif not (empty or value.strip()):
        problem = "an empty string"
    elif any("\ud800" <= c <= "\udfff" for c in value):  # cannot be encoded as UTF-8
        problem = "a lone surrogate"
    else:
        return value
    raise InputError(f"{where} has {problem} under {key!r}.")


def same_name(rows: list[Record], key: str, path: Path, default: str | None = None) -> str:
    """Return the only name under a key in all records, or the default.

    Raises InputError for several names, and for no name when there is no default.
    """
    names = {str(row[key]) for row in rows if row.get(key) is not None}
    if len(names) > 1:
        some = ", ".join(sorted(names)[:3])
        raise InputError(f"{path}: has several names under {key!r} ({some}). Split it into one file for each.")
    if not names and default is None:
        raise InputError(f"{path}: no entry has a name under {key!r}.")
    return names.pop() if names else str(default)


def shorten(text: str, limit: int = 60) -> str:
    """Return the start of a text on one line, quoted, for an error message."""
    line = " ".join(text.split())
    return repr(line if len(line) <= limit else line[: limit - 3] + "...")
