"""Validation of the rows of a results file. Run folders are shared, so every value is checked before use.

Functions return a row's values ready for use and raise ValueError for invalid ones; the store adds file, table and row.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from datetime import date
from typing import Any

from pa_lite.tasks.scoring import MOST_SEEDS
from pa_lite.untrusted.strict_json import parse_json

_KEY = re.compile(r"[0-9a-f]{64}")
_PAIR = re.compile(r"[0-9a-f]{48}")  # see `pair_key`
_LONGEST_NAME = 10_000  # characters; some names contain those of models and tasks
_MOST_ITEMS = 10**9
_MOST_IDS = 1 << 22  # token ids in a list
_FURTHEST = 1e6  # absolute value of a lam, which may be outside [0, 1]
_LATEST = 32503680000.0  # the year 3000, in seconds since 1970
_MOST_SECONDS = 1e10
_MOST_PARAMETERS = 1e15

Check = Callable[[Any], bool]
Rules = Mapping[str, tuple[Check, str]]  # name -> check of its value, and the expected value in words


def _of(python_type: type) -> Check:
    """Return a check for exactly this type: true is not an integer."""
    return lambda value: type(value) is python_type


def or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _lists_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _is_number(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # an integer beyond the range of floats
        return False


def lies_within(low: float, high: float, check: Check = _is_number) -> Check:
    return lambda value: check(value) and low <= value <= high


is_text, is_true_or_false = _of(str), _of(bool)
is_whole, _is_table = _of(int), _of(dict)
is_texts, is_share = _lists_of(is_text), lies_within(0, 1)
_are_ids = _lists_of(lies_within(0, (1 << 31) - 1, is_whole))


def are_tokens(value: Any) -> bool:
    """Return whether a value is a list of token ids, at least one and not too many."""
    return _are_ids(value) and 0 < len(value) <= _MOST_IDS


def _is_key(value: Any) -> bool:
    return isinstance(value, str) and _KEY.fullmatch(value) is not None


def _is_pair(value: Any) -> bool:
    return isinstance(value, str) and _PAIR.fullmatch(value) is not None


def _are_known(value: Any) -> bool:
    """Return whether a value has pairs' known preferences: two shares by `pair_key`."""
    return isinstance(value, dict) and all(
        _is_pair(key) and isinstance(each, list) and len(each) == 2 and all(map(is_share, each))
        for key, each in value.items()
    )


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME


def _is_measured(value: Any) -> bool:
    """Return whether a value is a finite number, or NaN or null for an unknown one."""
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


def _are_clusters(value: Any) -> bool:
    return isinstance(value, list) and all(map(lies_within(0, _MOST_ITEMS, is_whole), value))


def _are_numbers(value: Any) -> bool:
    """Return whether a value is an object of metrics: each with a value and a standard error, which may be unknown."""
    rules = dict.fromkeys(("value", "stderr"), _is_measured)
    return isinstance(value, dict) and all(
        isinstance(each, dict) and all(name in each and check(each[name]) for name, check in rules.items())
        for each in value.values()
    )


_FACTS: Rules = {
    "pair": (_is_name, "a name"),
    "date": (_is_date, "a date such as 2026-02-28"),
    "system": (is_text, "a string"),
    "template_args": (_is_table, "an object"),
    "lams": (_lists_of(lies_within(-_FURTHEST, _FURTHEST)), "a list of lams"),
    "types": (is_texts, "a list of types"),
    "tasks": (is_texts, "a list of names"),
    "cells": (_lists_of(_is_key), "a list of keys"),
    "kept": (_are_reasons, "an object of lists"),
    "known": (_are_known, "an object of known preferences"),
    "schedule": (is_text, "a string"),
    "seed": (or_none(is_whole), "an integer"),
    "seeds": (lies_within(1, MOST_SEEDS, is_whole), "a number of seeds"),
    "limit": (or_none(is_whole), "an integer"),
    "parameters": (lies_within(0, _MOST_PARAMETERS), "a number of parameters"),
}
REQUIRED = ("pair", "cells", "schedule", "seed", "limit", "parameters")  # facts of every study
_CELL: Rules = {
    "key": (_is_key, "a hexadecimal SHA-256"),
    "lam": (lies_within(-_FURTHEST, _FURTHEST), "a lam"),
    "type": (_is_name, "a weight type"),
    "name": (_is_name, "a name"),
    "n_items": (lies_within(1, _MOST_ITEMS, is_whole), "a number of items"),
    "started": (lies_within(0, _LATEST), "a time"),
    "seconds": (lies_within(0, _MOST_SECONDS), "a number of seconds"),
}
_INPUTS: Rules = {
    "base": (is_text, "a string"),
    "instruct": (is_text, "a string"),
    "identity": (is_text, "a string"),
    "work": (_is_table, "an object"),
}
_WORK: Rules = {
    "spec": (is_text, "a string"),
    "shots": (lies_within(0, _MOST_ITEMS, is_whole), "a number of exemplars"),
    "seeds": (lies_within(1, MOST_SEEDS, is_whole), "a number of seeds"),
}
_SUMMARY: Rules = {
    "version": (lies_within(1, _MOST_ITEMS, is_whole), "a version"),
    "seeds": (lies_within(1, MOST_SEEDS, is_whole), "a number of seeds"),
    "area": (is_text, "a string"),
    "majority": (or_none(is_share), "a share in [0, 1]"),
    "chance": (or_none(is_share), "a share in [0, 1]"),
    "value": (_is_measured, "a number"),
    "stderr": (_is_measured, "a number"),
    "length_controlled": (_is_control, "a length-controlled win rate"),
    "pairs": (_lists_of(_is_pair), "a list of keys of pairs"),
    "clusters": (_are_clusters, "a list of numbers of clusters"),
    "metrics": (_are_numbers, "an object of metrics"),
}


