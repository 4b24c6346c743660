"""Checks of untrusted tables: known keys, required keys, and types of values."""

from __future__ import annotations

from typing import Any

import pytest

from pa_lite.errors import InputError
from pa_lite.untrusted.tables import (
    ANYTHING,
    BOOLEAN,
    INTEGER,
    STRING,
    STRING_TABLE,
    STRINGS,
    TABLE,
    TABLES,
    TEXT,
    check_table,
)

FORMS = {"name": TEXT, "n": INTEGER, "own": BOOLEAN, "tags": STRINGS}


def test_a_valid_table_is_returned() -> None:
    table = {"name": "a", "n": 0, "own": False, "tags": []}
    assert check_table(table, "x.toml", FORMS, ("name", "n")) is table
    assert check_table({"name": "a", "more": 1}, "x.toml", FORMS, others=True) == {"name": "a", "more": 1}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([], "x.toml: is not a table."),
        ({"name": "a", "tag": []}, "x.toml: unknown key 'tag'. Did you mean tags?"),
        ({"n": 1}, "x.toml: has no 'name'."),
        ({"name": " "}, "x.toml: 'name' must be a string that is not empty, not ' '."),
        ({"name": "a", "n": True}, "x.toml: 'n' must be an integer, not True."),
        ({"name": "a", "own": 1}, "x.toml: 'own' must be true or false, not 1."),
        ({"name": "a", "tags": ["a", 1]}, "x.toml: 'tags' must be a list of strings, not ['a', 1]."),
    ],
)
def test_the_wrong_key_is_named(table: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        check_table(table, "x.toml", FORMS, ("name",))
    assert str(caught.value) == message


def test_long_keys_and_values_are_shortened_in_messages() -> None:
    for table in ({"k" * 1000: 1}, {"n": "v" * 1000}):
        with pytest.raises(InputError) as caught:
            check_table(table, "x", FORMS)
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("form", "valid", "invalid"),
    [
        (STRING, ["", "a"], [None, 1, b"a"]),
        (STRING_TABLE, [{}, {"a": "b"}], [{"a": 1}, ["a"]]),
        (TABLE, [{}], [[], None]),
        (TABLES, [[], [{}]], [{}, [1]]),
        (ANYTHING, [None, 3], []),
    ],
)
def test_forms(form: Any, valid: list[Any], invalid: list[Any]) -> None:
    assert all(form[0](value) for value in valid)
    assert not any(form[0](value) for value in invalid)
