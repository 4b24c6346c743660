"""The choice of the lam, and the lams that are measured for it."""

from __future__ import annotations

import numpy as np
import pytest

from pa_lite.study.curves import Values
from pa_lite.study.goal import Goal
from pa_lite.study.tune.choice import Choice, Measurements, choose_lam
from pa_lite.study.tune.first_pass import lams_to_measure

LAMS = tuple(i / 10 for i in range(11))


@pytest.mark.parametrize(("best", "instruct", "base", "measured", "window"), [
    (0.7, False, False, [0.4, 0.6, 0.8, 1.0], (0.4, 1.0)),
    (0.3, False, False, [0.0, 0.2, 0.4, 0.6], (0.0, 0.6)),
    (1.0, False, False, [0.7, 0.8, 0.9, 1.0], (0.7, 1.0)),
    (0.0, False, False, [0.0, 0.1, 0.2, 0.3], (0.0, 0.3)),
    (0.2, True, False, [0.0, 0.3, 0.7, 1.0], (0.0, 1.0)),
    (1.0, True, True, [0.0, 0.7, 0.8, 1.0], (0.7, 1.0)),
])  # fmt: skip
def test_at_most_forty_percent_of_the_lams_around_the_fewest_bits_are_measured(
    best: float, instruct: bool, base: bool, measured: list[float], window: tuple[float, float]
) -> None:
    bits = [(lam - best) ** 2 for lam in LAMS]
    assert lams_to_measure(LAMS, bits, instruct, base) == (measured, window)


def test_without_a_first_pass_or_with_few_lams_the_window_is_everything() -> None:
    assert lams_to_measure(LAMS, None, False, False) == ([0.0, 0.3, 0.7, 1.0], (0.0, 1.0))
    assert lams_to_measure((0.0, 0.6, 1.0), [1, 2, 3], False, False) == ([0.0, 0.6, 1.0], (0.0, 1.0))
    for n in range(8, 101):
        lams = [i / (n - 1) for i in range(n)]
        assert len(lams_to_measure(lams, None, False, False)[0]) <= 0.4 * n


def choose(curve: Values, n: int, goal: Goal | None = None, follow: Values | None = None, seed: int = 0) -> Choice:
    """Choose from n items whose probability of a right answer along the measured lams is the curve."""
    rng, measured = np.random.default_rng(seed), (0.4, 0.6, 0.8, 1.0)
    likely = np.clip(curve[:, None] + 0.1 * rng.standard_normal(n)[None, :], 0.01, 0.99)
    metric = (rng.random(n)[None, :] < likely).astype(np.float64)
    found = Measurements(
        lams=LAMS, measured=measured, window=(0.4, 1.0), metric=(metric,), likely=(likely,), follow=follow
    )
    return choose_lam(found, goal or Goal())


def test_a_peak_is_found_and_lams_that_are_surely_worse_are_not_among_the_equals() -> None:
    found = choose(np.array([0.3, 0.5, 0.9, 0.4]), 300)
    assert found.lam == found.highest == 0.8
    assert found.equals == (0.8,)
    assert found.confidence > 0.9
    assert found.window == (0.4, 0.6, 0.8, 1.0)
    assert found.curve == pytest.approx([0.3, 0.5, 0.9, 0.4], abs=0.1)


def test_lams_that_are_as_good_are_named() -> None:
    found = choose(np.array([0.5, 0.85, 0.85, 0.5]), 200)
    assert found.lam in (0.6, 0.8)
    assert found.equals == (0.6, 0.8)


def test_a_flat_curve_gives_the_usual_lam_and_everything_is_equal() -> None:
    found = choose(np.array([0.8, 0.8, 0.8, 0.8]), 40)
    assert (found.lam, found.equals) == (0.6, found.window)
    assert found.gain < 0.01
    assert found.confidence < 0.7  # no lam is likely to be the best


def test_following_that_must_be_kept_excludes_lams() -> None:
    follow = np.tile(np.array([0.1, 0.3, 0.6, 0.9])[:, None], 100)
    follow = (np.random.default_rng(1).random(100)[None, :] < follow).astype(np.float64)
    few_shot = np.array([0.9, 0.8, 0.7, 0.6])
    assert choose(few_shot, 60).lam == 0.4
    assert choose(few_shot, 60, Goal(keep_follow=0.95), follow).lam >= 0.9
