"""The choice of the lam from what was measured at some lams of a window: a smooth curve, and how sure it is.

The curve is the Gaussian process of a search (`posterior_draws`), over the mean of the task's metric and the
probability of the right answer; its value at a lam is also informed by its neighbours. Lams that were not measured are
not chosen: between measured ones, the curve is too uncertain. How sure the choice is, and which lams are not measurably
different, is computed from the metric alone: that is what a user wants, and the probability is only a help.
Of the lams that are not measurably different, and less than a point below the highest on the curve, the nearest to 0.6
is taken: over 18 models, the best average of 21 few-shot tasks was mostly at 0.5 to 0.6 (arXiv 2504.11626).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pa_lite.study.curves import Values
from pa_lite.study.goal import Goal
from pa_lite.study.search.posterior import Evaluated, posterior_draws
from pa_lite.study.selection import as_good_as_best

USUAL = 0.6  # the lam of the paper
FLAT = 0.01  # of a share, or in bits per byte: a smaller gain does not decide
_DRAWS = 4000
_WITHIN = 0.1001  # a lam this close to the chosen one counts as the same answer


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """What was measured: the grid's lams, at which of them, and the values of each workload's items.

    `metric`, `likely` and `follow` are float64 [measured lams, items], higher is better: each task's metric, the
    probability of the right answer (of a text, which has none, the metric again), and following. With `has_base`,
    goals take what is above the value at lam 0.
    """

    lams: tuple[float, ...]
    measured: tuple[float, ...]
    window: tuple[float, float]
    metric: tuple[Values, ...]
    likely: tuple[Values, ...]
    follow: Values | None = None
    has_base: bool = False


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The lam, and how sure it is.

    `equals` are the lams of `window` that are not measurably different from the best, `confidence` the probability
    that no lam farther than 0.1 away is better, both by the metric. `is_flat` says that another lam was taken than the
    highest point of the curve, `highest`, as that is hardly higher; `gain` is by how much. `curve` has the estimates of
    the metric at the lams measured in the window, which are `window`.
    """

    lam: float
    highest: float
    gain: float
    is_flat: bool
    equals: tuple[float, ...]
    confidence: float
    window: tuple[float, ...]
    curve: tuple[float, ...]


def choose_lam(found: Measurements, goal: Goal, seed: int = 0) -> Choice:
    """Return the lam for the goal. Raises InputError as `Goal.utilities`."""
    metric, skill, follow = _draws(found, goal, seed)
    low, high = found.window
    inside = [found.lams.index(lam) for lam in found.measured if low <= lam <= high]
    lams = [found.lams[i] for i in inside]
    utilities, plain = (goal.utilities(found.lams, each, follow)[:, inside] for each in (skill, metric))
    best = int(utilities[0].argmax())
    equals = sorted({best, *as_good_as_best(plain[0], plain[1:])})
    near = [i for i in equals if utilities[0, best] - utilities[0, i] < FLAT or i == best]
    at = min(near, key=lambda i: (abs(lams[i] - USUAL), -lams[i]))
    gain = float(utilities[0, best] - utilities[0, at])
    won = [lams[i] for i in plain[1:].argmax(axis=1)]
    return Choice(
        lam=lams[at], highest=lams[best], gain=gain, is_flat=at != best, equals=tuple(lams[i] for i in equals),
        confidence=float(np.mean([abs(lam - lams[at]) <= _WITHIN for lam in won])), window=tuple(lams),
        curve=tuple(map(float, metric[0, inside])),
    )  # fmt: skip


def next_lam(found: Measurements, goal: Goal, seed: int = 0) -> float | None:
    """Return the lam of the window to measure next: the likeliest to be better than the best one so far.

    None if all are measured. Source: the probability of improvement (Kushner 1964).
    """
    _, skill, follow = _draws(found, goal, seed)
    utilities = goal.utilities(found.lams, skill, follow)
    low, high = found.window
    inside = [i for i, lam in enumerate(found.lams) if low <= lam <= high]
    done = [i for i in inside if found.lams[i] in found.measured]
    left = [i for i in inside if i not in done]
    if not left:
        return None
    best = max(done, key=lambda i: float(utilities[0, i])) if done else left[0]
    better = (utilities[1:, left] > utilities[1:, [best]]).mean(axis=0)
    return found.lams[left[int(better.argmax())]]


def _draws(found: Measurements, goal: Goal, seed: int) -> tuple[Values, Values, Values | None]:
    """Return probable averages [draws + 1, lams]: of the metric, of what the choice goes by, and of following."""
    rng = np.random.default_rng(seed)
    metric = posterior_draws([_on_grid(found, v) for v in found.metric], found.lams, rng, _DRAWS)
    means = [(a + b) / 2 for a, b in zip(found.metric, found.likely, strict=True)]
    skill = posterior_draws([_on_grid(found, v) for v in means], found.lams, rng, _DRAWS)
    if found.follow is None:
        return metric, skill, None
    follow = posterior_draws([_on_grid(found, found.follow)], found.lams, rng, _DRAWS)
    if found.has_base:
        follow = follow - follow[:, [found.lams.index(0.0)]]
    return metric, skill, follow - goal.margin(found.lams, follow[0], follow[1:])


def _on_grid(found: Measurements, values: Values) -> Evaluated:
    """Return values at the measured lams on the whole grid, where other lams have seen nothing."""
    whole, seen = np.zeros((len(found.lams), values.shape[1])), np.zeros(len(found.lams), np.int64)
    rows = [found.lams.index(lam) for lam in found.measured]
    whole[rows], seen[rows] = values, values.shape[1]
    return Evaluated(whole, seen)
