from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pa_lite.errors import InputError
from pa_lite.follow.checks import KINDS, followed, validate, words

RIGHT_AND_WRONG: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({"kind": "uppercase"}, ["BIRD", "A B!", "ÄRGER"], ["Bird", "123", "BIRDs"]),
    ({"kind": "lowercase"}, ["bird", "a 1."], ["Bird", "..."]),
    ({"kind": "word_count", "n": 2}, ["a bird", "well-known bird.", "don't go"], ["bird", "one two three"]),
    ({"kind": "word_count", "n": 2, "relation": "at_least"}, ["a b", "a b c"], ["a"]),
    ({"kind": "word_count", "n": 2, "relation": "at_most"}, ["a", "a b"], ["a b c"]),
    ({"kind": "includes", "words": ["bird", "Fish"]}, ["fish and BIRD"], ["birds, fish", "fish"]),
    ({"kind": "excludes", "words": ["bird"]}, ["birds", "fish"], ["a Bird."]),
    ({"kind": "repeats", "word": "hum", "n": 3}, ["hum hum HUM", "hum, a hum, hum!"], ["hum hum", "hum hum hum hum"]),
    ({"kind": "starts_with", "text": "So,"}, ["So, a bird"], ["so, a bird", "And So,"]),
    ({"kind": "ends_with", "text": "done."}, ["It is done.", " done.  "], ["done. ok"]),
    ({"kind": "equals", "text": "a bird"}, ["a bird", " a bird\n"], ["A bird", "a bird."]),
    ({"kind": "quoted"}, ['"bird"', '"a b"'], ["bird", '"bird', '""', '" "', '"a" or "b"', '"']),
    ({"kind": "bulleted", "n": 2}, ["- a\n- b", "* a\n\n* b"], ["- a", "- a\nb", "- a\n- b\n- c", "-\n- b"]),
    ({"kind": "numbered", "n": 2}, ["1. a\n2. b", "1) a\n2) b"], ["1. a\n3. b", "1. a", "1. a\n2."]),
    ({"kind": "chooses", "options": ["red", "blue"]}, ["red", "Blue.", '"red"'], ["green", "red or blue"]),
]


KIND_IDS = [f"{check['kind']}-{i}" for i, (check, _, _) in enumerate(RIGHT_AND_WRONG)]


@pytest.mark.parametrize(("check", "right", "wrong"), RIGHT_AND_WRONG, ids=KIND_IDS)
def test_each_kind(check: dict[str, Any], right: list[str], wrong: list[str]) -> None:
    validate(check, "here")
    for text in right:
        assert followed(text, [check]), text
    for text in wrong:
        assert not followed(text, [check]), text


def test_every_kind_is_tested() -> None:
    assert {check["kind"] for check, _, _ in RIGHT_AND_WRONG} == set(KINDS)


def test_all_checks_must_hold_and_silence_follows_nothing() -> None:
    checks: list[dict[str, Any]] = [{"kind": "uppercase"}, {"kind": "word_count", "n": 1}]
    assert followed("BIRD", checks)
    assert not followed("A BIRD", checks)
    assert not followed(" \n", [{"kind": "excludes", "words": ["x"]}])
    assert not followed("", [])


@given(st.lists(st.from_regex(r"[a-z]{1,8}", fullmatch=True), min_size=1, max_size=9))
def test_a_text_built_to_pass_passes_and_one_word_more_fails(drawn: list[str]) -> None:
    text = " ".join(drawn)
    assert words(text) == drawn
    count: dict[str, Any] = {"kind": "word_count", "n": len(drawn)}
    assert followed(text, [count, {"kind": "includes", "words": drawn}, {"kind": "lowercase"}])
    assert not followed(text + " more", [count])
    bullets = "\n".join(f"- {w}" for w in drawn)
    assert followed(bullets, [{"kind": "bulleted", "n": len(drawn)}])
    assert not followed(bullets[1:], [{"kind": "bulleted", "n": len(drawn)}])


@pytest.mark.parametrize(
    ("check", "told"),
    [
        ({"kind": "upercase"}, "unknown check kind 'upercase'. Did you mean uppercase"),
        ({}, "unknown check kind None"),
        ({"kind": "word_count"}, "lacks n"),
        ({"kind": "uppercase", "n": 1}, "has unknown n"),
        ({"kind": "word_count", "n": 1, "relation": "about"}, "relation 'about' is not one of"),
    ],
)
def test_bad_checks(check: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=f"row 3: .*{told}"):
        validate(check, "row 3")
