"""A study's numbers as CSV. Cells that a spreadsheet would run are made harmless."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def harmless(text: str) -> str:
    """A text that no spreadsheet takes for a formula: one that begins like a formula gets an apostrophe before it."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def to_csv(rows: Sequence[Mapping[str, float | str | None]]) -> str:
    """A CSV file's text: a header and one line for each row; numbers in full, None and NaN empty."""
    out = io.StringIO()
    names = list(rows[0]) if rows else []
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([_cell(row[name]) for name in names])
    return out.getvalue()


def _cell(value: float | str | None) -> str:
    if value is None or value != value:
        return ""
    return harmless(value) if isinstance(value, str) else repr(value)
