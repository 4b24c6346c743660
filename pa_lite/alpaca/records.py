"""Files of JSON objects, as prompts, model_outputs and annotations are: read with errors of one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pa_lite.errors import InputError
from pa_lite.untrusted.rows import read_objects

Record = dict[str, Any]


def read_records(path: Path) -> list[Record]:
    """Return the objects of a file that is a JSON list of them, or JSONL.

    Raises InputError, naming file and line or row, for a file that is neither, or has none.
    """
    rows = read_objects(path).rows
    if not rows:
        raise InputError(f"{path}: has no entries.")
    return [dict(row) for row in rows]


def text_of(row: Record, key: str, where: str, empty: bool = False) -> str:
    """Return a record's string under a key.

    Raises InputError, naming `where`, when it is not a string, or one of white space unless `empty` allows that.
    """
    value = row.get(key)
    if not isinstance(value, str):
        told = "no text"
    elif not (empty or value.strip()):
        told = "an empty text"
    elif any("\ud800" <= c <= "\udfff" for c in value):  # half of a pair, which UTF-8 cannot hold
        told = "a broken text"
    else:
        return value
    raise InputError(f"{where} has {told} under {key!r}.")


def same_name(rows: list[Record], key: str, path: Path, default: str | None = None) -> str:
    """The one name that every record has under a key. Raises InputError for several, or for none without a default."""
    names = {str(row[key]) for row in rows if row.get(key) is not None}
    if len(names) > 1:
        some = ", ".join(sorted(names)[:3])
        raise InputError(f"{path}: has several names under {key!r} ({some}): make a file of each.")
    if not names and default is None:
        raise InputError(f"{path}: no entry has a name under {key!r}.")
    return names.pop() if names else str(default)


def shorten(text: str, limit: int = 60) -> str:
    """A text's start on one line, quoted, for an error."""
    line = " ".join(text.split())
    return repr(line if len(line) <= limit else line[: limit - 3] + "...")
