"""Tests of the posterior: complete items give plain averages, noise shared by arms cancels, neighbours inform."""

from __future__ import annotations

import numpy as np
import pytest

from pa_lite.study.curves import Values
from pa_lite.study.search.posterior import Evaluated, _estimate, measured_averages, posterior_draws

LAMS = tuple(i / 10 for i in range(11))


def answers(seed: int, n: int, rates: list[float]) -> Values:
    """Return right-or-wrong items [arms, n] of which one luck decides at all arms."""
    luck = np.random.default_rng(seed).random(n)
    return np.array([(luck < rate).astype(np.float64) for rate in rates])


def whole(values: Values) -> Evaluated:
    return Evaluated(values, np.full(len(values), values.shape[1]))


def test_complete_items_give_plain_averages() -> None:
    tasks = [whole(answers(0, 60, [0.5, 0.6, 0.8])), whole(answers(1, 20, [0.2, 0.2, 0.9]))]
    plain = (tasks[0].values.mean(axis=1) + tasks[1].values.mean(axis=1)) / 2
    assert measured_averages(tasks) == pytest.approx(plain)
    assert _estimate(tasks)[0] == pytest.approx(plain, abs=1e-3)


def test_missing_items_are_predicted_from_the_other_arm() -> None:
    # equal arms, of which the first 40 items are all wrong and the later ones are all right
    values = np.tile(np.repeat([0.0, 1.0, 0.0, 1.0], [20, 20, 0, 160]), (2, 1))
    average, noise = _estimate([Evaluated(values, np.array([200, 40]))])
    assert average[0] == pytest.approx(0.9, abs=0.01)
    assert average[1] > 0.8  # measured on its own items, 0.5
    gap = noise[0, 0] + noise[1, 1] - 2 * noise[0, 1]
    assert gap < 0.5 * (noise[0, 0] + noise[1, 1])


def test_items_without_a_value_at_an_arm_that_saw_them_do_not_count() -> None:
    values = answers(2, 50, [0.3, 0.5, 0.7])
    broken = values.copy()
    broken[1, :10] = np.nan
    seen = np.array([50, 50, 20])
    some, rest = Evaluated(broken, seen), Evaluated(values[:, 10:], seen - 10)
    assert measured_averages([some]) == pytest.approx(measured_averages([rest]))
    for found, expected in zip(_estimate([some]), _estimate([rest]), strict=True):
        assert found == pytest.approx(expected)
    unseen = Evaluated(np.where(np.arange(50) >= 20, np.array([[1.0], [1.0], [np.nan]]), values), seen)
    assert np.isfinite(measured_averages([unseen])).all()


def test_mean_and_spread_of_the_draws() -> None:
    tasks = [whole(answers(3, 400, [0.5] * 11))]
    drawn = posterior_draws(tasks, LAMS, np.random.default_rng(0), 4000)
    assert drawn.shape == (4001, 11)
    assert drawn[1:].mean(axis=0) == pytest.approx(drawn[0], abs=0.005)
    assert 0.02 < drawn[1:, 3].std() < 0.04  # the standard error of 400 items is 0.025


def test_neighbours_on_the_line_inform_each_other_and_other_arms_do_not() -> None:
    values = answers(4, 300, [0.6] * 11)
    values[5, :12] = 1 - values[5, :12]
    seen = np.full(11, 300)
    seen[5] = 12
    tasks = [Evaluated(values, seen)]
    line, alone = (posterior_draws(tasks, lams, np.random.default_rng(0), 2000) for lams in (LAMS, None))
    assert line[1:, 5].std() < alone[1:, 5].std()
    assert abs(line[0, 5] - line[0, 4]) < abs(alone[0, 5] - alone[0, 4])


def test_arm_without_any_item_is_unknown() -> None:
    values = np.vstack([answers(5, 40, [0.5, 0.6]), np.full((1, 40), np.nan)])
    drawn = posterior_draws([Evaluated(values, np.array([40, 40, 0]))], None, np.random.default_rng(0), 500)
    assert np.isfinite(drawn).all()
    assert drawn[1:, 2].std() > drawn[1:, 0].std()
