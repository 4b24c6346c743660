"""Differences between lams on the same items: intervals, tests, corrections, and the best lam with its doubt.

Items are resampled or flipped within their tasks, whose choice is taken as given. Everything random is seeded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from pa_lite.statistics import bootstrap_means, chunks_of, interval, items_to_show, mean_over_tasks
from pa_lite.study.curves import Average, Series, Values, means
from pa_lite.study.goal import Goal

DRAWS = 4000
LEVEL = 0.95
_EQUAL = 1e-12


@dataclass(frozen=True)
class Difference:
    """A lam's average minus a reference lam's, paired by item.

    `low` and `high` bound the bootstrap's central 95%; `p` is the two-sided sign-flip test's, `p_corrected` Holm's
    among all lams compared with that reference; `relative` is the difference over the reference's average.
    """

    lam: float
    value: float
    stderr: float
    low: float
    high: float
    p: float
    p_corrected: float
    relative: float


@dataclass(frozen=True)
class Comparison:
    """Whether an average differs measurably between any lams, and how many items would show a difference of 2 points.

    `low` and `high` are the lowest and the highest average, in [0, 1]. `items` were measured at each lam; `needed` are
    the items that would show 0.02 (80% power, 5% two-sided), spread evenly over the tasks.
    """

    differs: bool
    low: float
    high: float
    items: int
    needed: int


@dataclass(frozen=True)
class Best:
    """The lam that serves a goal best, and how sure that is.

    `low` and `high` bound the central 95% of the lams that win when items are resampled; `shares` says how often each
    lam wins (ties shared), in the lams' order; `ties` are the lams without a measurable difference from the best: they
    are as good in more draws than chance allows (5%, corrected for the number of lams).
    """

    lam: float
    low: float
    high: float
    shares: tuple[float, ...]
    ties: tuple[float, ...]


def average_draws(series: Sequence[Series], draws: int = DRAWS, seed: int = 0) -> Values:
    """Macro averages of resampled items: float64 [draws, lams]; a draw takes the same items at every lam."""
    rng = np.random.default_rng(seed)
    out: Values = np.mean([bootstrap_means(s.values, rng, draws) for s in series], axis=0)
    return out


def band(shown: Average) -> tuple[list[float], list[float]]:
    """Return the bounds of the central 95% of an average at every lam, in percent.

    They are the bootstrap's; a length-controlled win rate has those of the normal distribution, from its fit.
    """
    if shown.series:
        bounds = [interval(column, LEVEL) for column in 100 * average_draws(shown.series).T]
    else:
        z = NormalDist().inv_cdf((1 + LEVEL) / 2)
        bounds = [(100 * (e.value - z * e.stderr), 100 * (e.value + z * e.stderr)) for e in shown.estimates]
    return [low for low, _ in bounds], [high for _, high in bounds]


def sign_flip_p(per_task: Sequence[Values], draws: int = DRAWS, seed: int = 0) -> float:
    """Two-sided p of a macro average of paired differences (float64 [items] a task) being 0.

    Under the null hypothesis each item's difference has either sign alike. Monte Carlo; the observed draw counts as
    one, so that p is never 0. Source: Fisher's randomisation test; Phipson and Smyth 2010 for the counting.
    """
    weighted = np.concatenate([d / (len(d) * len(per_task)) for d in per_task])
    weighted = weighted[weighted != 0]  # an item without a difference has nothing to flip
    if not len(weighted):
        return 1.0
    observed = abs(weighted.sum())
    rounding = 1e-12 * np.abs(weighted).sum()  # a sum of 0 can come out as 1e-17
    # the sum of k signs of one size is 2 Binomial(k, 1/2) - k
    sizes, counts = np.unique(np.abs(weighted), return_counts=True)
    rng, extreme = np.random.default_rng(seed), 0
    for part in chunks_of(draws, len(sizes)):
        sums = 2 * rng.binomial(counts, 0.5, size=(part.stop - part.start, len(sizes))) - counts
        extreme += int((np.abs(sums @ sizes) >= observed - rounding).sum())
    return (extreme + 1) / (draws + 1)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p values that may be compared with one level all together."""
    out, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        out[i] = largest
    return out


