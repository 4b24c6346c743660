from __future__ import annotations

import re

import pytest

from pa_lite.checkpoints.adapters.patterns import first_matches
from pa_lite.errors import CheckpointError

NAMES = [f"model.layers.{i}.self_attn.{x}_proj" for i in (1, 11) for x in "qk"] + [
    "model.layers.1.mlp.down_proj",
    "lm_head",
]
PATTERNS = [
    "q_proj", "attn.q_proj", "self_attn.k_proj", r".*\.1\..*down_proj", "^model.layers.11.self_attn.(q|k)_proj",
    "lm_head", "1.self_attn.q_proj", "proj", "lm.head",
]  # fmt: skip


def peers(pattern: str, name: str) -> bool:
    """Apply the rule of peft's get_pattern_key."""
    return re.match(rf"(.*\.)?({pattern})$", name) is not None


@pytest.mark.parametrize("patterns", [PATTERNS, PATTERNS[::-1], PATTERNS[:2], PATTERNS[6:]])
def test_first_match_follows_peft(patterns: list[str]) -> None:
    wanted = [next((p for p in patterns if peers(p, name)), None) for name in NAMES]
    assert first_matches(patterns, NAMES, "x") == wanted


def test_endless_and_broken_patterns_end() -> None:
    with pytest.raises(CheckpointError, match=r"x: alpha_pattern cannot be matched .*Write their names"):
        first_matches(["(a+)+$|b", "(x+x+)+y"], ["a" * 60 + "!", "x" * 60], "x: alpha_pattern")
    with pytest.raises(CheckpointError, match="is not a regular expression"):
        first_matches(["[a"], NAMES, "x")
    with pytest.raises(CheckpointError, match="which are too many"):
        first_matches(["a"] * 5000, ["b"] * 5000, "x")
    assert first_matches([], NAMES, "x") == [None] * len(NAMES)
