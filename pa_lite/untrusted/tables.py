"""Checks untrusted tables, such as TOML tables and JSON objects: their keys and the types of their values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pa_lite.errors import InputError, nearest

Form = tuple[Callable[[Any], bool], str]  # whether a value is valid, and its description in messages


def is_string(value: Any) -> bool:
    return isinstance(value, str)


def is_integer(value: Any) -> bool:
    return type(value) is int


def are_strings(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_string, value))


def is_table(value: Any) -> bool:
    return isinstance(value, dict)


STRING: Form = is_string, "a string"
TEXT: Form = (lambda value: is_string(value) and bool(value.strip())), "a string that is not empty"
STRINGS: Form = are_strings, "a list of strings"
STRING_TABLE: Form = (lambda value: is_table(value) and all(map(is_string, value.values()))), "a table of strings"
INTEGER: Form = is_integer, "an integer"
BOOLEAN: Form = (lambda value: type(value) is bool), "true or false"
TABLE: Form = is_table, "a table"
TABLES: Form = (lambda value: isinstance(value, list) and all(map(is_table, value))), "a list of tables"
ANYTHING: Form = (lambda _value: True), "anything"


def check_table(
    table: Any, where: str, forms: Mapping[str, Form], required: Iterable[str] = (), others: bool = False
) -> dict[str, Any]:
    """Return the table itself after checking that its keys are known, its values valid and no required key missing.

    With `others`, keys without a form may have any value. Raises InputError, whose message begins with `where`.
    """
    if not isinstance(table, dict):
        raise InputError(f"{where}: is not a table.")
    for key in table if not others else ():
        if key not in forms:
            raise InputError(f"{where}: unknown key {str(key)!r:.80}.{nearest(str(key), forms)}")
    for key in required:
        if key not in table:
            raise InputError(f"{where}: has no {key!r}.")
    for key, (is_valid, description) in forms.items():
        if key in table and not is_valid(table[key]):
            raise InputError(f"{where}: {key!r} must be {description}, not {table[key]!r:.80}.")
    return table
