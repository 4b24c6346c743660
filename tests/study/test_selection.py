"""Resamplings and statements about a lam chosen on its items, compared with slow twins and known answers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pa_lite.statistics import clustered_error
from pa_lite.study.curves import Row, Series, Values, means
from pa_lite.study.resampling import unit_draws
from pa_lite.study.selection import (
    as_good_as_best,
    flip_p,
    held_out,
    keep_margin,
    paired_difference,
    paired_p,
    paired_spread,
    selected_average,
    selected_gain,
)


def series_of(values: Values, clusters: list[int] | None = None) -> Series:
    return Series(name="t", area="a", values=values, clusters=None if clusters is None else tuple(clusters))


def items(seed: int, n: int, *rates: float, clusters: list[int] | None = None) -> Series:
    """Draw items that are right at each lam with these rates, independently at every lam."""
    luck = np.random.default_rng(seed).random((len(rates), n))
    return series_of((luck < np.array(rates)[:, None]).astype(np.float64), clusters)


def rows(gaps: list[Values], clusters: list[list[int] | None] | None = None) -> list[Row]:
    each = clusters or [None] * len(gaps)
    return [Row(values=gap, clusters=None if c is None else tuple(c)) for gap, c in zip(gaps, each, strict=True)]


def highest(averages: Values) -> int:
    return int(averages.argmax())


@pytest.mark.parametrize("n", [40, 400])  # drawn item by item, and by distinct columns
def test_draws_of_single_items_agree_with_drawing_them_one_by_one(n: int) -> None:
    tasks = [items(1, n, 0.3, 0.5, 0.6), items(2, n // 2, 0.8, 0.7, 0.2)]
    fast, rng = unit_draws(tasks, 20_000), np.random.default_rng(7)
    slow = np.array([
        np.mean([t.values[:, rng.integers(0, t.n, t.n)].mean(axis=1) for t in tasks], axis=0) for _ in range(20_000)
    ])  # fmt: skip
    assert fast.mean(axis=0) == pytest.approx(slow.mean(axis=0), abs=0.003)
    assert np.cov(fast.T) == pytest.approx(np.cov(slow.T), abs=2e-4)


def test_draws_resample_the_exemplars_too() -> None:
    rng = np.random.default_rng(11)
    items_of_seeds = np.clip(rng.random((3, 2, 50)) + np.array([0.0, 0.2, 0.3])[:, None, None], 0, 1)
    task = Series(name="t", area="a", values=items_of_seeds.mean(axis=0), by_seed=items_of_seeds)
    one = unit_draws([series_of(task.values)], 20_000).var(axis=0)
    both = unit_draws([task], 20_000).var(axis=0)
    assert both - one == pytest.approx(items_of_seeds.mean(axis=2).var(axis=0, ddof=1) / 3, rel=0.1)


def test_draws_of_clusters_agree_with_drawing_them_one_by_one() -> None:
    clusters = [0] * 4 + [1] * 2 + [2] * 6 + [3] * 3
    task = items(3, 15, 0.3, 0.7, clusters=clusters)
    fast, rng = unit_draws([task], 20_000), np.random.default_rng(5)
    members = [np.flatnonzero(np.array(clusters) == c) for c in range(4)]
    slow = np.array([
        task.values[:, np.concatenate([members[c] for c in rng.integers(0, 4, 4)])].mean(axis=1) for _ in range(20_000)
    ])  # fmt: skip
    assert fast.mean(axis=0) == pytest.approx(slow.mean(axis=0), abs=0.005)
    assert np.cov(fast.T) == pytest.approx(np.cov(slow.T), abs=1e-3)


def test_held_out_values_agree_with_all_halves() -> None:
    task = items(4, 6, 0.4, 0.6, 0.5)
    values, all_halves = [], list(itertools.combinations(range(6), 3))
    for half in all_halves:
        rest = [i for i in range(6) if i not in half]
        values.append(task.values[int(task.values[:, list(half)].mean(axis=1).argmax())][rest].mean())
    held = held_out([task], highest, parts=2, repeats=3000)
    assert held.at_chosen == pytest.approx(np.mean(values), abs=0.01)
    assert held.at_all == pytest.approx(task.values.mean(axis=1))


def test_what_is_held_out_never_cuts_a_cluster() -> None:
    """With one value per cluster, the measuring part is independent of the choosing part."""
    values = np.repeat(np.eye(4), 5, axis=1)  # lam i is right in cluster i alone
    task = series_of(values, [c for c in range(4) for _ in range(5)])
    assert held_out([task], highest, parts=5).at_chosen == 0.0
    assert held_out([series_of(values)], highest, parts=5).at_chosen > 0.02


def test_a_task_of_one_unit_cannot_be_held_out() -> None:
    held = held_out([items(1, 1, 0.5, 0.5)], highest)
    assert math.isnan(held.at_chosen)
    assert np.isnan(held.at_all).all()


def test_uneven_tasks_are_cut_into_as_many_parts() -> None:
    tasks = [items(2, 7, 0.2, 0.8), items(3, 40, 0.4, 0.5)]
    held = held_out(tasks, lambda _: 1, parts=3)
    assert held.at_chosen == pytest.approx(held.at_all[1])
    assert held.at_all == pytest.approx(means(tasks), abs=0.06)


def test_the_interval_of_what_was_selected_reaches_lower_than_that_of_a_fixed_lam() -> None:
    tasks = [items(5, 200, *[0.5] * 11)]
    drawn, average = unit_draws(tasks), means(tasks)
    best, held = int(average.argmax()), held_out(tasks, highest)
    gains = drawn - drawn[:, [10]]
    gain = selected_gain(tasks, gains, best, 10, held)
    fixed = paired_difference([tasks[0].gap(best, 10)])
    assert gain.high == pytest.approx(fixed.high)
    assert gain.low < fixed.low
    assert gain.value < fixed.value
    accuracy = selected_average(tasks, drawn, best, held)
    assert accuracy.low < accuracy.value < average[best] < accuracy.high
    alone = selected_average(tasks, drawn[:, [best]], best, held_out(tasks, lambda _: best))
    assert alone.value == pytest.approx(average[best])
    assert alone.low > accuracy.low
    none = selected_gain(tasks, gains, 10, 10, held_out(tasks, lambda _: 10))
    assert (none.value, none.low, none.high) == (0.0, 0.0, 0.0)


def test_the_spread_of_differences_adds_one_unit_that_differs_fully() -> None:
    gaps = [np.array([1.0, 0.0, 0.0, -1.0, 1.0]), np.zeros(10)]
    plain = math.hypot(clustered_error([[v] for v in gaps[0]]), 0.0) / 2
    assert paired_spread(rows(gaps)).stderr == pytest.approx(math.hypot(plain, 1 / 5 / 2))
    pairs: list[list[int] | None] = [[0, 0, 1, 1, 2], None]
    plain = clustered_error([[1.0, 0.0], [0.0, -1.0], [1.0]]) / 2
    assert paired_spread(rows(gaps, pairs)).stderr == pytest.approx(math.hypot(plain, 5 / 3 / 5 / 2))
    none = paired_difference(rows([np.zeros(20)]))
    assert none.value == 0
    assert none.high == -none.low == pytest.approx(0.105, abs=0.002)  # some 2.09 / 20, where the bootstrap says 0


def test_skewed_differences_are_not_significant_for_what_the_sample_lacks() -> None:
    """Of 20 answers most gain a little; the loss in one of ten that pays for it did not come up."""
    gap = np.array([0.15] * 12 + [0.0] * 8)
    assert flip_p(gap[gap != 0]) < 0.01
    assert paired_p(rows([gap])) > 0.05


def test_differences_that_depend_on_the_exemplars_are_not_significant() -> None:
    """All items gain with two draws of exemplars and none with the third."""
    by_seed = np.array([[1.0] * 40, [1.0] * 40, [0.0] * 40])
    gap = Row(values=by_seed.mean(axis=0), by_seed=by_seed)
    assert paired_p([Row(values=gap.values)]) < 1e-6
    assert paired_p([gap]) > 0.05
    found = paired_difference([gap])
    assert found.low < 0 < found.high


def test_clusters_are_flipped_as_wholes() -> None:
    once = np.array([1.0, 1.0, 1.0, 1.0, 1.0, -1.0])
    assert paired_p(rows([np.repeat(once, 10)], [np.repeat(np.arange(6), 10).tolist()])) == pytest.approx(
        sum(abs(sum(s)) >= 4 for s in itertools.product((-1, 1), repeat=6)) / 64, abs=0.03
    )
    assert paired_p(rows([np.repeat(once, 10)])) < 0.001


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([0.25, 0.5, 1.0, -1.0]), min_size=1, max_size=9))
def test_flips_agree_with_all_flips(values: list[float]) -> None:
    weighted = np.array(values)
    sums = [abs(np.dot(s, np.abs(weighted))) for s in itertools.product((-1, 1), repeat=len(values))]
    exact = float(np.mean(np.array(sums) >= abs(weighted.sum()) - 1e-12))
    assert flip_p(weighted, 20_000) == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize("wrong", [0, 2, 5])
def test_small_probabilities_are_those_of_the_binomial(wrong: int) -> None:
    n = 40
    exact = 2 * sum(math.comb(n, k) for k in range(wrong + 1)) / 2**n
    found = flip_p(np.array([1.0] * (n - wrong) + [-1.0] * wrong))
    assert found == pytest.approx(exact, rel=0.1)
    assert found < 1e-5


def test_small_probabilities_of_several_sizes_are_those_of_many_draws() -> None:
    weighted = np.concatenate([np.full(30, 1.0), np.full(25, 0.7), np.full(20, -0.4), np.full(12, -1.0)])
    many, few = flip_p(weighted, 2_000_000), flip_p(weighted, 200)
    assert many < 0.002
    assert 0.9 * many < few < 1.25 * many  # the sizes lie 0.2 apart and not 0.8: on the safe side


def test_the_margin_keeps_the_share_in_the_stated_part_of_the_resamplings() -> None:
    follow = items(7, 200, 0.5, 0.75, 0.8)
    drawn, average = unit_draws([follow]), follow.values.mean(axis=1)
    margin = keep_margin(average, drawn, 2, 0.95, 0.9)
    assert margin[2] == 0
    for lam in (0, 1):
        kept = drawn[:, lam] >= 0.95 * drawn[:, 2]
        assert (kept.mean() >= 0.9) == (average[lam] - margin[lam] >= 0.95 * average[2])
        at_edge = drawn[:, lam] - 0.95 * drawn[:, 2] >= average[lam] - 0.95 * average[2] - margin[lam] - 1e-12
        assert at_edge.mean() == pytest.approx(0.9, abs=0.02)


def test_a_clear_best_stands_alone_and_equals_stand_together() -> None:
    clear = [items(8, 500, 0.3, 0.8, 0.5)]
    assert as_good_as_best(means(clear), unit_draws(clear)) == [1]
    luck = np.random.default_rng(9).random(300)
    same = [series_of(np.array([(luck < r).astype(np.float64) for r in (0.3, 0.8, 0.8)]))]
    assert as_good_as_best(means(same), unit_draws(same)) == [1, 2]
    assert as_good_as_best(np.ones(3), np.ones((100, 3))) == [0, 1, 2]


def test_flips_of_different_sizes_agree_with_flips_of_equal_ones() -> None:
    """Magnitudes that occur once are flipped by bits, equal ones by a binomial: both give the same probability."""
    rng = np.random.default_rng(3)
    signs = np.where(rng.random(60) < 0.62, 1.0, -1.0)
    equal, nearly = flip_p(signs, 40_000), flip_p(signs * (1 + 1e-9 * np.arange(60)), 40_000)
    assert 0.02 < equal < 0.5
    assert nearly == pytest.approx(equal, abs=0.02)
