"""Transforms of untrusted rows: the same result as regular expressions, in linear time."""

from __future__ import annotations

import re
import time

from hypothesis import given
from hypothesis import strategies as st

from pa_lite.tasks.transforms import TRANSFORMS, _without, tagged_spans

TEXTS = st.text(st.sampled_from("<>[]a\n "), max_size=30)


@given(TEXTS)
def test_removed_parts_are_those_that_the_patterns_match(text: str) -> None:
    assert _without(text, "<<", ">>") == re.sub(r"<<[^>]*>>", "", text)
    assert "\n".join(_without(line, "[", "]") for line in text.split("\n")) == re.sub(r"\[.*?\]", "", text)


SPANS = st.lists(st.tuples(st.sampled_from(["a", "b", "O"]), st.integers(1, 3)), max_size=6)


def slow_spans(tags: list[str]) -> list[tuple[str, int, int]]:
    """Return (type, start, end) of spans by testing at each token whether a span starts, then where it ends."""
    kinds = [tag.removeprefix("B-").removeprefix("I-") for tag in tags]
    found = []
    for start, tag in enumerate(tags):
        if tag == "O" or (start and kinds[start - 1] == kinds[start] and not tag.startswith("B-")):
            continue
        end = start + 1
        while end < len(tags) and kinds[end] == kinds[start] and not tags[end].startswith("B-"):
            end += 1
        found.append((kinds[start], start, end))
    return found


@given(st.lists(st.sampled_from(["O", "B-a", "I-a", "B-b", "I-b", "a", "b"]), max_size=10))
def test_tagged_spans_are_those_of_a_search_at_each_token(tags: list[str]) -> None:
    tokens = [f"t{i}" for i in range(len(tags))]
    assert tagged_spans(tokens, tags) == [(kind, " ".join(tokens[i:j])) for kind, i, j in slow_spans(tags)]


@given(SPANS)
def test_spans_written_as_bio_tags_are_read_again(spans: list[tuple[str, int]]) -> None:
    tags = ["O" if kind == "O" else f"{'I' if i else 'B'}-{kind}" for kind, length in spans for i in range(length)]
    tokens = [f"t{i}" for i in range(len(tags))]
    texts = iter(tokens)
    written = [(kind, " ".join(next(texts) for _ in range(length))) for kind, length in spans]
    assert tagged_spans(tokens, tags) == [span for span in written if span[0] != "O"]


def test_entities_are_distinct_and_none_if_there_are_none() -> None:
    row = {"tokens": ["Ada", "met", "Ada", "."], "ner_tags": [7, 0, 7, 0]}
    assert TRANSFORMS["few_nerd"](row) == {"text": "Ada met Ada .", "entries": ["person: Ada"]}
    assert TRANSFORMS["few_nerd"]({"tokens": ["x"], "ner_tags": [0]})["entries"] == ["none"]
    row = {"tokens": ["Ada", "Byron", "Eve"], "ner_tags": [1, 2, 4]}
    assert TRANSFORMS["wikineural"](row)["entries"] == ["person: Ada Byron", "organization: Eve"]


SLOTS = st.lists(st.tuples(st.text("abc_", min_size=1), st.text("xy :,", min_size=1).map(str.strip).filter(bool)))


@given(SLOTS, st.text("uv ,.", max_size=5))
def test_slots_and_attributes_written_in_brackets_are_read_again(slots: list[tuple[str, str]], text: str) -> None:
    expected = list(dict.fromkeys(f"{name}: {' '.join(value.split())}" for name, value in slots))
    annotated = text.join(f"[{name} : {value}]" for name, value in slots) + text
    assert TRANSFORMS["massive"]({"annot_utt": annotated})["entries"] == (expected or ["none"])
    if slots:
        written = ", ".join(f"{name}[{value}]" for name, value in slots)
        assert TRANSFORMS["e2e"]({"meaning_representation": written})["entries"] == expected


def test_a_row_full_of_opening_brackets_takes_linear_time() -> None:
    many = 1_000_000
    start = time.perf_counter()
    TRANSFORMS["gsm8k"]({"answer": "<<" * many + "#### 1"})
    row = {"activity_label": "a", "ctx_a": "[" * many, "ctx_b": "", "endings": ["[" * many]}
    TRANSFORMS["hellaswag"](row)
    assert len(TRANSFORMS["massive"]({"annot_utt": "[a : b" * many + "]"})["entries"]) == 1
    assert time.perf_counter() - start < 5
