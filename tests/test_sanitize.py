"""Untrusted text in output: every format makes it harmless and loses none of it."""

from __future__ import annotations

import csv
import io
import json
import math
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from pa_lite.sanitize import csv_cell, one_line, plain, to_json

JOINERS = "\u200c\u200d"


def is_harmless(character: str) -> bool:
    """Return whether a character is drawn, or takes space: the slow, obvious twin of the pattern."""
    if ord(character) & 0xFFFE == 0xFFFE or 0xFDD0 <= ord(character) <= 0xFDEF:
        return False  # noncharacters, not allowed in XML
    if character in JOINERS or unicodedata.category(character) in ("Zs", "Cn", "Co"):
        return True
    # Arabic number signs and similar characters are drawn, although Unicode counts them as formatting
    is_drawn = character.isprintable() or (0x600 <= ord(character) <= 0x8FF and character != "\u061c")
    return is_drawn and unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp")


def test_every_character_of_unicode() -> None:
    odd = [c for c in map(chr, range(0x10000)) if not is_harmless(c) and c not in "\n\t"]
    assert [c for c in odd if plain(c) == c] == []
    assert [c for c in map(chr, range(0x10000)) if is_harmless(c) and plain(c) != c and c != "\u2065"] == []
    last = [chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF)]
    assert all(plain(c).isascii() for c in last)
    assert plain("\U000e0041") == "\\U000e0041"  # an invisible letter
    assert plain("größer 名 \U0001f468\u200d\U0001f33e می\u200cخواهم\n") == (
        "größer 名 \U0001f468\u200d\U0001f33e می\u200cخواهم\n"
    )
    assert one_line("a\r\nerror: b\tc") == "a\\r\\nerror: b\\tc"


LEAVES = st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_parses_to_the_same_document(value: object) -> None:
    for ascii_only in (False, True):
        text = to_json(value, ascii_only)
        assert json.loads(text) == value
        assert plain(text) == text
        assert not ascii_only or text.isascii()


def test_json_has_no_nan() -> None:
    text = to_json({"a": [math.nan, math.inf, 1.5], "b": (-math.inf,)})
    assert json.loads(text) == {"a": [None, None, 1.5], "b": [None]}


def test_cells_run_no_formula() -> None:
    for text in ("=1+1", "+x", "-2+3", "@SUM(A1)", "\tx", "\r=1", "\n=1", "＝1+1", "=", "-", "+-1"):
        (row,) = csv.reader(io.StringIO(csv_cell(text) + "\n", newline=""))
        assert row == [f"'{text}"]
    for text in ("-1", "+0.5", "-1e-05", "-.5", "ok", "", " =x", "a=b"):
        assert csv_cell(text) == text
    assert csv_cell("x;=1+1") == '"x;=1+1"'  # quoted, because in some programs a semicolon ends a cell
    assert csv_cell("a\t=1") == '"a\t=1"'


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=2))
def test_cells_can_be_read_back(texts: list[str]) -> None:
    line = ",".join(map(csv_cell, texts)) + "\n"
    (row,) = csv.reader(io.StringIO(line, newline=""))
    for text, found in zip(texts, row, strict=True):
        assert found in (text, f"'{text}")
