"""The baseline of a constant answer does not learn it from the rows that it is measured on."""

from __future__ import annotations

import numpy as np
import pytest

from pa_lite.tasks.baselines import Accepted, majority_share


def rows(*answers: str, group: str = "") -> list[Accepted]:
    return [Accepted(group, frozenset({a})) for a in answers]


def test_the_answer_is_learnt_elsewhere() -> None:
    assert majority_share(rows("A", "A", "B"), rows("B", "B", "A")) == pytest.approx(1 / 3)
    assert majority_share(rows("A", "A", "B"), []) == pytest.approx(2 / 3)
    several = [Accepted("", frozenset({"x", "y"})), Accepted("", frozenset({"y"}))]
    assert majority_share(several, several) == 1.0
    assert majority_share([Accepted("", frozenset())], []) == 0.0


def test_large_groups_have_their_own_answer_and_small_ones_that_of_the_task() -> None:
    others = rows(*"A" * 60, group="a") + rows(*"B" * 49, group="b")
    assert majority_share(rows("A", group="a") + rows("B", group="b"), others) == 0.5
    assert majority_share(rows("A", group="a") + rows("B", group="b"), others + rows("B", group="b")) == 1.0
    assert majority_share(rows("A", group="new"), others) == 1.0


def test_large_groups_without_others_learn_from_the_half_that_a_row_is_not_in() -> None:
    few = rows("B", "B", "B")
    assert majority_share(rows(*"A" * 300, *"B" * 100), few) == pytest.approx(0.75)
    assert majority_share(rows(*"A" * 300, *"B" * 100), []) == pytest.approx(0.75)
    assert majority_share(rows(*"A" * 30, *"B" * 10), few) == pytest.approx(0.25)  # too few for halves
    unique = rows(*map(str, range(400)))
    assert majority_share(unique, few) == 0.0  # a row's own answer does not count


def test_even_answers_in_small_groups_give_chance() -> None:
    """40 items of 57 groups with four letters: one or two items a group always agree with themselves."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        letters, groups = rng.choice(list("ABCD"), 325), np.concatenate([np.arange(285) // 5, rng.integers(0, 57, 40)])
        every = [Accepted(str(g), frozenset({str(a)})) for g, a in zip(groups, letters, strict=True)]
        found.append(majority_share(every[285:], every[:285]))
    assert np.mean(found) == pytest.approx(0.25, abs=0.02)
