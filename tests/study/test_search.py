"""The search spends what it may, never looks twice, and finds the grid's answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from pa_lite.errors import InputError
from pa_lite.study.curves import Values
from pa_lite.study.goal import Goal
from pa_lite.study.search import Arms, SearchOptions, search_lam

LAMS = tuple(i / 10 for i in range(11))
SKILL = (0.55, 0.58, 0.62, 0.65, 0.66, 0.66, 0.63, 0.59, 0.53, 0.47, 0.40)
FOLLOW = (0.10, 0.10, 0.12, 0.14, 0.18, 0.25, 0.40, 0.62, 0.78, 0.84, 0.86)


class Table:
    """Every item at every lam, and what was asked of it: two tasks of 300 and 200 items, 250 instructions."""

    sizes = (300, 200, 250)

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.values = [
            np.array([(luck < r).astype(np.float64) for r in rates])
            for luck, rates in zip((rng.random(n) for n in self.sizes), (SKILL, SKILL, FOLLOW), strict=True)
        ]
        self.asked: list[tuple[int, int, int]] = []

    def evaluate(self, lam: int, series: int, items: Sequence[int]) -> Values:
        self.asked += [(lam, series, i) for i in items]
        return self.values[series][lam, list(items)]

    def answer(self, goal: Goal) -> float:
        averages = [v.mean(axis=1) for v in self.values]
        return LAMS[int(goal.utilities(LAMS, (averages[0] + averages[1]) / 2, averages[2]).argmax())]


@pytest.mark.parametrize("goal", [Goal(), Goal(weight=0.5), Goal(keep_follow=0.95), Goal(keep_follow=0.7)])
def test_it_lands_near_the_grids_answer(goal: Goal) -> None:
    near, spent = 0, []
    for seed in range(10):
        table = Table(seed)
        found = search_lam(Arms(LAMS, table.sizes, True, table.evaluate), goal, SearchOptions(seed=seed))
        near += abs(found.lam - table.answer(goal)) < 0.101
        spent.append(found.spent / found.grid)
        assert len(set(table.asked)) == len(table.asked) == found.spent
        assert found.grid == 11 * 750
        assert 0 < found.confidence <= 1
    assert near >= 9
    assert max(spent) <= 0.4


def test_a_whole_budget_is_the_grid() -> None:
    table = Table(0)
    found = search_lam(Arms(LAMS[:2], table.sizes, True, table.evaluate), Goal(), SearchOptions(budget=1.0))
    assert found.spent > 0.9 * found.grid
    assert found.lam == 0.1


def test_what_cannot_be_judged_fails_before_any_work() -> None:
    table = Table(0)
    for lams, goal, has_follow in ((LAMS, Goal(weight=0.5), False), (LAMS[:10], Goal(keep_follow=0.9), True)):
        with pytest.raises(InputError):
            search_lam(Arms(lams, table.sizes, has_follow, table.evaluate), goal)
    with pytest.raises(InputError, match="two lams"):
        search_lam(Arms((0.5,), table.sizes, True, table.evaluate), Goal())
    with pytest.raises(InputError, match="budget"):
        SearchOptions(budget=0)
    assert table.asked == []


def test_a_budget_that_shows_some_lam_nothing_is_refused() -> None:
    table = Table(0)
    with pytest.raises(InputError, match="66 are the fewest"):  # 11 lams, 3 sets of items, twice
        search_lam(Arms(LAMS, table.sizes, True, table.evaluate), Goal(), SearchOptions(budget=65.5 / 8250))
    assert table.asked == []
    found = search_lam(Arms(LAMS, table.sizes, True, table.evaluate), Goal(), SearchOptions(budget=66.5 / 8250))
    assert min(found.evaluated) > 0
    assert found.spent <= 66
