"""JSON, TOML and CSV parsed strictly: invalid input raises one ValueError, of one line, in bounded time."""

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

from pa_lite.untrusted.strict_json import csv_delimiter, parse_csv, parse_json, parse_toml

_TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(_TEXTS, inner),
)


@given(_VALUES, st.booleans())
def test_written_json_is_parsed(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert parse_json(text) == value
    assert parse_json(text.encode("utf-8")) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 1}}', "duplicate key 'c'"),
        ("[NaN]", "has NaN where a number is required"),
        ("[-Infinity]", "has -Infinity where"),
        ("[1e999]", "the number 1e999 is too large"),
        ("[" + "9" * 5000 + "]", "it has a number of more than 4300 digits"),
        ("[" * 65 + "]" * 65, "nested more than 64 deep"),
        ('{"a":' * 65 + "1" + "}" * 65, "nested more than 64 deep"),
        ("[" * 100_000, "nested more than 64 deep"),
        # Python's own depth limit differs between versions: later errors must not matter
        ('{"a": ' + "[" * 2000, "nested more than 64 deep"),
        ("[" * 65 + "x", "nested more than 64 deep"),
        ("[" * 64 + "x", "Expecting value"),
        ('["' + "[" * 70 + '\\"[" 1', "Expecting ',' delimiter"),
        ("[]" * 70, "Extra data"),
        ('["a\\ud83d"]', "contains a lone surrogate"),
        ('{"a\\uDE00": 1}', "contains a lone surrogate"),
        (b'["\xff"]', "can't decode byte 0xff"),
        (b"\xef\xbb\xbf{}", "BOM"),
        ('["\t"]', "Invalid control character"),
        ("", "Expecting value"),
    ],
)
def test_invalid_json_is_refused(text: str | bytes, message: str) -> None:
    start = time.perf_counter()
    with pytest.raises(ValueError, match=message) as caught:
        parse_json(text)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 300
    assert time.perf_counter() - start < 10  # not endless


def test_json_at_the_limits_is_accepted() -> None:
    assert parse_json("[" * 64 + "]" * 64)
    assert parse_json('["\\ud83d\\ude00 \\\\ud83d"]') == ["\U0001f600 \\ud83d"]
    assert math.isnan(parse_json("[NaN, 1e999]", nan=True)[0])
    assert parse_json("[NaN, 1e999]", nan=True)[1] == math.inf
    assert parse_json("[" + ",".join(["{}"] * 1000) + "]") == [{}] * 1000


def test_valid_toml_is_parsed() -> None:
    parsed = parse_toml('a.b = "x"\n[t]\nc = [1, 2.5]\ntext = """\nwait ..... ' + ". " * 70 + ' = 3\n"""\n')
    assert parsed["a"] == {"b": "x"}
    assert parsed["t"]["c"] == [1, 2.5]
    assert parse_toml("x = [" + "0.5, " * 100 + "]")["x"] == [0.5] * 100
    assert parse_toml(b'y = "' + b"a." * 100 + b'"')["y"] == "a." * 100


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = " + "[" * 5000, "nested more than 64 deep"),
        ("x = " + "[" * 65 + "]" * 65, "nested more than 64 deep"),
        ("x = " + "{a=" * 5000, "nested more than 64 deep"),
        ("a." * 200_000 + "b = 1", "line 1 has a key of 200001 parts"),
        ("[" + "a . " * 100 + "b]", "line 1 has a key of 101 parts"),
        ("\nx = {" + "a." * 100 + "b = 1}", "line 2 has a key of 101 parts"),
        ('"q.q"' + ".a" * 100 + " = 1", "line 1 has a key of 101 parts"),
        ("x = " + "9" * 5000, "it has a number of more than 4300 digits"),
        ("x = 0x" + "f" * 5000, "it has a number of 20000 bits; the limit is 64"),
        ("[[t]]\ny = {z = [1, 0b" + "1" * 65 + "]}", "it has a number of 65 bits; the limit is 64"),
        ("x = 1\nx = 2", "overwrite"),
        (b"x = '\xff'", "can't decode byte 0xff"),
        ('x = "\\ud800"', "not a Unicode scalar value"),
    ],
)
def test_invalid_toml_is_refused(text: str | bytes, message: str) -> None:
    start = time.perf_counter()
    with pytest.raises(ValueError, match=message) as caught:
        parse_toml(text)
    assert len(str(caught.value).splitlines()) == 1
    assert time.perf_counter() - start < 10  # not endless


@given(st.text(st.sampled_from('ab,;\t"\r\n\u2028 ')), st.sampled_from(",;\t"))
def test_csv_is_parsed_as_by_python(text: str, delimiter: str) -> None:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    expected: list[tuple[int, list[str]]] | None
    try:
        expected = [(reader.line_num, row) for row in reader if row]
    except csv.Error:
        expected = None
    try:
        found: list[tuple[int, list[str]]] | None = parse_csv(text, delimiter)
    except ValueError:
        found = None
    assert found == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('a\n"b', "line 2: a quotation mark is never closed"),
        ('a\r\n"b\nc"d', "line 2: 'd' follows a closing quotation mark"),
        ('"' + '""' * 100_000, "line 1: a quotation mark is never closed"),
    ],
)
def test_invalid_csv_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_csv(text)


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("a,b\n1;2;3;4,5", ","),
        ("a;b;c\n1,2,3;4,5,6;7", ";"),
        ("a\tb,c\n", ","),
        ("\n\r\na\tb\tc,d\n", "\t"),
        ('"a,b,c";d\n', ";"),
        ('"a;\nb;c",d\n', ","),
        ("one column", ","),
        ("", ","),
        ('"' + "x;" * 100_000, ","),
    ],
)
def test_the_delimiter_of_csv_is_that_of_its_first_row(text: str, delimiter: str) -> None:
    assert csv_delimiter(text) == delimiter


def test_csv_cells_may_have_any_length() -> None:
    cell = "x" * 1_000_000
    assert parse_csv(f'a,b\n{cell},"{cell}"\n') == [(1, ["a", "b"]), (2, [cell, cell])]
    assert parse_csv("a\0b\n") == [(1, ["a\0b"])]
