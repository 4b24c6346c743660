"""Files that are lists of JSON objects, as model_outputs and annotations are: read with errors of one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pa_lite.documents import parse_json
from pa_lite.errors import InputError

Record = dict[str, Any]


def read_records(path: Path) -> list[Record]:
    """The objects of a file that is one JSON list of them. Raises InputError, naming file and entry, for another."""
    try:
        rows = parse_json(path.read_bytes().decode("utf-8-sig"), nan=True)
    except OSError as e:
        raise InputError(f"{path}: cannot be read: {e.strerror}.") from e
    except ValueError as e:
        raise InputError(f"{path}: is no JSON: {e}.") from e
    if not isinstance(rows, list):
        raise InputError(f"{path}: holds a JSON {_kind(rows)}, not a list of objects.")
    if not rows:
        raise InputError(f"{path}: is an empty list.")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise InputError(f"{path}: entry {number} is a JSON {_kind(row)}, not an object.")
    return rows


def text_of(row: Record, key: str, where: str, empty: bool = False) -> str:
    """A record's text under a key. Raises InputError when it is no text, or a blank one unless `empty` allows that."""
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


_KINDS = {dict: "object", list: "list", str: "text", bool: "truth value", type(None): "null"}


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "number")
