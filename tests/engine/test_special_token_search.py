"""A search for very many special tokens in a long text is refused if it would take minutes."""

from __future__ import annotations

import time

import pytest

from pa_lite.engine.special_tokens import SpecialToken, SpecialTokens
from pa_lite.errors import TextError

TOKENS = SpecialTokens([SpecialToken(i, f"<x{i}>") for i in range(200_000)])


def test_searches_that_take_minutes_are_refused_at_once() -> None:
    start = time.monotonic()
    with pytest.raises(TextError, match="would search for 200000 special tokens for minutes"):
        TOKENS.cut("<x " * 15_000)
    assert time.monotonic() - start < 3


def test_searches_that_take_seconds_are_left_to_llama_cpp() -> None:
    for text in ("a b c d e " * 10_000, "<x " * 600, "<x " * 3000):
        assert TOKENS.cut(text) == [text]
    few = SpecialTokens([SpecialToken(i, f"<x{i}>") for i in range(300)])
    assert few.cut("<y " * 50_000) == ["<y " * 50_000]
