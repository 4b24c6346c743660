"""What the rows of a results file may hold. Run folders are shared: every value is checked before it is used.

Each check returns the row's values ready for use and raises ValueError, which says what is wrong; the store names the
file, the table and the row.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any

from pa_lite.untrusted.strict_json import parse_json

KINDS = ("task", "follow", "answers", "wins")
_KEY = re.compile(r"[0-9a-f]{64}")
_LONGEST_NAME = 10_000  # characters: names of models and tasks are part of some
_MOST_ITEMS = 10**9
_FURTHEST = 1e6  # lam, which may lie outside [0, 1]
_LATEST = 32503680000.0  # the year 3000, in seconds since 1970
_MOST_SECONDS = 1e10
_MOST_PARAMETERS = 1e15

Check = Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and _is_finite(value)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_key(value: Any) -> bool:
    return isinstance(value, str) and _KEY.fullmatch(value) is not None


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_truth(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _is_measured(value: Any) -> bool:
    """A finite number, or NaN or nothing where it could not be known."""
    return value is None or _is_number(value) or (isinstance(value, float) and math.isnan(value))


def _is_date(value: Any) -> bool:
    try:
        return isinstance(value, str) and len(value) == 10 and bool(date.fromisoformat(value))
    except ValueError:
        return False


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _lists_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _are_reasons(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_key(key) and _is_texts(each) for key, each in value.items())


def _lies_within(low: float, high: float, check: Check = _is_number) -> Check:
    return lambda value: check(value) and low <= value <= high


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME


_FACTS: Mapping[str, tuple[Check, str]] = {
    "pair": (_is_name, "a name"),
    "date": (_is_date, "a date such as 2026-02-28"),
    "system": (_is_text, "a text"),
    "template_args": (_is_table, "an object"),
    "lams": (_lists_of(_lies_within(-_FURTHEST, _FURTHEST)), "a list of lams"),
    "types": (_is_texts, "a list of types"),
    "tasks": (_is_texts, "a list of names"),
    "cells": (_lists_of(_is_key), "a list of keys"),
    "kept": (_are_reasons, "a table of lists"),
    "schedule": (_is_text, "a text"),
    "seed": (_or_none(_is_whole), "a whole number"),
    "limit": (_or_none(_is_whole), "a whole number"),
    "parameters": (_lies_within(0, _MOST_PARAMETERS), "a number of parameters"),
}
NEEDED = ("pair", "cells", "schedule", "seed", "limit", "parameters")  # of a study that is read
_CELL: Sequence[tuple[str, Check, str]] = (
    ("key", _is_key, "a SHA-256 in hex"),
    ("lam", _lies_within(-_FURTHEST, _FURTHEST), "a lam"),
    ("type", _is_name, "a type of weights"),
    ("kind", lambda value: value in KINDS, f"one of {', '.join(KINDS)}"),
    ("name", _is_name, "a name"),
    ("n_items", _lies_within(1, _MOST_ITEMS, _is_whole), "a number of items"),
    ("started", _lies_within(0, _LATEST), "a time"),
    ("seconds", _lies_within(0, _MOST_SECONDS), "a number of seconds"),
)
_INPUTS: Mapping[str, tuple[Check, str]] = {
    "base": (_is_text, "a text"),
    "instruct": (_is_text, "a text"),
    "identity": (_is_text, "a text"),
    "work": (_is_table, "an object"),
}
_WORK: Mapping[str, tuple[Check, str]] = {
    "spec": (_is_text, "a text"),
    "shots": (_lies_within(0, _MOST_ITEMS, _is_whole), "a number of exemplars"),
}
_SUMMARY: Mapping[str, tuple[Check, str]] = {
    "area": (_is_text, "a text"),
    "majority": (_or_none(_is_share), "a share in [0, 1]"),
    "chance": (_or_none(_is_share), "a share in [0, 1]"),
    "value": (_is_measured, "a number"),
    "stderr": (_is_measured, "a number"),
}
_RECORDS: Mapping[str, Sequence[tuple[str, Check, str]]] = {
    "task": (("metric", _is_text, "a text"),),
    "follow": (
        ("instruction", _is_text, "a text"),
        ("output", _is_text, "a text"),
        ("ended", lambda value: isinstance(value, bool), "true or false"),
        ("followed", _is_truth, "true, false or null"),
    ),
    "answers": (
        ("instruction", _is_text, "a text"),
        ("output", _is_text, "a text"),
        ("ended", lambda value: isinstance(value, bool), "true or false"),
    ),
    "wins": (("preference", _or_none(_lies_within(1, 2)), "a number from 1 to 2, or null"),),
}
_OPTIONAL: Mapping[str, tuple[Check, str]] = {
    "output": (_is_text, "a text"),
    "remarks": (_is_texts, "a list of texts"),
    "truncated": (lambda value: isinstance(value, bool), "true or false"),
}


def _parsed(name: str, text: Any, nan: bool = False) -> Any:
    """The value of a column that holds JSON."""
    if not isinstance(text, str):
        raise ValueError(f"{name} is not a text")
    if any("\ud800" <= c <= "\udfff" for c in text) if not text.isascii() else False:
        raise ValueError(f"{name} is not UTF-8")
    try:
        return parse_json(text, nan=nan)
    except ValueError as e:
        raise ValueError(f"{name} is not strict JSON: {e}") from None


def _table(name: str, value: Any, rules: Mapping[str, tuple[Check, str]]) -> dict[str, Any]:
    """The value, which must be an object whose members follow the rules where they are there."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not an object")
    for member, (check, told) in rules.items():
        if member in value and not check(value[member]):
            raise ValueError(f"{member!r} of {name} is not {told}")
    return value


