"""The choice of the lam, and the lams that are measured for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pa_lite.study.curves import Values
from pa_lite.study.goal import Goal
from pa_lite.study.tune.choice import Choice, Measurements, choose_lam, next_lam
from pa_lite.study.tune.first_pass import first_lams, number_to_measure, window_of

LAMS = tuple(i / 10 for i in range(11))


@pytest.mark.parametrize(("slope", "instruct", "window", "first"), [
    (0.0, False, (0.0, 1.0), [0.2, 0.5, 0.8]),
    (0.5, False, (0.4, 1.0), [0.5, 0.8]),
    (-0.5, False, (0.0, 0.6), [0.2, 0.5]),
    (5.0, False, (0.7, 1.0), [0.8]),
    (-5.0, True, (0.0, 1.0), [0.2, 0.8, 1.0]),
])  # fmt: skip
def test_lams_at_which_the_text_takes_a_quarter_more_bits_are_dropped(
    slope: float, instruct: bool, window: tuple[float, float], first: list[float]
) -> None:
    bits = [1 + abs(slope) * ((1 - lam) if slope > 0 else lam) ** 1.5 for lam in LAMS]
    assert window_of(LAMS, bits, instruct) == window
    assert first_lams(LAMS, window, [1.0] if instruct else []) == first


def test_at_most_forty_percent_of_the_lams_are_measured() -> None:
    assert number_to_measure(11) == 4
    assert first_lams((0.0, 0.6, 1.0), (0.0, 1.0)) == [0.0, 0.6, 1.0]
    for n in range(8, 101):
        lams = [i / (n - 1) for i in range(n)]
        assert number_to_measure(n) <= 0.4 * n
        assert len(first_lams(lams, window_of(lams, None, True), [1.0, 0.0])) <= 0.4 * n
    assert first_lams(LAMS, (0.0, 1.0), [1.0, 0.0]) == [0.0, 0.5, 1.0]


def test_the_next_lam_is_where_the_curve_may_be_higher() -> None:
    for curve, expected in (
        ([0.2, 0.5, 0.9], (0.9, 1.0)),
        ([0.9, 0.5, 0.2], (0.0, 0.1)),
        ([0.3, 0.9, 0.3], (0.4, 0.6)),
    ):
        values = np.repeat(np.array(curve)[:, None], 60, axis=1) + 0.05 * np.random.default_rng(0).standard_normal(60)
        found = Measurements(lams=LAMS, measured=(0.2, 0.5, 0.8), window=(0.0, 1.0), metric=(values,), likely=(values,))
        assert next_lam(found, Goal()) in expected
    assert (
        next_lam(replace(found, measured=LAMS, metric=(np.ones((11, 9)),), likely=(np.ones((11, 9)),)), Goal()) is None
    )


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
