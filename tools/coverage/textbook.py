"""Textbook statistics, the method `naive` of the table: what pa-lite reported before its intervals allowed for more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pa_lite.statistics import interval
from pa_lite.study.curves import Series
from pa_lite.study.resampling import unit_draws
from pa_lite.study.selection import flip_p
from tools.coverage.worlds import LAMS, Values


def draws(tasks: Sequence[Values]) -> Values:
    """Return averages of resampled items, float64 [draws, lams], of tasks [lams, items]."""
    return unit_draws([Series(name="", area="", values=task) for task in tasks], 1000)


def difference_interval(tasks: Sequence[Values]) -> tuple[float, float]:
    """Return the percentile interval of the second lam less the first."""
    drawn = draws(tasks)
    return interval(drawn[:, 1] - drawn[:, 0])


def sign_flip_p(gaps: Sequence[Values]) -> float:
    """Return the p of a sign-flip test of single items, float64 [items] a task."""
    weighted = np.concatenate([gap / (len(gap) * len(gaps)) for gap in gaps])
    weighted = weighted[weighted != 0]
    return flip_p(weighted) if len(weighted) else 1.0


def winners(drawn: Values) -> tuple[float, float]:
    """Return the range of the central 95% of the lams that win when items are resampled."""
    won = drawn >= drawn.max(axis=1, keepdims=True) - 1e-12
    reached = np.cumsum((won / won.sum(axis=1, keepdims=True)).mean(axis=0))
    low, high = (min(len(LAMS) - 1, int(np.searchsorted(reached, q - 1e-12))) for q in (0.025, 0.975))
    return LAMS[low], LAMS[high]


def equals(drawn: Values, best: int) -> set[int]:
    """Return the best lam and those at least as good in more draws than 2.5%, divided among the others."""
    as_good = (drawn >= drawn[:, [best]] - 1e-12).mean(axis=0)
    return {best, *(int(i) for i in np.flatnonzero(as_good > 0.025 / (drawn.shape[1] - 1)))}