def differences(
    lams: Sequence[float], series: Sequence[Series], reference: int, seed: int = 0, drawn: Values | None = None
) -> list[Difference]:
    """Return every other lam against lams[reference], in the lams' order.

    `drawn` is what `average_draws` gives for the series and the seed, where the caller has it already.
    """
    others = [i for i in range(len(lams)) if i != reference]
    gaps = {i: [s.values[i] - s.values[reference] for s in series] for i in others}
    ps = [sign_flip_p(gaps[i], seed=seed) for i in others]
    drawn = average_draws(series, seed=seed) if drawn is None else drawn
    drawn = drawn - drawn[:, [reference]]
    scale = float(means(series)[reference])
    out = []
    for i, p, corrected in zip(others, ps, holm(ps), strict=True):
        gap = mean_over_tasks(gaps[i])
        low, high = interval(drawn[:, i], LEVEL)
        relative = gap.value / scale if scale else float("nan")
        out.append(Difference(lams[i], gap.value, gap.stderr, low, high, p, corrected, relative))
    return out


def compare_lams(lams: Sequence[float], series: Sequence[Series], seed: int = 0) -> Comparison:
    """Compare all lams with base and instruct (the outermost lams where those are absent), and the extremes.

    The lams differ if, at the 5% level, a sign-flip test does among those against one reference (Holm's correction), or
    the one between the lams of the lowest and the highest average (corrected for all pairs of lams). `needed` takes the
    largest variance of a tested difference, averaged over the tasks: with N items spread evenly over k tasks, a macro
    average of differences has the variance mean(s^2) / N.
    """
    average, order = means(series), np.argsort(lams)
    references = [i for i, lam in enumerate(lams) if lam in (0.0, 1.0)] or [int(order[0]), int(order[-1])]
    extremes = int(average.argmin()), int(average.argmax())

    def gaps(first: int, second: int) -> list[Values]:
        return [s.values[first] - s.values[second] for s in series]

    found, differs = [gaps(*extremes)], False
    for reference in references:
        others = [gaps(i, reference) for i in range(len(lams)) if i != reference]
        differs |= any(p < 1 - LEVEL for p in holm([sign_flip_p(each, seed=seed) for each in others]))
        found += others
    pairs = max(1, len(lams) * (len(lams) - 1) // 2)
    differs |= pairs * sign_flip_p(found[0], seed=seed) < 1 - LEVEL
    needed = items_to_show(max(map(mean_variance, found)))
    return Comparison(bool(differs), float(average.min()), float(average.max()), sum(s.n for s in series), needed)


def items_in_words(needed: int, unit: str = "items") -> str:
    """Say how many items show a difference of 2 points; the least number that `items_to_show` gives is a bound."""
    bound = "at least" if needed <= items_to_show(0.0) else "about"
    return f"it takes {bound} {needed} {unit} to show a difference of 2 points (80% power)"


def mean_variance(per_task: Sequence[Values]) -> float:
    """Return the variance of paired differences, averaged over the tasks that have two items or more.

    With none, 0.5: that of two independent answers, each right half of the time.
    """
    variances = [float(np.var(d, ddof=1)) for d in per_task if len(d) > 1]
    return float(np.mean(variances or [0.5]))


def best_lam(
    lams: Sequence[float],
    tasks: Sequence[Series],
    compliance: Series | None = None,
    goal: Goal | None = None,
    seed: int = 0,
) -> Best:
    """The lam of the highest utility (the first of equals) and its uncertainty over items.

    Raises InputError when the goal needs what was not measured.
    """
    goal = goal or Goal()
    follow = None if compliance is None else [compliance]
    utilities = goal.utilities(lams, means(tasks), None if follow is None else means(follow))
    best = int(utilities.argmax())
    drawn = goal.utilities(
        lams, average_draws(tasks, seed=seed), None if follow is None else average_draws(follow, seed=seed + 1)
    )
    winners = drawn >= drawn.max(axis=1, keepdims=True) - _EQUAL
    shares = (winners / winners.sum(axis=1, keepdims=True)).mean(axis=0)
    order = np.argsort(lams)
    reached = np.cumsum(shares[order])
    low, high = (
        lams[order[min(len(lams) - 1, int(np.searchsorted(reached, q - _EQUAL)))]]
        for q in ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    )
    as_good = (drawn >= drawn[:, [best]] - _EQUAL).mean(axis=0)
    allowed = (1 - LEVEL) / 2 / max(1, len(lams) - 1)
    ties = tuple(lam for i, lam in enumerate(lams) if i != best and as_good[i] > allowed)
    return Best(lams[best], float(low), float(high), tuple(map(float, shares)), ties)
