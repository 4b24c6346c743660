"""Tests of the search: it keeps to its budget, evaluates nothing twice, and agrees with the grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from pa_lite.cli.study import show_found, show_schedules
from pa_lite.errors import InputError
from pa_lite.study.curves import Values
from pa_lite.study.goal import Goal
from pa_lite.study.search.halving import (
    Arms,
    SearchOptions,
    planned_share,
    race_arms,
    remark_on_size,
    search_lam,
)
from pa_lite.study.search.run import Schedules

LAMS = tuple(i / 10 for i in range(11))
SKILL = (0.55, 0.58, 0.62, 0.65, 0.66, 0.66, 0.63, 0.59, 0.53, 0.47, 0.40)
FOLLOW = (0.10, 0.10, 0.12, 0.14, 0.18, 0.25, 0.40, 0.62, 0.78, 0.84, 0.86)


class Table:
    """Known values at every lam of two tasks with 300 and 200 items and 250 instructions; records evaluations."""

    sizes: tuple[int, ...] = (300, 200, 250)

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.values = [
            np.array([(luck < r).astype(np.float64) for r in rates])
            for luck, rates in zip((rng.random(n) for n in self.sizes), (SKILL, SKILL, FOLLOW), strict=True)
        ]
        self.evaluated: list[tuple[int, int, int]] = []

    def evaluate(self, lam: int, series: int, items: Sequence[int]) -> Values:
        self.evaluated += [(lam, series, i) for i in items]
        return self.values[series][lam, list(items)]

    def answer(self, goal: Goal) -> float:
        averages = [v.mean(axis=1) for v in self.values]
        return LAMS[int(goal.utilities(LAMS, (averages[0] + averages[1]) / 2, averages[2]).argmax())]


@pytest.mark.parametrize("goal", [Goal(), Goal(weight=0.5), Goal(keep_follow=0.95), Goal(keep_follow=0.7)])
def test_search_agrees_with_the_grid(goal: Goal) -> None:
    near, spent = 0, []
    for seed in range(10):
        table = Table(seed)
        found = search_lam(
            Arms(lams=LAMS, sizes=table.sizes, has_follow=True, evaluate=table.evaluate),
            goal,
            SearchOptions(budget=0.4, seed=seed),
        )
        near += abs(found.lam - table.answer(goal)) < 0.101
        spent.append(found.spent / found.grid)
        assert len(set(table.evaluated)) == len(table.evaluated) == found.spent
        assert found.grid == 11 * 750
        assert 0 < found.confidence <= 1
    assert near >= 9
    assert max(spent) <= 0.4


@pytest.mark.parametrize("goal", [Goal(), Goal(keep_follow=0.95)])
def test_too_few_items_are_all_measured_and_not_smoothed(goal: Goal) -> None:
    for seed in range(5):
        table = Table(seed)
        arms = Arms(lams=LAMS, sizes=table.sizes, has_follow=True, evaluate=table.evaluate)
        found = search_lam(arms, goal, SearchOptions(seed=seed))
        assert found.is_grid
        assert found.spent == found.grid == len(set(table.evaluated)) == 8250
        assert found.lam == table.answer(goal)
        assert found.few_shot == pytest.approx((table.values[0].mean(axis=1) + table.values[1].mean(axis=1)) / 2)
        assert found.follow == pytest.approx(table.values[2].mean(axis=1))


def test_planned_share_depends_on_the_items_of_the_goals_measures() -> None:
    def share(sizes: tuple[int, ...], goal: Goal, budget: float | None = None) -> float:
        return planned_share(sizes, True, goal, SearchOptions(budget=budget))

    assert share((500, 299, 900), Goal()) == 1
    assert share((500, 300, 100), Goal()) == 0.4
    assert share((500, 300, 100), Goal(keep_follow=0.9)) == 1
    assert share((500, 300, 800), Goal(keep_follow=0.9)) == 0.4
    assert share((10, 10, 800), Goal(weight=1.0)) == 0.4
    assert share((10, 10, 10), Goal(), 0.3) == 0.3


def test_remark_says_what_is_measured_and_warns_of_a_small_budget() -> None:
    def remark(sizes: tuple[int, ...], budget: float | None = None) -> str:
        return remark_on_size(sizes, False, Goal(), SearchOptions(budget=budget), "lam")

    assert remark((100, 50)) == (
        "there are too few items for a search within 40% of the grid (150 items): measuring every lam"
    )
    assert remark((100, 50), 0.4).startswith("a budget of 40% may miss a narrow peak with so few items (150)")
    assert remark((100, 50), 1.0) == ""
    assert remark((400, 400)) == ""


def test_items_without_a_value_count_at_no_lam() -> None:
    table = Table(3)
    table.values[2][4, :200] = np.nan  # most instructions could not be checked at one lam
    clean = Table(3)
    clean.values[2] = clean.values[2][:, 200:]
    clean.sizes = (300, 200, 50)
    few = search_lam(Arms(lams=LAMS, sizes=clean.sizes, has_follow=True, evaluate=clean.evaluate), Goal(weight=0.5))
    found = search_lam(Arms(lams=LAMS, sizes=table.sizes, has_follow=True, evaluate=table.evaluate), Goal(weight=0.5))
    assert found.lam == few.lam
    assert found.follow == pytest.approx(few.follow)
    table = Table(3)
    table.values[0][:, :30] = np.nan
    raced = search_lam(
        Arms(lams=LAMS, sizes=table.sizes, has_follow=True, evaluate=table.evaluate), Goal(), SearchOptions(budget=0.4)
    )
    assert np.isfinite([*raced.few_shot, raced.confidence]).all()


def test_full_budget_evaluates_almost_the_whole_grid() -> None:
    table = Table(0)
    found = search_lam(
        Arms(lams=LAMS[:2], sizes=table.sizes, has_follow=True, evaluate=table.evaluate),
        Goal(),
        SearchOptions(budget=1.0),
    )
    assert found.spent > 0.9 * found.grid
    assert found.lam == 0.1


def test_invalid_searches_fail_before_any_evaluation() -> None:
    table = Table(0)
    for lams, goal, has_follow in ((LAMS, Goal(weight=0.5), False), (LAMS[:10], Goal(keep_follow=0.9), True)):
        with pytest.raises(InputError):
            search_lam(Arms(lams=lams, sizes=table.sizes, has_follow=has_follow, evaluate=table.evaluate), goal)
    with pytest.raises(InputError, match="two lams"):
        search_lam(Arms(lams=(0.5,), sizes=table.sizes, has_follow=True, evaluate=table.evaluate), Goal())
    with pytest.raises(InputError, match="budget"):
        SearchOptions(budget=0)
    assert table.evaluated == []


def test_budget_too_small_for_all_lams_is_refused() -> None:
    table = Table(0)
    with pytest.raises(InputError, match="3 sets of items require 66"):  # 11 lams, 3 sets of items, twice
        search_lam(
            Arms(lams=LAMS, sizes=table.sizes, has_follow=True, evaluate=table.evaluate),
            Goal(),
            SearchOptions(budget=65.5 / 8250),
        )
    assert table.evaluated == []
    found = search_lam(
        Arms(lams=LAMS, sizes=table.sizes, has_follow=True, evaluate=table.evaluate),
        Goal(),
        SearchOptions(budget=66.5 / 8250),
    )
    assert min(found.evaluated) > 0
    assert found.spent <= 66


@pytest.mark.parametrize("goal", [Goal(), Goal(weight=0.5), Goal(keep_follow=0.95)])
def test_equal_lams_have_no_best(goal: Goal, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(0)
    table.values = [np.tile(values[:1], (len(LAMS), 1)) for values in table.values]
    found = search_lam(Arms(lams=LAMS, sizes=table.sizes, has_follow=True, evaluate=table.evaluate), goal)
    assert (found.differs, found.needed) == (False, 385)
    show_found(found, goal)
    shown = capsys.readouterr().out
    assert "No measurable difference between the lams for" in shown
    assert "at least 385 items to show a difference of 2 points" in shown
    assert "Best" not in shown
    raced = race_arms(Arms(lams=LAMS, sizes=table.sizes, has_follow=True, evaluate=table.evaluate), goal)
    show_schedules(
        Schedules(
            lam=0.6,
            text="",
            confidence=1.0,
            spent=raced.spent,
            grid=raced.grid,
            candidates=(),
            utilities=(),
            differs=raced.differs,
            needed=raced.needed,
        )
    )
    shown = capsys.readouterr().out
    assert "no measurable difference between the schedules and lam 0.6 alone" in shown
    assert "best with" not in shown


def test_best_lam_of_differing_lams_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(1)
    found = search_lam(
        Arms(lams=LAMS, sizes=table.sizes, has_follow=True, evaluate=table.evaluate), Goal(keep_follow=0.95)
    )
    assert found.differs is True
    show_found(found, Goal(keep_follow=0.95))
    assert f"kept in 95% of resamplings: lam {found.lam:g}, within 0.1 with probability" in capsys.readouterr().out


def test_only_the_measures_of_the_goal_count() -> None:
    table = Table(2)
    for series in (0, 1):
        table.values[series] = np.tile(table.values[series][:1], (len(LAMS), 1))
    arms = Arms(lams=LAMS, sizes=table.sizes, has_follow=True, evaluate=table.evaluate)
    assert not search_lam(arms, Goal()).differs
    assert search_lam(arms, Goal(weight=1.0)).differs
    assert search_lam(arms, Goal(weight=0.5)).differs


def test_lams_with_independent_noise_are_rarely_called_different() -> None:
    hits = 0
    for seed in range(30):
        table = Table(seed)
        rng = np.random.default_rng(1000 + seed)
        table.values = [(rng.random((len(LAMS), n)) < 0.5).astype(np.float64) for n in table.sizes]
        hits += search_lam(
            Arms(lams=LAMS, sizes=table.sizes, has_follow=True, evaluate=table.evaluate),
            Goal(),
            SearchOptions(seed=seed),
        ).differs
    assert hits <= 4


def test_a_share_is_kept_surely() -> None:
    """At lam 0.9 the share is kept by the point estimate of the whole grid, but not surely; lam 1 is never dropped."""
    found = {None: 0, 0.95: 0}
    for seed in range(10):
        table = Table(seed)
        rng = np.random.default_rng(seed)
        rates = np.array((*FOLLOW[:9], 0.825, 0.86))
        table.values[2] = (rng.random((11, 250)) < rates[:, None]).astype(np.float64)
        arms = Arms(lams=LAMS, sizes=table.sizes, has_follow=True, evaluate=table.evaluate)
        for sure in found:
            found[sure] += search_lam(arms, Goal(keep_follow=0.95, sure=sure), SearchOptions(seed=seed)).lam == 1.0
    assert found[0.95] >= 7
    assert found[None] <= 3


def test_items_without_a_value_are_left_out() -> None:
    table, reduced = Table(3), Table(3)
    reduced.values[2] = table.values[2][:, :200]
    reduced.sizes = (300, 200, 200)
    table.values[2][:, 200:] = np.nan  # prompts that no rule can check
    goal, options = Goal(weight=0.5), SearchOptions(budget=1.0)
    found, plain = (
        search_lam(Arms(lams=LAMS, sizes=t.sizes, has_follow=True, evaluate=t.evaluate), goal, options)
        for t in (table, reduced)
    )
    assert found.lam == plain.lam
    assert found.differs
    assert found.follow == pytest.approx(plain.follow, abs=0.05)
    for arm in range(11):
        table.values[2][arm] = np.nan
    with_none = Arms(lams=LAMS, sizes=table.sizes, has_follow=True, evaluate=table.evaluate)
    assert search_lam(with_none, goal, options).follow == pytest.approx([0.0] * 11, abs=1e-9)
