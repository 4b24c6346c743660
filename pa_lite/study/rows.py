"""What the rows of a results file may hold. Run folders are shared: every value is checked before it is used.

Each check returns the row's values ready for use and raises ValueError, which says what is wrong; the store names the
file, the table and the row.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from datetime import date
from typing import Any

from pa_lite.untrusted.strict_json import parse_json

_KEY = re.compile(r"[0-9a-f]{64}")
_LONGEST_NAME = 10_000  # characters: names of models and tasks are part of some
_MOST_ITEMS = 10**9
_FURTHEST = 1e6  # lam, which may lie outside [0, 1]
_LATEST = 32503680000.0  # the year 3000, in seconds since 1970
_MOST_SECONDS = 1e10
_MOST_PARAMETERS = 1e15

Check = Callable[[Any], bool]
Rules = Mapping[str, tuple[Check, str]]  # name -> what its value must pass, and what it must be in words


def _of(kind: type) -> Check:
    """Check that a value is of that very type: true is not a whole number."""
    return lambda value: type(value) is kind


def or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _lists_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _is_number(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def lies_within(low: float, high: float, check: Check = _is_number) -> Check:
    return lambda value: check(value) and low <= value <= high


is_text, is_true_or_false = _of(str), _of(bool)
_is_whole, _is_table = _of(int), _of(dict)
is_texts, is_share = _lists_of(is_text), lies_within(0, 1)


def _is_key(value: Any) -> bool:
    return isinstance(value, str) and _KEY.fullmatch(value) is not None


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME


def _is_measured(value: Any) -> bool:
    """A finite number, or NaN or nothing where it could not be known."""
    return value is None or _is_number(value) or (type(value) is float and math.isnan(value))


def _is_date(value: Any) -> bool:
    try:
        return isinstance(value, str) and len(value) == 10 and bool(date.fromisoformat(value))
    except ValueError:
        return False


def _are_reasons(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_key(key) and is_texts(each) for key, each in value.items())


def _is_control(value: Any) -> bool:
    rules = {**dict.fromkeys(("value", "stderr", "fit_stderr"), _is_measured), "form": or_none(is_text)}
    return isinstance(value, dict) and all(name in value and check(value[name]) for name, check in rules.items())


_FACTS: Rules = {
    "pair": (_is_name, "a name"),
    "date": (_is_date, "a date such as 2026-02-28"),
    "system": (is_text, "a text"),
    "template_args": (_is_table, "an object"),
    "lams": (_lists_of(lies_within(-_FURTHEST, _FURTHEST)), "a list of lams"),
    "types": (is_texts, "a list of types"),
    "tasks": (is_texts, "a list of names"),
    "cells": (_lists_of(_is_key), "a list of keys"),
    "kept": (_are_reasons, "a table of lists"),
    "schedule": (is_text, "a text"),
    "seed": (or_none(_is_whole), "a whole number"),
    "limit": (or_none(_is_whole), "a whole number"),
    "parameters": (lies_within(0, _MOST_PARAMETERS), "a number of parameters"),
}
NEEDED = ("pair", "cells", "schedule", "seed", "limit", "parameters")  # of a study that is read
_CELL: Rules = {
    "key": (_is_key, "a SHA-256 in hex"),
    "lam": (lies_within(-_FURTHEST, _FURTHEST), "a lam"),
    "type": (_is_name, "a type of weights"),
    "name": (_is_name, "a name"),
    "n_items": (lies_within(1, _MOST_ITEMS, _is_whole), "a number of items"),
    "started": (lies_within(0, _LATEST), "a time"),
    "seconds": (lies_within(0, _MOST_SECONDS), "a number of seconds"),
}
_INPUTS: Rules = {
    "base": (is_text, "a text"),
    "instruct": (is_text, "a text"),
    "identity": (is_text, "a text"),
    "work": (_is_table, "an object"),
}
_WORK: Rules = {
    "spec": (is_text, "a text"),
    "shots": (lies_within(0, _MOST_ITEMS, _is_whole), "a number of exemplars"),
}
_SUMMARY: Rules = {
    "area": (is_text, "a text"),
    "majority": (or_none(is_share), "a share in [0, 1]"),
    "chance": (or_none(is_share), "a share in [0, 1]"),
    "value": (_is_measured, "a number"),
    "stderr": (_is_measured, "a number"),
    "length_controlled": (_is_control, "a length-controlled win rate"),
}


def parse_column(name: str, text: Any, nan: bool = False) -> Any:
    """The value of a column that holds JSON."""
    if not isinstance(text, str):
        raise ValueError(f"{name} is not a text")
    if any("\ud800" <= c <= "\udfff" for c in text) if not text.isascii() else False:
        raise ValueError(f"{name} is not UTF-8")
    try:
        return parse_json(text, nan=nan)
    except ValueError as e:
        raise ValueError(f"{name} is not strict JSON: {e}") from None


def read_table(name: str, value: Any, rules: Rules) -> dict[str, Any]:
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
    value = parse_column("value", text)
    if name in _FACTS and not _FACTS[name][0](value):
        raise ValueError(f"value is not {_FACTS[name][1]}")
    return name, value


def read_cell(row: Mapping[str, Any], kinds: Collection[str]) -> dict[str, Any]:
    """Return a cell's columns: `inputs`, `environment` and `summary` parsed, the numbers as they should be.

    `kinds` are those of the workloads that are known. `row` has `n_done`, the count of items that are there: those of a
    finished cell are complete.
    """
    for name, (check, told) in _CELL.items():
        value = row[name]
        if isinstance(value, str) and not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise ValueError(f"{name} is not UTF-8")
        if not check(value):
            raise ValueError(f"{name} is not {told}")
    if row["kind"] not in kinds:
        raise ValueError(f"kind is not one of {', '.join(kinds)}")
    inputs = read_table("inputs", parse_column("inputs", row["inputs"], nan=True), _INPUTS)
    read_table("work", inputs.get("work", {}), _WORK)
    environment = read_table("environment", parse_column("environment", row["environment"]), {})
    if not all(isinstance(value, str) for value in environment.values()):
        raise ValueError("environment has something else than texts")
    summary = None
    if row["summary"] is not None:
        summary = read_table("summary", parse_column("summary", row["summary"], nan=True), _SUMMARY)
        if row["n_done"] != row["n_items"]:
            raise ValueError(f"it is finished and has {row['n_done']} of {row['n_items']} items")
    numbers = {name: float(row[name]) for name in ("lam", "started", "seconds")}
    return {**row, **numbers, "inputs": inputs, "environment": environment, "summary": summary}
