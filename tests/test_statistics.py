from __future__ import annotations

import math

import numpy as np
import pytest

from pa_lite.statistics import (
    FloatArray,
    IntArray,
    bootstrap_means,
    clustered_error,
    mean_over_tasks,
    measure_classes,
    measure_groups,
    measure_mean,
    pooled_standard_error,
    standard_error,
)


def test_standard_error_is_sample_deviation_over_root_n() -> None:
    assert standard_error([0, 1, 1, 1]) == pytest.approx(math.sqrt(0.25 / 4))
    assert math.isnan(standard_error([1.0]))


def test_clustered_error() -> None:
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    assert clustered_error([[v] for v in values]) == pytest.approx(standard_error(values))
    # two equal values in each cluster give no more information than one
    assert clustered_error([[v, v] for v in values]) == pytest.approx(standard_error(values))
    # opposite errors within clusters cancel
    assert clustered_error([[0.0, 1.0], [1.0, 0.0], []]) == 0.0


def test_mean_over_tasks_weights_tasks_equally() -> None:
    few, many = [0.0, 1.0], [1.0] * 98 + [0.0, 0.0]
    got = mean_over_tasks([few, many])
    assert got.value == pytest.approx((0.5 + 0.98) / 2)
    assert got.stderr == pytest.approx(math.hypot(standard_error(few), standard_error(many)) / 2)


def test_pooled_error_is_lm_evals_formula() -> None:
    groups = [[0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0, 1.0], [0.5]]
    within = sum(sum((x - np.mean(g)) ** 2 for x in g) for g in groups)
    assert pooled_standard_error(groups) == pytest.approx(math.sqrt(within / (9 - 3) / 9))
    assert pooled_standard_error([[1.0, 0.0, 0.0]]) == pytest.approx(standard_error([1.0, 0.0, 0.0]))


def test_bootstrap_of_counts_is_the_bootstrap_of_items() -> None:
    values = [0.0] * 30 + [0.5] * 20 + [1.0] * 50
    fast = bootstrap_means(values, np.random.default_rng(0), 20_000)
    rng = np.random.default_rng(1)
    slow = np.array([np.mean(rng.choice(values, len(values))) for _ in range(5_000)])
    assert np.quantile(fast, [0.025, 0.5, 0.975]) == pytest.approx(np.quantile(slow, [0.025, 0.5, 0.975]), abs=0.01)
    assert np.std(fast) == pytest.approx(standard_error(values), rel=0.03)


def test_measured_means_have_seeded_intervals() -> None:
    values = [0.0, 1.0, 1.0, 0.0, 1.0] * 20
    first, second = (measure_mean(values, np.random.default_rng(7)) for _ in range(2))
    assert first == second
    assert first.value == 0.6
    assert first.stderr == standard_error(values)
    assert first.low == pytest.approx(0.6 - 1.96 * first.stderr, abs=0.02)
    assert first.high == pytest.approx(0.6 + 1.96 * first.stderr, abs=0.02)


def test_micro_and_macro() -> None:
    few, many = [0.0, 1.0], [1.0] * 6 + [0.0] * 2
    micro, macro = measure_groups([few, many], np.random.default_rng(0))
    assert micro.value == pytest.approx(0.7)
    assert macro.value == pytest.approx((0.5 + 0.75) / 2)
    assert micro.stderr == pooled_standard_error([few, many])
    assert macro.stderr == mean_over_tasks([few, many]).stderr
    assert micro.low < micro.value < micro.high
    assert macro.low < macro.value < macro.high


def test_statistics_of_classes_are_resampled_by_pairs() -> None:
    golds, picks = [0, 0, 0, 1] * 25, [0, 0, 1, 1] * 25

    def agreement(g: IntArray, p: IntArray, counts: IntArray) -> FloatArray:
        share: FloatArray = (counts * (g == p)).sum(1) / counts.sum(1)
        return share

    got = measure_classes(golds, picks, agreement, np.random.default_rng(0))
    right = [float(g == p) for g, p in zip(golds, picks, strict=True)]
    assert got.value == 0.75
    assert got.stderr == pytest.approx(standard_error(right), rel=0.1)
    assert got.low < 0.75 < got.high


def test_a_single_item_has_an_unknown_standard_error() -> None:
    rng = np.random.default_rng(0)
    assert math.isnan(standard_error([0.5]))
    assert math.isnan(clustered_error([[0.5, 1.0]]))
    assert math.isnan(pooled_standard_error([[0.5], [1.0]]))
    assert pooled_standard_error([[0.5], [1.0, 0.0]]) > 0
    assert math.isnan(mean_over_tasks([[0.5], [1.0, 0.0]]).stderr)
    found = measure_mean([1.0], rng)
    assert found.value == 1.0
    assert all(map(math.isnan, (found.stderr, found.low, found.high)))
