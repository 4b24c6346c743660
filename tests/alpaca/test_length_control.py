"""Tests of the penalised regression against its optimality conditions, a slow twin and simulated models."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pa_lite.alpaca.length_control import (
    FOLDS,
    PENALTIES,
    FloatArray,
    GamedBaselines,
    fit_l1_logistic,
    length_controlled,
    standardised_delta,
)


def objective(x: FloatArray, y: FloatArray, s: FloatArray, c: float, w: FloatArray) -> float:
    p = 1 / (1 + np.exp(-(x @ w)))
    return float(np.abs(w).sum() - c * (s * (y * np.log(p) + (1 - y) * np.log(1 - p))).sum())


def by_golden_section(x: FloatArray, y: FloatArray, s: FloatArray, c: float) -> FloatArray:
    """Minimise one coordinate after the other by bracketing (the slow twin); valid as the L1 norm is separable."""
    w, ratio = np.zeros(x.shape[1]), (5**0.5 - 1) / 2
    for _ in range(60):
        for j in range(len(w)):
            low, high = -20.0, 20.0
            while high - low > 1e-9:
                left, right = high - ratio * (high - low), low + ratio * (high - low)
                values = []
                for at in (left, right):
                    w[j] = at
                    values.append(objective(x, y, s, c, w))
                low, high = (low, right) if values[0] < values[1] else (left, high)
            w[j] = (low + high) / 2
    return w


def random_problem(seed: int, n: int, d: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.beta(0.3, 0.3, n), rng.uniform(0.1, 1, n)


@pytest.mark.parametrize("penalty", [0.05, 1.0, 100.0])
@pytest.mark.parametrize("d", [2, 3])
def test_fit_agrees_with_the_slow_twin(penalty: float, d: int) -> None:
    x, y, s = random_problem(d, 60, d)
    assert fit_l1_logistic(x, y, s, penalty) == pytest.approx(by_golden_section(x, y, s, penalty), abs=1e-5)


@given(st.integers(0, 10**6), st.integers(1, 50), st.integers(1, 4), st.sampled_from(PENALTIES.tolist()))
@settings(max_examples=60, deadline=None)
def test_fit_is_optimal(seed: int, n: int, d: int, penalty: float) -> None:
    """The subgradient is -sign(w) where a coefficient is not 0, and within [-1, 1] where it is 0."""
    x, y, s = random_problem(seed, n, d)
    w = fit_l1_logistic(x, y, s, penalty)
    gradient = penalty * x.T @ (s * (1 / (1 + np.exp(-(x @ w))) - y))
    slack = 1e-4 * max(1.0, penalty)
    for value, slope in zip(w, gradient, strict=True):
        if value == 0:
            assert abs(slope) <= 1 + slack
        else:
            assert slope == pytest.approx(-np.sign(value), abs=slack)


def test_coefficients_stay_finite_on_separable_data() -> None:
    """All wins: only the penalty bounds the coefficients."""
    w = fit_l1_logistic(np.ones((30, 1)), np.ones(30), np.ones(30), 1e4)
    assert 5 < w[0] < 20
    assert fit_l1_logistic(np.zeros((5, 2)), np.ones(5), np.ones(5), 10.0).tolist() == [0, 0]


def simulate(seed: int, n: int, model: float, length: float) -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(seed)
    delta = rng.normal(0.7, 1, n)
    delta /= delta.std(ddof=1)
    chance = 1 / (1 + np.exp(-(model + length * np.tanh(delta))))
    return (rng.random(n) < chance).astype(np.float64), delta


def test_effect_of_length_is_removed() -> None:
    """The model wins 62% at equal length, but its answers are shorter and the judge prefers long ones."""
    preference, delta = simulate(1, 5000, 0.5, -2.0)
    got = length_controlled(preference, delta)
    assert got is not None
    assert 100 * preference.mean() < 50
    assert got.value == pytest.approx(100 / (1 + np.exp(-0.5)), abs=3 * got.fit_stderr)
    assert got.stderr == 0
    assert got.weights["length"] == pytest.approx(-2, abs=0.3)
    assert 0.5 < got.fit_stderr < 1.5


def test_rates_of_exchanged_models_sum_to_100() -> None:
    preference, delta = simulate(2, 200, -0.3, 1.0)
    one, other = length_controlled(preference, delta), length_controlled(1 - preference, -delta)
    assert one is not None
    assert other is not None
    assert one.value + other.value == pytest.approx(100, abs=1e-6)


def test_standard_error_agrees_with_a_bootstrap() -> None:
    preference, delta = simulate(3, 400, -0.5, -1.0)
    got = length_controlled(preference, delta)
    assert got is not None
    rng = np.random.default_rng(0)
    features = np.stack([np.ones_like(delta), np.tanh(delta)], axis=1)
    values = []
    for _ in range(300):
        rows = rng.integers(0, len(delta), len(delta))
        w = fit_l1_logistic(features[rows], preference[rows], np.ones(len(rows)), 100.0)
        values.append(100 / (1 + np.exp(-w[0])))
    assert got.fit_stderr == pytest.approx(np.std(values), rel=0.15)


def test_full_form_weights_the_gamed_baselines() -> None:
    preference, delta = simulate(4, 300, 0.0, -1.0)
    rng = np.random.default_rng(4)
    difficulty = rng.normal(size=300)
    still = GamedBaselines(np.full(600, 0.5), rng.normal(size=600), np.tile(difficulty, 2))
    alone = length_controlled(preference, delta, difficulty)
    steadied = length_controlled(preference, delta, difficulty, still)
    assert alone is not None
    assert steadied is not None
    # 600 rows of weight 0.1 in which length has no effect, against 300 rows; with full weight the ratio would be 0.25
    assert 0.52 < steadied.weights["length"] / alone.weights["length"] < 0.61
    assert steadied.stderr > 0
    assert set(steadied.weights) == {"model", "length", "difficulty"}


def test_rows_without_preference_are_not_fitted() -> None:
    preference, delta = simulate(5, 50, 0.2, 1.0)
    some = preference.copy()
    some[-10:] = np.nan
    fitted, cut = length_controlled(some, delta), length_controlled(preference[:-10], delta[:-10])
    assert fitted is not None
    assert cut is not None
    assert fitted.value == pytest.approx(cut.value, abs=1e-9)
    some[FOLDS - 1 :] = np.nan
    assert length_controlled(some, delta) is None


def test_differences_in_length_are_standardised() -> None:
    assert standardised_delta([3, 5, 10], [1, 5, 12]).tolist() == pytest.approx([1.0, 0.0, -1.0])
    assert standardised_delta([3, 4], [1, 2]).tolist() == [0, 0]
    assert standardised_delta([3], [1]).tolist() == [0]
