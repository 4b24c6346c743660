"""Tests of paired statistics against slow twins that resample and flip item by item."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pa_lite.errors import InputError
from pa_lite.statistics import mean_over_tasks
from pa_lite.study.comparisons import average_draws, best_lam, differences, holm, sign_flip_p
from pa_lite.study.curves import Curves, Series, estimates, means, pareto_optimal
from pa_lite.study.goal import Goal
from pa_lite.study.summary import table

LAMS = (0.0, 0.5, 1.0)


def series(seed: int, n: int, *rates: float) -> Series:
    """Return items that are right with these rates; the random numbers are the same at every lam."""
    luck = np.random.default_rng(seed).random(n)
    return Series(name=f"t{seed}", area="a", values=np.array([(luck < r).astype(np.float64) for r in rates]))


def test_macro_averages_weight_tasks_equally() -> None:
    tasks = [
        Series(name="a", area="x", values=np.array([[1.0, 0.0]] * 3)),
        Series(name="b", area="x", values=np.array([[1.0] * 9 + [0.0]] * 3)),
    ]
    assert means(tasks) == pytest.approx([0.7] * 3)
    assert estimates(tasks)[1] == mean_over_tasks([tasks[0].values[1], tasks[1].values[1]])
    groups = dict(Curves(lams=LAMS, tasks=(*tasks, Series(name="c", area="y", values=tasks[0].values))).groups())
    assert list(groups) == ["few-shot", "x", "y", "a", "b", "c"]


def test_group_names_are_unique() -> None:
    """A task named like a group must not replace it: names in run folders are arbitrary."""
    names = ["few-shot", "following", "preferred", "x", "x (area)", "few-shot (task)"]
    tasks = [
        Series(name=name, area="y" if i else "few-shot", values=np.full((3, 2), i / 10)) for i, name in enumerate(names)
    ]
    tasks[3] = replace(tasks[3], area="x")
    curves = Curves(lams=LAMS, tasks=tuple(tasks), follow=Series(name="f", area="", values=np.full((3, 2), 0.75)))
    groups = list(curves.groups())
    assert len({name for name, _ in groups}) == len(groups) == 1 + 3 + 6
    assert [name for name, _ in groups] == [
        "few-shot", "few-shot (area)", "y", "x", "few-shot (task)", "following (task)", "preferred (task)", "x (task)",
        "x (area)", "few-shot (task) (task)",
    ]  # fmt: skip
    rows = {str(row["group"]): row["value"] for row in table(curves) if row["lam"] == LAMS[0]}
    assert (rows["few-shot"], rows["following"]) == pytest.approx((0.25, 0.75))
    assert rows.keys() == {name for name, _ in groups} | {"following"}


def test_bootstrap_agrees_with_resampling_of_items() -> None:
    tasks = [series(1, 40, 0.3, 0.5, 0.6), series(2, 25, 0.8, 0.7, 0.2)]
    fast = average_draws(tasks, draws=20_000)
    rng = np.random.default_rng(7)
    slow = np.array([
        np.mean([t.values[:, rng.integers(0, t.n, t.n)].mean(axis=1) for t in tasks], axis=0) for _ in range(20_000)
    ])  # fmt: skip
    assert fast.mean(axis=0) == pytest.approx(slow.mean(axis=0), abs=0.003)
    assert np.cov(fast.T) == pytest.approx(np.cov(slow.T), abs=2e-4)


def exact_p(per_task: list[np.ndarray[tuple[int], np.dtype[np.float64]]]) -> float:
    weighted = np.concatenate([d / len(d) / len(per_task) for d in per_task])
    sums = [abs(np.dot(signs, weighted)) for signs in itertools.product((-1, 1), repeat=len(weighted))]
    return float(np.mean(np.array(sums) >= abs(weighted.sum()) - 1e-12))


@settings(max_examples=15, deadline=None)
@example([[-0.25], [0.0, 1.0, -0.25]])  # sums to 0 up to rounding
@given(st.lists(st.lists(st.sampled_from([-1.0, -0.25, 0.0, 1.0]), min_size=1, max_size=5), min_size=1, max_size=2))
def test_sign_flip_test_agrees_with_all_flips(gaps: list[list[float]]) -> None:
    per_task = [np.array(g) for g in gaps]
    assert sign_flip_p(per_task, draws=20_000) == pytest.approx(exact_p(per_task), abs=0.02)


def test_holm_correction_is_monotone() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.5]) == pytest.approx([1.0, 1.0])


def test_differences_are_paired() -> None:
    tasks = [series(3, 400, 0.50, 0.55, 0.60)]
    half, one = differences(LAMS, tasks, 0)
    rates = tasks[0].values.mean(axis=1)
    assert half.lam == 0.5
    assert half.value == pytest.approx(rates[1] - rates[0])
    # the random numbers are shared: far less variance than with two independent samples of 400
    assert half.stderr < 0.012 < np.sqrt(2 * 0.25 / 400)
    assert one.low < one.value < one.high
    assert one.p <= one.p_corrected < 0.01
    assert one.relative == pytest.approx((rates[2] - rates[0]) / rates[0])


def test_best_lam_and_ties() -> None:
    clear = best_lam(LAMS, [series(4, 500, 0.3, 0.8, 0.5)])
    assert (clear.lam, clear.low, clear.high, clear.ties) == (0.5, 0.5, 0.5, ())
    assert clear.shares == pytest.approx((0, 1, 0))
    flat = best_lam(LAMS, [series(5, 100, 0.3, 0.8, 0.8)])
    assert flat.lam == 0.5
    assert flat.ties == (1.0,)
    assert flat.shares == pytest.approx((0, 0.5, 0.5))
    assert (flat.low, flat.high) == (0.5, 1.0)


def test_utilities_of_goals() -> None:
    skill, follow = np.array([0.8, 0.7, 0.4]), np.array([0.1, 0.76, 0.8])
    assert Goal().utilities(LAMS, skill, None).argmax() == 0
    assert Goal(weight=0.5).utilities(LAMS, skill, follow).argmax() == 1
    assert Goal(weight=1.0).utilities(LAMS, skill, follow).argmax() == 2
    assert Goal(keep_follow=0.95).utilities(LAMS, skill, follow).argmax() == 1
    assert Goal(keep_follow=0.96).utilities(LAMS, skill, follow).argmax() == 2
    rows = Goal(keep_follow=0.95).utilities(LAMS, np.array([skill, skill[::-1]]), np.array([follow, follow]))
    assert rows.argmax(axis=1).tolist() == [1, 2]
    with pytest.raises(InputError, match="requires instruction following"):
        Goal(weight=0.5).utilities(LAMS, skill, None)
    with pytest.raises(InputError, match="requires lam 1 among the lams"):
        Goal(keep_follow=0.9).utilities((0.0, 0.5, 0.9), skill, follow)
    for wrong in ({"weight": 1.5}, {"keep_follow": 0.0}):
        with pytest.raises(InputError, match="is outside"):
            Goal(**wrong)


def test_pareto_optimal_points() -> None:
    assert pareto_optimal(np.array([3, 2, 1, 2, 3]), np.array([1, 2, 3, 1, 1])) == [0, 1, 2, 4]
