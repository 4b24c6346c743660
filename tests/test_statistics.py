from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pa_lite.statistics import (
    FloatArray,
    IntArray,
    Spread,
    bootstrap_means,
    calibrated_mean,
    clustered_error,
    mean_over_tasks,
    measured_classes,
    measured_groups,
    measured_mean,
    pooled_standard_error,
    score_interval,
    spread_of_average,
    spread_of_mean,
    spread_over_seeds,
    standard_error,
    t_quantile,
    t_test_p,
)


def test_standard_error_is_sample_deviation_over_root_n() -> None:
    assert standard_error([0, 1, 1, 1]) == pytest.approx(math.sqrt(0.25 / 4))
    assert math.isnan(standard_error([1.0]))


def test_clustered_error() -> None:
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    assert clustered_error([[v] for v in values]) == pytest.approx(standard_error(values))
    # two equal values in a cluster say no more than one
    assert clustered_error([[v, v] for v in values]) == pytest.approx(standard_error(values))
    # opposite errors within a cluster cancel
    assert clustered_error([[0.0, 1.0], [1.0, 0.0], []]) == 0.0


def test_mean_over_tasks_weighs_tasks_equally() -> None:
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


def test_measured_means_of_many_items_have_the_normal_interval() -> None:
    values = [0.0, 1.0, 1.0, 0.0, 1.0] * 20
    first = measured_mean(values)
    assert first.value == 0.6
    assert first.stderr == pytest.approx(standard_error(values))
    assert first.low == pytest.approx(0.6 - 1.96 * first.stderr, abs=0.02)
    assert first.high == pytest.approx(0.6 + 1.96 * first.stderr, abs=0.02)


