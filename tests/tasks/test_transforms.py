"""Transforms of untrusted rows: the same result as regular expressions, in linear time."""

from __future__ import annotations

import re
import time

from hypothesis import given
from hypothesis import strategies as st

from pa_lite.tasks.transforms import TRANSFORMS, _without

TEXTS = st.text(st.sampled_from("<>[]a\n "), max_size=30)


@given(TEXTS)
def test_removed_parts_are_those_that_the_patterns_match(text: str) -> None:
    assert _without(text, "<<", ">>") == re.sub(r"<<[^>]*>>", "", text)
    assert "\n".join(_without(line, "[", "]") for line in text.split("\n")) == re.sub(r"\[.*?\]", "", text)


def test_a_row_full_of_opening_brackets_takes_linear_time() -> None:
    many = 1_000_000
    start = time.perf_counter()
    TRANSFORMS["gsm8k"]({"answer": "<<" * many + "#### 1"})
    row = {"activity_label": "a", "ctx_a": "[" * many, "ctx_b": "", "endings": ["[" * many]}
    TRANSFORMS["hellaswag"](row)
    assert time.perf_counter() - start < 5