def read_fact(name: Any, text: Any) -> tuple[str, Any]:
    """Return a fact's name and value. Facts that are not known may have any value."""
    if not isinstance(name, str) or not name.isprintable():
        raise ValueError("its name is not a text")
    value = _parsed("value", text)
    if name in _FACTS and not _FACTS[name][0](value):
        raise ValueError(f"value is not {_FACTS[name][1]}")
    return name, value


def read_cell(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a cell's columns: `inputs`, `environment` and `summary` parsed, the numbers as they should be.

    `row` has `n_done`, the count of items that are there: those of a finished cell are complete.
    """
    for name, check, told in _CELL:
        value = row[name]
        if isinstance(value, str) and not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise ValueError(f"{name} is not UTF-8")
        if not check(value):
            raise ValueError(f"{name} is not {told}")
    inputs = _table("inputs", _parsed("inputs", row["inputs"], nan=True), _INPUTS)
    _table("work", inputs.get("work", {}), _WORK)
    environment = _table("environment", _parsed("environment", row["environment"]), {})
    if not all(isinstance(value, str) for value in environment.values()):
        raise ValueError("environment has something else than texts")
    summary = None
    if row["summary"] is not None:
        summary = _table("summary", _parsed("summary", row["summary"], nan=True), _SUMMARY)
        if row["n_done"] != row["n_items"]:
            raise ValueError(f"it is finished and has {row['n_done']} of {row['n_items']} items")
    numbers = {name: float(row[name]) for name in ("lam", "started", "seconds")}
    return {**row, **numbers, "inputs": inputs, "environment": environment, "summary": summary}


def read_record(kind: str, text: Any) -> dict[str, Any]:
    """Return the record of an item of a cell of that kind."""
    record = _table("record", _parsed("record", text, nan=True), _OPTIONAL)
    for name, check, told in _RECORDS[kind]:
        if name not in record:
            raise ValueError(f"record has no {name!r}")
        if not check(record[name]):
            raise ValueError(f"{name!r} of record is not {told}")
    if kind == "task":
        metrics = record.get("metrics")
        if not isinstance(metrics, dict) or not all(map(_is_share, metrics.values())):
            raise ValueError("'metrics' of record is not an object of numbers in [0, 1]")
        if record["metric"] not in metrics:
            raise ValueError("'metrics' of record lacks the task's own metric")
    return record