def test_micro_and_macro() -> None:
    few, many = [0.0, 1.0], [1.0] * 6 + [0.0] * 2
    micro, macro = measured_groups([few, many])
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

    got = measured_classes(golds, picks, agreement, np.random.default_rng(0))
    right = [float(g == p) for g, p in zip(golds, picks, strict=True)]
    assert got.value == 0.75
    assert got.stderr == pytest.approx(standard_error(right), rel=0.1)
    assert got.low < 0.75 < got.high
    alone = measured_classes(golds, picks, agreement, np.random.default_rng(0), range(100))
    assert alone.stderr == pytest.approx(standard_error(right), rel=0.1)
    by_twenty = measured_classes(golds, picks, agreement, np.random.default_rng(0), [i // 20 for i in range(100)])
    assert by_twenty.stderr == 0.0  # all clusters have the same share
    quarters = [i % 4 for i in range(100)]
    apart = measured_classes(golds, picks, agreement, np.random.default_rng(0), quarters)
    assert apart.stderr == pytest.approx(math.sqrt(3 / 4) * clustered_error([[1.0], [1.0], [0.0], [1.0]]), rel=0.1)
    assert apart.high - apart.low > 2 * (alone.high - alone.low)


def test_a_single_item_has_an_unknown_error() -> None:
    assert math.isnan(standard_error([0.5]))
    assert math.isnan(clustered_error([[0.5, 1.0]]))
    assert math.isnan(pooled_standard_error([[0.5], [1.0]]))
    assert pooled_standard_error([[0.5], [1.0, 0.0]]) > 0
    assert math.isnan(mean_over_tasks([[0.5], [1.0, 0.0]]).stderr)
    found = measured_mean([1.0])
    assert found.value == 1.0
    assert all(map(math.isnan, (found.stderr, found.low, found.high)))


def test_students_quantiles() -> None:
    known = {1e9: 1.95996, 30: 2.04227, 10: 2.22814, 5: 2.57058, 4: 2.77645}
    for df, value in known.items():
        assert t_quantile(0.975, df) == pytest.approx(value, rel=0.006)
        assert t_test_p(t_quantile(0.975, df), df) == pytest.approx(0.05)
    assert t_quantile(0.975, math.inf) == pytest.approx(1.95996, abs=1e-5)
    assert t_test_p(1.95996, math.inf) == pytest.approx(0.05, abs=1e-5)
    assert t_quantile(0.975, 2) > 4.303  # exact: 4.303; below 4 it errs on the safe side
    assert t_quantile(0.975, 1) > 12.706


def test_the_score_interval_of_shares_is_wilsons() -> None:
    large = Spread(math.sqrt(0.9 * 0.1 / 40), math.inf, 40)
    assert score_interval(0.9, large) == pytest.approx((0.7695, 0.9604), abs=1e-4)
    assert score_interval(1.0, Spread(0.0, math.inf, 20)) == pytest.approx((0.8389, 1.0), abs=1e-4)
    assert score_interval(0.0, Spread(0.0, math.inf, 20)) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert all(map(math.isnan, score_interval(0.5, Spread(math.nan, math.nan, 1))))
    low, high = score_interval(0.9, large, low_quantile=3.0)
    assert low < 0.7695
    assert high == pytest.approx(0.9604, abs=1e-4)


@pytest.mark.parametrize("n", [10, 20, 30, 50, 100, 300])
def test_intervals_cover_any_share(n: int) -> None:
    """The exact coverage of shares up to 0.997, where Wilson's own interval covers 85% of some."""
    found = [measured_mean([1.0] * k + [0.0] * (n - k)) for k in range(n + 1)]
    lengths = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(n + 1)]
    covered = []
    for p in np.linspace(0.003, 0.997, 500).tolist():
        chances = [math.exp(c + k * math.log(p) + (n - k) * math.log(1 - p)) for k, c in enumerate(lengths)]
        covered.append(sum(c for c, m in zip(chances, found, strict=True) if m.low <= p <= m.high))
    assert min(covered) > 0.928
    assert 0.95 < np.mean(covered) < 0.985


@given(st.lists(st.sampled_from([0.0, 0.3, 1.0]), min_size=2, max_size=30), st.data())
def test_intervals_hold_their_value_and_lie_within_0_and_1(values: list[float], data: st.DataObject) -> None:
    clusters = data.draw(st.lists(st.integers(0, 3), min_size=len(values), max_size=len(values)))
    for of in (None, clusters):
        found = measured_mean(values, of)
        if math.isfinite(found.stderr):
            assert 0 <= found.low <= found.value + 1e-12
            assert found.value - 1e-12 <= found.high <= 1
        by_cluster = [[v for v, c in zip(values, clusters, strict=True) if c == each] for each in set(clusters)]
        wanted = standard_error(values) if of is None else clustered_error(by_cluster)
        assert found.stderr == pytest.approx(wanted, nan_ok=True)


def test_clusters_leave_as_many_degrees_of_freedom_as_they_count_for() -> None:
    assert spread_of_mean([0.0, 1.0] * 10).df == 19
    assert spread_of_mean([0.0, 1.0] * 10, [i // 4 for i in range(20)]).df == 4
    assert spread_of_mean([0.0, 1.0] * 10, [0] * 17 + [1, 2, 3]).df == 1
    both = spread_of_average([spread_of_mean([0.0, 1.0] * 10), spread_of_mean([0.0, 1.0] * 10)])
    assert both.df == pytest.approx(38)
    assert both.stderr == pytest.approx(mean_over_tasks([[0.0, 1.0] * 10] * 2).stderr)


def test_groups_of_a_few_items_have_intervals() -> None:
    groups = [[1.0], [0.0], [1.0, 0.0], [1.0, 1.0]]
    micro, macro = measured_groups(groups, 57)
    assert micro.value == pytest.approx(4 / 6)
    assert macro.value == pytest.approx(0.625)
    assert micro.stderr == pooled_standard_error(groups)
    assert 0 < micro.low < micro.value < micro.high < 1
    assert 0 < macro.low < macro.value < macro.high < 1
    apart = [[1.0] * 9 + [0.0]] * 10 + [[0.0] * 9 + [1.0]] * 10
    (_, all_there), (_, some) = measured_groups(apart), measured_groups(apart, 200)
    assert all_there.high - all_there.low < 0.8 * (some.high - some.low)
    _, singles = measured_groups([[1.0], [0.0], [1.0]])
    assert singles.low < singles.value < singles.high


def test_groups_with_clusters() -> None:
    """A cluster of equal items counts as one item, within groups too."""
    rng = np.random.default_rng(0)
    groups = [(rng.random(40) < rate).astype(np.float64).tolist() for rate in (0.2, 0.5, 0.7)]
    doubled = [[v for v in g for _ in range(2)] for g in groups]
    clusters = [[100 * k + i for i in range(len(g)) for _ in range(2)] for k, g in enumerate(groups)]
    for once, twice in zip(measured_groups(groups, 9), measured_groups(doubled, 9, clusters), strict=True):
        assert (twice.value, twice.low, twice.high) == pytest.approx((once.value, once.low, once.high))
    micro, macro = measured_groups(doubled, 9, clusters)
    assert macro.stderr == pytest.approx(mean_over_tasks(groups).stderr)
    assert micro.stderr == pytest.approx(standard_error([v for g in groups for v in g]))
    single = measured_groups([[1.0, 1.0], [0.0, 1.0, 0.0]], 9, [[0, 0], [1, 2, 3]])[1]
    assert math.isnan(single.stderr)
    assert single.low < single.value < single.high


def test_large_groups_that_are_all_there_are_taken_as_given() -> None:
    rng = np.random.default_rng(0)
    groups = [(rng.random(200) < rate).astype(np.float64).tolist() for rate in (0.1, 0.5, 0.9)]
    _, macro = measured_groups(groups)
    reach = 1.96 * mean_over_tasks(groups).stderr
    assert macro.high - macro.low == pytest.approx(2 * reach, rel=0.03)


def test_seeds_and_items_add_up() -> None:
    rng = np.random.default_rng(1)
    same = np.tile(rng.random(50), (4, 1))
    assert spread_over_seeds(same).stderr == pytest.approx(standard_error(same[0].tolist()))
    shifted = np.zeros((4, 50)) + np.array([0.1, 0.3, 0.5, 0.7])[:, None]
    assert spread_over_seeds(shifted).stderr == pytest.approx(standard_error([0.1, 0.3, 0.5, 0.7]))
    assert math.isnan(spread_over_seeds(same[:1]).stderr)
    draws = rng.standard_normal((2000, 3))[:, :, None] + rng.standard_normal((2000, 40))[:, None, :]
    found = np.mean([spread_over_seeds(d).stderr ** 2 for d in draws])
    assert found == pytest.approx(1 / 3 + 1 / 40, rel=0.1)


def test_cheap_judgements_steady_the_known_ones_as_far_as_they_agree() -> None:
    rng = np.random.default_rng(2)
    truth = rng.random(2000) < 0.3
    known, cheap = truth[:100].astype(float), truth.astype(float) * 0.8 + 0.1
    good = calibrated_mean(cheap.tolist(), cheap[:100].tolist(), known.tolist())
    assert good.value == pytest.approx(truth.mean(), abs=0.02)
    assert good.stderr < 0.3 * standard_error(known.tolist())
    useless = calibrated_mean([0.5] * 2000, [0.5] * 100, known.tolist())
    assert (useless.value, useless.stderr) == pytest.approx((known.mean(), standard_error(known.tolist())))
    assert math.isnan(calibrated_mean([0.5] * 3, [0.5], [1.0]).stderr)


def test_statistics_of_classes_near_1_have_an_interval() -> None:
    def agreement(g: IntArray, p: IntArray, counts: IntArray) -> FloatArray:
        share: FloatArray = (counts * (g == p)).sum(1) / counts.sum(1)
        return share

    found = measured_classes([0] * 20, [0] * 20, agreement, np.random.default_rng(0))
    assert (found.value, found.high) == (1.0, 1.0)
    assert 0.8 < found.low < 0.85
