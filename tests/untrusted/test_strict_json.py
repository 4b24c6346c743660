"""JSON, TOML and CSV read strictly: what they may not hold is one ValueError of one line, and soon."""

from __future__ import annotations

import csv
import io
import json
import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pa_lite.untrusted.strict_json import parse_csv, parse_json, parse_toml

_TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(_TEXTS, inner),
)


@given(_VALUES, st.booleans())
def test_json_that_json_writes_is_read(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert parse_json(text) == value
    assert parse_json(text.encode("utf-8")) == value


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 1}}', "has the member 'c' twice"),
        ("[NaN]", "has NaN where a number must stand"),
        ("[-Infinity]", "has -Infinity where"),
        ("[1e999]", "the number 1e999 is too large"),
        ("[" + "9" * 5000 + "]", "it has a number of more than 4300 digits"),
        ("[" * 65 + "]" * 65, "nested more than 64 deep"),
        ('{"a":' * 65 + "1" + "}" * 65, "nested more than 64 deep"),
        ("[" * 100_000, "nested more than 64 deep"),
        # how deep Python itself gets differs between its versions: what is wrong further on must not matter
        ('{"a": ' + "[" * 2000, "nested more than 64 deep"),
        ("[" * 65 + "x", "nested more than 64 deep"),
        ("[" * 64 + "x", "Expecting value"),
        ('["' + "[" * 70 + '\\"[" 1', "Expecting ',' delimiter"),
        ("[]" * 70, "Extra data"),
        ('["a\\ud83d"]', "holds half a character"),
        ('{"a\\uDE00": 1}', "holds half a character"),
        (b'["\xff"]', "can't decode byte 0xff"),
        (b"\xef\xbb\xbf{}", "BOM"),
        ('["\t"]', "Invalid control character"),
        ("", "Expecting value"),
    ],
)
def test_json_that_is_refused(text: str | bytes, told: str) -> None:
    start = time.perf_counter()
    with pytest.raises(ValueError, match=told) as caught:
        parse_json(text)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 300
    assert time.perf_counter() - start < 10  # and not for ever


def test_json_that_is_just_right() -> None:
    assert parse_json("[" * 64 + "]" * 64)
    assert parse_json('["\\ud83d\\ude00 \\\\ud83d"]') == ["\U0001f600 \\ud83d"]
    assert math.isnan(parse_json("[NaN, 1e999]", nan=True)[0])
    assert parse_json("[NaN, 1e999]", nan=True)[1] == math.inf
    assert parse_json("[" + ",".join(["{}"] * 1000) + "]") == [{}] * 1000


def test_toml_is_read() -> None:
    told = parse_toml('a.b = "x"\n[t]\nc = [1, 2.5]\ntext = """\nwait ..... ' + ". " * 70 + ' = 3\n"""\n')
    assert told["a"] == {"b": "x"}
    assert told["t"]["c"] == [1, 2.5]
    assert parse_toml("x = [" + "0.5, " * 100 + "]")["x"] == [0.5] * 100
    assert parse_toml(b'y = "' + b"a." * 100 + b'"')["y"] == "a." * 100


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = " + "[" * 5000, "nested more than 64 deep"),
        ("x = " + "[" * 65 + "]" * 65, "nested more than 64 deep"),
        ("x = " + "{a=" * 5000, "nested more than 64 deep"),
        ("a." * 200_000 + "b = 1", "line 1 has a key of 200001 parts"),
        ("[" + "a . " * 100 + "b]", "line 1 has a key of 101 parts"),
        ("\nx = {" + "a." * 100 + "b = 1}", "line 2 has a key of 101 parts"),
        ('"q.q"' + ".a" * 100 + " = 1", "line 1 has a key of 101 parts"),
        ("x = " + "9" * 5000, "it has a number of more than 4300 digits"),
        ("x = 0x" + "f" * 5000, "it has a number of 20000 bits; the most is 64"),
        ("[[t]]\ny = {z = [1, 0b" + "1" * 65 + "]}", "it has a number of 65 bits; the most is 64"),
        ("x = 1\nx = 2", "overwrite"),
        (b"x = '\xff'", "can't decode byte 0xff"),
        ('x = "\\ud800"', "not a Unicode scalar value"),
    ],
)
def test_toml_that_is_refused(text: str | bytes, told: str) -> None:
    start = time.perf_counter()
    with pytest.raises(ValueError, match=told) as caught:
        parse_toml(text)
    assert len(str(caught.value).splitlines()) == 1
    assert time.perf_counter() - start < 10  # and not for ever


@given(st.text(st.sampled_from('ab,"\r\n\u2028 ')))
def test_csv_is_read_as_by_python(text: str) -> None:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    expected: list[tuple[int, list[str]]] | None
    try:
        expected = [(reader.line_num, row) for row in reader if row]
    except csv.Error:
        expected = None
    try:
        found: list[tuple[int, list[str]]] | None = parse_csv(text)
    except ValueError:
        found = None
    assert found == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('a\n"b', "line 2: a quotation mark is never closed"),
        ('a\r\n"b\nc"d', "line 2: 'd' follows a closing quotation mark"),
        ('"' + '""' * 100_000, "line 1: a quotation mark is never closed"),
    ],
)
def test_csv_that_is_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_csv(text)


def test_csv_cells_of_any_length() -> None:
    cell = "x" * 1_000_000
    assert parse_csv(f'a,b\n{cell},"{cell}"\n') == [(1, ["a", "b"]), (2, [cell, cell])]
    assert parse_csv("a\0b\n") == [(1, ["a\0b"])]
