"""Tests of the demo pair's table: the interval over seeds and words."""

from __future__ import annotations

import numpy as np
import pytest

from pa_lite.statistics import spread_of_mean
from tools.demo.table import over_seeds, spread_over_words

WORDS = [f"word{i}" for i in range(60)]


def simulate(rng: np.random.Generator, between_seeds: float, between_words: float) -> list[list[np.ndarray]]:
    """Return differences [3 seeds][4 tasks] of [60 words] with mean 0.1, whose seeds and words have effects."""
    words, seeds = rng.normal(0, between_words, len(WORDS)), rng.normal(0, between_seeds, 3)
    return [[0.1 + s + words + rng.normal(0, 0.2, len(WORDS)) for _ in range(4)] for s in seeds]


@pytest.mark.parametrize(("between_seeds", "between_words"), [(0.05, 0.0), (0.0, 0.3), (0.05, 0.3)])
def test_interval_covers_the_truth_for_other_seeds_and_words(between_seeds: float, between_words: float) -> None:
    """An interval over items alone covers it in well under 80% of these; too wide would also be wrong."""
    rng = np.random.default_rng(5)
    found = [over_seeds(simulate(rng, between_seeds, between_words), WORDS * 4) for _ in range(400)]
    assert all(low < value < high for value, low, high in found)
    assert 0.92 < np.mean([low < 0.1 < high for _, low, high in found]) < 0.995


def test_spread_over_words_of_one_task_is_the_means() -> None:
    values = np.random.default_rng(6).normal(size=len(WORDS))
    assert spread_over_words([values], WORDS).stderr == pytest.approx(spread_of_mean(values).stderr)


def test_items_about_one_word_count_as_one() -> None:
    values = np.random.default_rng(7).normal(size=len(WORDS))
    once, again = spread_over_words([values], WORDS), spread_over_words([values, values], WORDS * 2)
    assert again.units == once.units
    assert again.stderr == pytest.approx(once.stderr)
