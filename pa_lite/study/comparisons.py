"""Differences between lams on the same items: intervals, tests, corrections, and the best lam with its uncertainty.

Items are resampled or sign-flipped within their tasks; the choice of tasks is taken as given. Randomness is seeded.
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


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A lam's average minus a reference lam's, paired by item.

    `low` and `high` bound the bootstrap's central 95%; `p` is two-sided, of a sign-flip test; `p_corrected` is Holm's,
    over all lams compared with that reference; `relative` is the difference over the reference's average.
    """

    lam: float
    value: float
    stderr: float
    low: float
    high: float
    p: float
    p_corrected: float
    relative: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Whether an average differs measurably between any lams, and how many items would show a difference of 2 points.

    `low` and `high` are the lowest and highest average, in [0, 1]. `items` is the number measured at each lam; `needed`
    is the number that would show 0.02 (80% power, 5% two-sided), spread evenly over the tasks.
    """

    differs: bool
    low: float
    high: float
    items: int
    needed: int


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best lam for a goal, and its uncertainty.

    `low` and `high` bound the central 95% of the lams that win when items are resampled; `shares` is how often each lam
    wins (ties split), in the order of the lams; `ties` are the lams without a measurable difference from the best: they
    are at least as good in more resamples than the level allows (5%, corrected for the number of lams).
    """

    lam: float
    low: float
    high: float
    shares: tuple[float, ...]
    ties: tuple[float, ...]


def average_draws(series: Sequence[Series], draws: int = DRAWS, seed: int = 0) -> Values:
    """Return macro averages of resampled items: float64 [draws, lams]; a draw has the same items at every lam."""
    rng = np.random.default_rng(seed)
    out: Values = np.mean([bootstrap_means(s.values, rng, draws) for s in series], axis=0)
    return out


def band(shown: Average) -> tuple[list[float], list[float]]:
    """Return the bounds of the central 95% of an average at every lam, in percent.

    They come from the bootstrap; for a length-controlled win rate from the normal distribution and the fit's error.
    """
    if shown.series:
        bounds = [interval(column, LEVEL) for column in 100 * average_draws(shown.series).T]
    else:
        z = NormalDist().inv_cdf((1 + LEVEL) / 2)
        bounds = [(100 * (e.value - z * e.stderr), 100 * (e.value + z * e.stderr)) for e in shown.estimates]
    return [low for low, _ in bounds], [high for _, high in bounds]


def sign_flip_p(per_task: Sequence[Values], draws: int = DRAWS, seed: int = 0) -> float:
    """Return the two-sided p for a macro average of paired differences (float64 [items] per task) being 0.

    Under the null hypothesis both signs of an item's difference are equally likely. Monte Carlo; the observed value
    counts as one draw, so that p is never 0 (Phipson and Smyth 2010). Source: Fisher's randomisation test.
    """
    weighted = np.concatenate([d / (len(d) * len(per_task)) for d in per_task])
    weighted = weighted[weighted != 0]  # flipping 0 changes nothing
    if not len(weighted):
        return 1.0
    observed = abs(weighted.sum())
    rounding = 1e-12 * np.abs(weighted).sum()  # a sum of 0 may be computed as 1e-17
    # the sum of k signs with equal magnitudes is distributed as 2 Binomial(k, 1/2) - k
    sizes, counts = np.unique(np.abs(weighted), return_counts=True)
    rng, extreme = np.random.default_rng(seed), 0
    for part in chunks_of(draws, len(sizes)):
        sums = 2 * rng.binomial(counts, 0.5, size=(part.stop - part.start, len(sizes))) - counts
        extreme += int((np.abs(sums @ sizes) >= observed - rounding).sum())
    return (extreme + 1) / (draws + 1)


def holm(ps: Sequence[float]) -> list[float]:
    """Return p values with Holm's step-down correction for multiple comparisons."""
    out, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        out[i] = largest
    return out


def differences(
    lams: Sequence[float], series: Sequence[Series], reference: int, seed: int = 0, drawn: Values | None = None
) -> list[Difference]:
    """Return the difference of every other lam from lams[reference], in the order of the lams.

    `drawn` may pass in the result of `average_draws` for the series and seed.
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
        out.append(
            Difference(
                lam=lams[i],
                value=gap.value,
                stderr=gap.stderr,
                low=low,
                high=high,
                p=p,
                p_corrected=corrected,
                relative=relative,
            )
        )
    return out


def compare_lams(lams: Sequence[float], series: Sequence[Series], seed: int = 0) -> Comparison:
    """Compare all lams with base and instruct (or the outermost lams), and the lams of lowest and highest average.

    The lams differ if a sign-flip test is significant at the 5% level: one against a reference (Holm's correction), or
    the one between lowest and highest average (corrected for all pairs of lams). `needed` is computed from the largest
    variance of a tested difference, averaged over the tasks: with N items spread evenly over k tasks, a macro average
    of differences has the variance mean(s^2) / N.
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
    return Comparison(
        differs=bool(differs),
        low=float(average.min()),
        high=float(average.max()),
        items=sum(s.n for s in series),
        needed=needed,
    )


def items_in_words(needed: int, unit: str = "items") -> str:
    """Say how many items show a difference of 2 points; the minimum of `items_to_show` is only a lower bound."""
    bound = "at least" if needed <= items_to_show(0.0) else "about"
    return f"it takes {bound} {needed} {unit} to show a difference of 2 points (80% power)"


def mean_variance(per_task: Sequence[Values]) -> float:
    """Return the variance of paired differences, averaged over the tasks that have two items or more.

    Without such tasks it is 0.5, as for two independent answers that are each right half of the time.
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
    """Return the lam of the highest utility (the first of equals), with its uncertainty over items.

    Raises InputError when the goal requires a measure that is missing.
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
    return Best(lam=lams[best], low=float(low), high=float(high), shares=tuple(map(float, shares)), ties=ties)