def parse_column(name: str, text: Any, nan: bool = False) -> Any:
    """Return the value of a JSON column. Raises ValueError unless it is strict JSON in UTF-8."""
    if not isinstance(text, str):
        raise ValueError(f"{name} is not a string")
    if any("\ud800" <= c <= "\udfff" for c in text) if not text.isascii() else False:
        raise ValueError(f"{name} is not UTF-8")
    try:
        return parse_json(text, nan=nan)
    except ValueError as e:
        raise ValueError(f"{name} is not strict JSON: {e}") from None


def read_table(name: str, value: Any, rules: Rules) -> dict[str, Any]:
    """Return the value. Raises ValueError unless it is an object and each key that it has passes its rule."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not an object")
    for key, (check, expected) in rules.items():
        if key in value and not check(value[key]):
            raise ValueError(f"{key!r} of {name} is not {expected}")
    return value


def read_fact(name: Any, text: Any) -> tuple[str, Any]:
    """Return a fact's name and value. Unknown facts may have any value."""
    if not isinstance(name, str) or not name.isprintable():
        raise ValueError("its name is not a printable string")
    value = parse_column("value", text)
    if name in _FACTS and not _FACTS[name][0](value):
        raise ValueError(f"value is not {_FACTS[name][1]}")
    return name, value


def read_cell(row: Mapping[str, Any], workloads: Collection[str]) -> dict[str, Any]:
    """Return a cell's columns with `inputs`, `environment` and `summary` parsed and numbers as floats.

    `workloads` are the known kinds. `row` has `n_done`, the number of stored items, which a finished cell has all of.
    """
    for name, (check, expected) in _CELL.items():
        value = row[name]
        if isinstance(value, str) and not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise ValueError(f"{name} is not UTF-8")
        if not check(value):
            raise ValueError(f"{name} is not {expected}")
    if row["kind"] not in workloads:
        raise ValueError(f"kind is not one of {', '.join(workloads)}")
    inputs = read_table("inputs", parse_column("inputs", row["inputs"], nan=True), _INPUTS)
    read_table("work", inputs.get("work", {}), _WORK)
    _check_seeds(inputs.get("work", {}), row["n_items"])
    environment = read_table("environment", parse_column("environment", row["environment"]), {})
    if not all(isinstance(value, str) for value in environment.values()):
        raise ValueError("environment has a value that is not a string")
    summary = None
    if row["summary"] is not None:
        summary = read_table("summary", parse_column("summary", row["summary"], nan=True), _SUMMARY)
        _check_seeds(summary, row["n_items"])
        if row["n_done"] != row["n_items"]:
            raise ValueError(f"it is marked as finished with {row['n_done']} of {row['n_items']} items")
        if "pairs" in summary and len(summary["pairs"]) != row["n_items"]:
            raise ValueError(f"summary has {len(summary['pairs'])} pairs for {row['n_items']} items")
        n = row["n_items"] // summary.get("seeds", 1)
        if len(summary.get("clusters", range(n))) != n:
            raise ValueError(f"'clusters' of summary has {len(summary['clusters'])} numbers for {n} items")
    numbers = {name: float(row[name]) for name in ("lam", "started", "seconds")}
    return {**row, **numbers, "inputs": inputs, "environment": environment, "summary": summary}


def _check_seeds(table: Mapping[str, Any], n_items: int) -> None:
    """Raise ValueError unless a cell has the same number of items for each draw of exemplars."""
    if n_items % table.get("seeds", 1):
        raise ValueError(f"its {n_items} items cannot be divided over {table['seeds']} seeds")
