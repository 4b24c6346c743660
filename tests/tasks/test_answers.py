from __future__ import annotations

import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pa_lite.errors import InputError
from pa_lite.tasks.answers import NO_ANSWER, NUMBER, STEPS, Extract, normalise, parse_number

STRICT, FLEXIBLE = Extract("strict", "The answer is ({number})"), Extract("flexible", "{number}", "last")


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("2+3=5. The answer is 5.", "5", "5"),
        ("The answer is $1,234.50. Good.", "$1,234.50", "$1,234.50"),
        ("The answer is -7", "-7", "-7"),
        ("The answer is −7", "−7", "−7"),
        ("The answer is 3.14.", "3.14", "3.14"),
        ("The answer is .5", ".5", ".5"),
        ("The answer is 1,250,000 in 2020", "1,250,000", "2020"),
        ("so 10-3", NO_ANSWER, "3"),  # a minus between two numbers is not a sign
        ("from (4) to (-4)", NO_ANSWER, "-4"),
        ("1, 2, 3", NO_ANSWER, "3"),
        ("12,34", NO_ANSWER, "34"),  # not a group of three digits
        ("The answer is seven", NO_ANSWER, NO_ANSWER),
        ("", NO_ANSWER, NO_ANSWER),
        ("The answer is 4. The answer is 5.", "4", "5"),
    ],
)
def test_numbers_are_extracted(text: str, strict: str, flexible: str) -> None:
    assert STRICT.find(text) == strict
    assert FLEXIBLE.find(text) == flexible


@given(st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-(10**9), max_value=10**9))
def test_a_number_is_extracted_completely_in_any_notation(value: Decimal) -> None:
    for written in (f"{value}", f"{value:,}", f"{value:,.0f}"):
        found = FLEXIBLE.find(f"It costs 7 or {written}.")
        assert parse_number(found) == Decimal(written.replace(",", ""))


@given(st.text(alphabet="0123456789,.-−$ a)"))
def test_the_extracted_text_is_a_number(text: str) -> None:
    for match in re.finditer(NUMBER, text):
        assert parse_number(match.group()) is not None


def test_a_pattern_returns_its_group_or_whole_match() -> None:
    assert Extract("a", r"x(\d)|y(\d)").find("y7") == "7"
    assert Extract("a", r"\(([A-Z])\)", "last").find("(A) or (B)") == "B"
    assert Extract("a", r"[a-z]+").find(" St. Louis") == "t"
    with pytest.raises(InputError, match="is not a valid regular expression"):
        Extract("a", "(").compiled()


@pytest.mark.parametrize(
    ("steps", "text", "expected"),
    [
        (("lower", "punctuation", "articles", "blanks"), " The  St. Louis, an Arch! ", "st louis arch"),
        (("number",), "$1,234.", "1234"),
        (("number",), "3.50", "3.50"),
        (("number",), "-5.", "-5"),
        (("lower", "unanswerable"), "Unanswerable.", ""),
        (("unanswerable",), "unanswerable questions", "unanswerable questions"),
        (("punctuation",), "«a»", "«a»"),  # only ASCII punctuation
        ((), " x ", " x "),
    ],
)
def test_normalisation_steps(steps: tuple[str, ...], text: str, expected: str) -> None:
    assert normalise(text, steps) == expected


@given(st.text(), st.sampled_from(sorted(set(STEPS) - {"number", "articles"})))
def test_normalisation_steps_are_idempotent(text: str, step: str) -> None:
    once = normalise(text, [step])
    assert normalise(once, [step]) == once
