from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pa_lite.instructions.checks import CHECK_TYPES, followed, loose_variants, passes, validate
from pa_lite.instructions.following import load_instructions
from pa_lite.instructions.public.generator import SIZE, compatible, public_rows, to_jsonl
from pa_lite.instructions.public.recipes import RECIPES, Draw
from pa_lite.instructions.sets import PUBLIC_PATH
from tests.support.builder import build


def test_the_fixed_set_is_generated_from_its_seed() -> None:
    assert PUBLIC_PATH.read_bytes() == to_jsonl(public_rows()).encode("utf-8")


def test_the_fixed_set_is_complete_and_balanced() -> None:
    instructions = load_instructions(PUBLIC_PATH)
    assert len(instructions) == SIZE == len({i.text for i in instructions})
    kinds = Counter(c.name for i in instructions for c in i.constraints)
    assert set(kinds) == set(RECIPES)
    assert set(CHECK_TYPES) - set(RECIPES) == {"closes_with"}
    assert max(kinds.values()) - min(kinds.values()) <= 3
    sizes = Counter(len(i.constraints) for i in instructions)
    assert set(sizes) == {1, 2, 3}
    assert min(sizes.values()) >= 80


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31))
@pytest.mark.parametrize("size", [60])
def test_every_prompt_can_be_followed(size: int, seed: int) -> None:
    for row in public_rows(seed, size):
        text = build(row["checks"])
        failed = [c for c in row["checks"] if not passes(text, c)]
        assert not failed, f"{row['instruction']}\n---\n{text}"


def test_every_prompt_of_the_fixed_set_can_be_followed() -> None:
    for instruction in load_instructions(PUBLIC_PATH):
        for check in instruction.checks:
            validate(check, instruction.text)
        assert followed(build(instruction.checks), instruction.checks), instruction.text


def test_seeds_differ_and_repeat() -> None:
    assert public_rows(5, 40) == public_rows(5, 40)
    assert public_rows(5, 40) != public_rows(6, 40)


def test_no_check_forbids_what_another_requires() -> None:
    includes = {"kind": "includes", "words": ["flour", "oven"]}
    assert not compatible([includes, {"kind": "excludes", "words": ["Oven"]}])
    assert not compatible([{"kind": "letter_count", "letter": "v", "n": 2, "relation": "at_most"}, includes])
    assert not compatible(
        [{"kind": "starts_with", "text": "Well, then"}, {"kind": "lacks_characters", "characters": ","}]
    )
    assert compatible([includes, {"kind": "excludes", "words": ["ovens"]}])


def test_draws_stay_in_their_range() -> None:
    draw = Draw(3)
    assert {draw.between(2, 8, 3) for _ in range(200)} == {2, 5, 8}
    assert sorted(draw.sample("abc", 3)) == ["a", "b", "c"]
    assert Draw(1).below(1 << 30) == 144272508  # the same in every Python version


def test_loose_variants() -> None:
    assert list(loose_variants(" Sure:\n**one**\ntwo\nBye ")) == [
        "Sure:\n**one**\ntwo\nBye", "Sure:\none\ntwo\nBye", "**one**\ntwo\nBye", "one\ntwo\nBye",
        "Sure:\n**one**\ntwo", "Sure:\none\ntwo", "**one**\ntwo", "one\ntwo",
    ]  # fmt: skip
