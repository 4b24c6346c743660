"""Tests of paired statistics against slow twins that resample and flip item by item."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pa_lite.errors import InputError
from pa_lite.statistics import clustered_error, mean_over_tasks, score_interval, spread_of_mean
from pa_lite.study.comparisons import Best, band, best_lam, differences, holm, kept_lams
from pa_lite.study.curves import Curves, Row, Series, average, estimates, means, pareto_optimal
from pa_lite.study.goal import Goal
from pa_lite.study.measures import FEW_SHOT
from pa_lite.study.selection import paired_p
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
    found, slow = estimates(tasks)[1], mean_over_tasks([tasks[0].values[1], tasks[1].values[1]])
    assert (found.value, found.stderr) == pytest.approx((slow.value, slow.stderr))
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


def test_errors_and_intervals_use_clusters_and_draws_of_exemplars() -> None:
    rng = np.random.default_rng(3)
    passages = np.repeat(np.arange(20), 4)
    values = (rng.random(20)[passages] + 0.3 * rng.random((3, 80)) > 0.6).astype(np.float64)
    single = Series(name="t", area="a", values=values)
    clustered = replace(single, clusters=tuple(passages.tolist()))
    groups = [values[0][passages == p].tolist() for p in range(20)]
    assert estimates([clustered])[0].stderr == pytest.approx(clustered_error(groups))
    assert estimates([clustered])[0].stderr > 1.5 * estimates([single])[0].stderr
    shown = average(FEW_SHOT, [clustered])
    assert shown.bounds[0] == score_interval(values[0].mean(), spread_of_mean(values[0], passages))
    assert (band(shown)[0][0], band(shown)[1][0]) == pytest.approx([100 * end for end in shown.bounds[0]])
    seeds = np.clip(values + np.array([-0.2, 0.0, 0.2])[:, None, None], 0, 1)
    several = replace(clustered, values=seeds.mean(axis=0), by_seed=seeds)
    assert estimates([several])[0].stderr > estimates([clustered])[0].stderr
    gaps = [differences(LAMS, [each], 0)[0] for each in (single, clustered)]
    assert gaps[0].value == gaps[1].value
    assert gaps[0].stderr < gaps[1].stderr


def exact_p(per_task: list[np.ndarray[tuple[int], np.dtype[np.float64]]]) -> float:
    weighted = np.concatenate([d / len(d) / len(per_task) for d in per_task])
    sums = [abs(np.dot(signs, weighted)) for signs in itertools.product((-1, 1), repeat=len(weighted))]
    return float(np.mean(np.array(sums) >= abs(weighted.sum()) - 1e-12))


@settings(max_examples=15, deadline=None)
@example([[-0.25], [0.0, 1.0, -0.25]])  # sums to 0 up to rounding
@given(st.lists(st.lists(st.sampled_from([-1.0, -0.25, 0.0, 1.0]), min_size=1, max_size=5), min_size=1, max_size=2))
def test_sign_flip_test_agrees_with_all_flips(gaps: list[list[float]]) -> None:
    per_task = [np.array(g) for g in gaps]
    found = paired_p([Row(values=gap) for gap in per_task], draws=20_000)
    if np.isin(np.concatenate(per_task), (-1.0, 0.0, 1.0)).all():
        assert found == pytest.approx(exact_p(per_task), abs=0.02)
    else:  # skewed differences may be less significant than their flips
        assert found > exact_p(per_task) - 0.02


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
    assert half.stderr < 0.0125 < np.sqrt(2 * 0.25 / 400)
    assert one.low < one.value < one.high
    assert one.p <= one.p_corrected < 0.01
    assert one.relative == pytest.approx((rates[2] - rates[0]) / rates[0])


def best(*tasks: Series, lams: tuple[float, ...] = LAMS) -> Best:
    return best_lam(Curves(lams=lams, tasks=tasks))


def test_best_lam_and_those_as_good() -> None:
    clear = best(series(4, 500, 0.3, 0.8, 0.5))
    assert (clear.lam, clear.low, clear.high, clear.ties) == (0.5, 0.5, 0.5, ())
    assert clear.shares == pytest.approx((0, 1, 0))
    flat = best(series(5, 100, 0.3, 0.8, 0.8))
    assert flat.lam == 0.5
    assert flat.ties == (1.0,)
    assert flat.shares == pytest.approx((0, 0.5, 0.5))
    assert (flat.low, flat.high) == (0.5, 1.0)


def test_the_best_lams_numbers_are_those_of_held_out_items() -> None:
    luck = np.random.default_rng(2).random((11, 200))
    task, lams = Series(name="t", area="a", values=(luck < 0.5).astype(np.float64)), tuple(i / 10 for i in range(11))
    found, plain = best(task, lams=lams), means([task])
    assert found.few_shot.low < found.few_shot.value < plain.max() - 0.01
    assert found.gain_over_base is not None
    assert found.gain_over_instruct is not None
    assert found.gain_over_instruct.low < 0 < found.gain_over_instruct.high
    assert found.gain_over_instruct.value < plain.max() - plain[10]
    inner = best(replace(task, values=task.values[1:10]), lams=lams[1:10])
    assert inner.gain_over_base is inner.gain_over_instruct is None


def test_a_share_of_following_is_kept_surely_or_by_the_point_estimate() -> None:
    luck = np.random.default_rng(6).random((3, 200))
    follow = Series(name="f", area="", values=(luck < np.array([0.2, 0.78, 0.8])[:, None]).astype(np.float64))
    curves = Curves(lams=LAMS, tasks=(series(4, 300, 0.9, 0.7, 0.5),), follow=follow)
    point, sure = Goal(keep_follow=0.95, sure=None), Goal(keep_follow=0.95)
    assert (best_lam(curves, point).lam, kept_lams(curves, point)) == (0.5, (1, 2))
    found = best_lam(curves, sure)
    assert (found.lam, kept_lams(curves, sure)) == (1.0, (2,))
    assert found.ties == (0.5,)  # it may keep the share, and is better then
    assert kept_lams(curves, Goal(keep_follow=0.95, sure=0.5)) == (1, 2)
    assert kept_lams(curves, Goal()) == (0, 1, 2)


@pytest.mark.parametrize("values", [np.ones((3, 5)), np.zeros((3, 1)), np.eye(3)[:, :2], np.full((3, 4), 0.25)])
def test_degenerate_studies_have_a_best_lam(values: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> None:
    task = Series(name="t", area="a", values=values)
    for n_lams in (1, 2, 3):
        for goal in (Goal(), Goal(weight=0.5), Goal(keep_follow=0.9)):
            curves = Curves(lams=LAMS[3 - n_lams :], tasks=(task.at(range(n_lams)),), follow=task.at(range(n_lams)))
            found = best_lam(curves, goal)
            assert found.low <= found.lam <= found.high
            assert sum(found.shares) == pytest.approx(1)
            assert table(curves)[0]["value"] == values[0].mean()


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
    for wrong in ({"weight": 1.5}, {"keep_follow": 0.0}, {"keep_follow": 0.9, "sure": 0.4}, {"sure": 1.0}):
        with pytest.raises(InputError, match="is outside"):
            Goal(**wrong)


def test_pareto_optimal_points() -> None:
    assert pareto_optimal(np.array([3, 2, 1, 2, 3]), np.array([1, 2, 3, 1, 1])) == [0, 1, 2, 4]
