"""Honest statements about a lam chosen on the items that measure it: gains, intervals, constraints, equal lams.

The lam with the highest average is partly the luckiest, so that its own average is too high (the winner's curse).
Sources: Cawley and Talbot 2010 (selection bias and its cure by held-out items); Berk, Brown, Buja, Zhang and Zhao 2013
(intervals that hold whatever was selected); Hansen, Lunde and Nason 2011 (model confidence sets).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pa_lite.statistics import (
    IntArray,
    Spread,
    bootstrap_means,
    chunks_of,
    score_interval,
    spread_of_average,
    spread_of_mean,
    t_quantile,
    t_test_p,
    unit_sums,
)

Values = npt.NDArray[np.float64]
Clusters = Sequence[int] | IntArray | None
PARTS, REPEATS = 5, 4  # 20 splits
LEVEL = 0.95
DRAWS = 4000


@dataclass(frozen=True)
class Items:
    """A task's items along lam, float64 [lams, items], and which cluster each is of: its passage or its question."""

    values: Values
    clusters: Clusters = None

    def units(self) -> tuple[Values, Values]:
        """Return the sums of the units, float64 [lams, units], and their sizes [units]."""
        return unit_sums(self.values, self.clusters)


@dataclass(frozen=True)
class Interval:
    """A number and its interval of 95 percent, in the same unit."""

    value: float
    low: float
    high: float


def averages(tasks: Sequence[Items]) -> Values:
    """Return the macro average at every lam: float64 [lams]."""
    out: Values = np.mean([t.values.mean(axis=1) for t in tasks], axis=0)
    return out


def unit_draws(tasks: Sequence[Items], draws: int = DRAWS, seed: int = 0) -> Values:
    """Return macro averages of resampled units: float64 [draws, lams]; a draw takes the same units at every lam."""
    rng = np.random.default_rng(seed)
    total = np.zeros((draws, tasks[0].values.shape[0]))
    for task in tasks:
        if task.clusters is None:
            total += bootstrap_means(task.values, rng, draws)
            continue
        sums, sizes = task.units()
        n = len(sizes)
        for part in chunks_of(draws, n):
            counts = rng.multinomial(n, np.full(n, 1 / n), size=part.stop - part.start)
            total[part] += (counts @ sums.T) / (counts @ sizes)[:, None]
    return total / len(tasks)


def held_out(
    tasks: Sequence[Items], choose: Callable[[Values], int], seed: int = 0, parts: int = PARTS, repeats: int = REPEATS
) -> tuple[Values, float]:
    """Return what a choice of lam is worth on items that had no part in it: averages at every lam, and at the chosen.

    `choose` gets averages, float64 [lams], and returns the index of the lam that it takes. The units of each task are
    cut at random into parts, `repeats` times; each part measures once, and all others choose. The averages at every
    lam, float64 [lams], are over what measured, so that a gain over a fixed lam is a paired difference. NaN where a
    task has a single unit. With fewer parts, fewer items choose, and lams that are worse than the one reported: halves
    are 1 point too low for a narrow peak on 100 items, five parts 0.5 points.
    """
    rng = np.random.default_rng(seed)
    units = [task.units() for task in tasks]
    n_lams = len(units[0][0])
    parts = min(parts, *(len(sizes) for _, sizes in units))
    if parts < 2:
        return np.full(n_lams, math.nan), math.nan
    at_all, at_chosen = np.zeros(n_lams), 0.0
    for _ in range(repeats):
        measured, rest = np.zeros((parts, n_lams)), np.zeros((parts, n_lams))
        for sums, sizes in units:
            cut = np.array_split(rng.permutation(len(sizes)), parts)
            for part, own in enumerate(cut[i] for i in rng.permutation(parts)):
                its_sum, its_size = sums[:, own].sum(axis=1), sizes[own].sum()
                measured[part] += its_sum / its_size / len(units)
                rest[part] += (sums.sum(axis=1) - its_sum) / (sizes.sum() - its_size) / len(units)
        at_all += measured.mean(axis=0) / repeats
        at_chosen += float(np.mean([m[choose(r)] for m, r in zip(measured, rest, strict=True)])) / repeats
    return at_all, at_chosen


def _largest_error(draws: Values, level: float) -> float:
    """Return the quantile of the largest of all errors of draws [draws, k], each in its own standard error."""
    spread = draws.std(axis=0)
    errors = (draws - draws.mean(axis=0))[:, spread > 0] / spread[spread > 0]
    return float(np.quantile(errors.max(axis=1), level)) if errors.size else 0.0


def _low_quantile(draws: Values, spread: Spread) -> float:
    """Return the number of standard errors from a selected value to its lower end: max-t, with Student's excess."""
    tail = (1 + LEVEL) / 2
    plain = t_quantile(tail, math.inf)
    return max(plain, _largest_error(draws, tail)) * t_quantile(tail, spread.df) / plain


def selected_average(tasks: Sequence[Items], draws: Values, chosen: int, seed: int = 0) -> Interval:
    """Return the average at a lam that was chosen for its height: measured on held-out items, with its interval.

    The lower end holds for all lams at once, and so for the one chosen, however that was done; the upper end needs no
    correction, as choosing the highest errs upwards.
    """
    spread = spread_of_average([spread_of_mean(t.values[chosen], t.clusters) for t in tasks])
    value = float(averages(tasks)[chosen])
    low, high = score_interval(value, spread, LEVEL, _low_quantile(draws, spread))
    return Interval(held_out(tasks, lambda v: int(v.argmax()), seed)[1], low, high)


def paired_spread(gaps: Sequence[Values], clusters: Sequence[Clusters]) -> Spread:
    """Return the spread of the average over tasks of paired differences in [-1, 1], float64 [items] a task.

    To the variance comes that of one unit more that differs fully, in the task where a unit weighs most: where few
    items differ, or where many small gains hide a rare loss, the sample alone shows too little of it. Source: after
    Agresti and Min 2005, who add such units to matched pairs.
    """
    found = spread_of_average([spread_of_mean(g, c) for g, c in zip(gaps, clusters, strict=True)])
    weights = [float(np.mean(unit_sums(g, c)[1])) / len(g) for g, c in zip(gaps, clusters, strict=True)]
    return Spread(math.hypot(found.stderr, max(weights) / len(gaps)), found.df, found.units)


def paired_difference(gaps: Sequence[Values], clusters: Sequence[Clusters]) -> Interval:
    """Return the average over tasks of paired differences, with its interval; see `paired_spread`."""
    value, spread = float(np.mean([g.mean() for g in gaps])), paired_spread(gaps, clusters)
    reach = t_quantile((1 + LEVEL) / 2, spread.df) * spread.stderr
    return Interval(value, max(-1.0, value - reach), min(1.0, value + reach))


def selected_gain(tasks: Sequence[Items], draws: Values, chosen: int, reference: int, seed: int = 0) -> Interval:
    """Return the gain of a lam that was chosen for its height over a fixed lam; see `selected_average`."""
    at_all, at_chosen = held_out(tasks, lambda v: int(v.argmax()), seed)
    gaps = [t.values[chosen] - t.values[reference] for t in tasks]
    if chosen == reference:
        return Interval(at_chosen - float(at_all[reference]), 0.0, 0.0)
    value, spread = float(np.mean([g.mean() for g in gaps])), paired_spread(gaps, [t.clusters for t in tasks])
    below = _low_quantile(draws - draws[:, [reference]], spread) * spread.stderr
    above = t_quantile((1 + LEVEL) / 2, spread.df) * spread.stderr
    return Interval(at_chosen - float(at_all[reference]), max(-1.0, value - below), min(1.0, value + above))


def paired_p(gaps: Sequence[Values], clusters: Sequence[Clusters], draws: int = DRAWS, seed: int = 0) -> float:
    """Return the two-sided p of the average over tasks of paired differences being 0; units are flipped as wholes.

    Fisher's randomisation test, which is exact where a unit's difference is as likely to have either sign: where items
    are right or wrong. Differences of F1 may be skewed with a mean of 0; there the p is that of Student's test with
    `paired_spread` if that is larger.
    """
    weighted = [unit_sums(g, c)[0] / (len(g) * len(gaps)) for g, c in zip(gaps, clusters, strict=True)]
    joined = np.concatenate(weighted)
    joined = joined[joined != 0]
    if not len(joined):
        return 1.0
    found = flip_p(joined, draws, seed)
    if all(np.isin(unit_sums(g, c)[0], (-1.0, 0.0, 1.0)).all() for g, c in zip(gaps, clusters, strict=True)):
        return found
    spread = paired_spread(gaps, clusters)
    if not math.isfinite(spread.stderr):
        return found
    return max(found, t_test_p(float(np.mean([g.mean() for g in gaps])) / spread.stderr, spread.df))


def flip_p(weighted: Values, draws: int = DRAWS, seed: int = 0) -> float:
    """Return the two-sided p of a sum of values [units] under random signs.

    Monte Carlo, the observed signs counted as one draw (Phipson and Smyth 2010). Where fewer than ten draws are as
    extreme it is the saddlepoint approximation (Lugannani and Rice 1980), so that a p can be corrected for hundreds.
    """
    observed = abs(float(weighted.sum()))
    rounding = 1e-12 * float(np.abs(weighted).sum())
    sizes, counts = np.unique(np.abs(weighted), return_counts=True)
    rng, extreme = np.random.default_rng(seed), 0
    for part in chunks_of(draws, len(sizes)):
        sums = 2 * rng.binomial(counts, 0.5, size=(part.stop - part.start, len(sizes))) - counts
        extreme += int((np.abs(sums @ sizes) >= observed - rounding).sum())
    sampled = (extreme + 1) / (draws + 1)
    return sampled if extreme >= 10 else min(sampled, _flip_tail(sizes, counts, observed))


def _flip_tail(sizes: Values, counts: IntArray, observed: float) -> float:
    """Return about the probability that a sum of so many random signs of each size is as far from 0 as observed.

    Sums differ by two of the smallest size, so the correction is one such size (Daniels 1987).
    """
    largest = float(counts @ sizes)
    every_sign = 2.0 ** (1 - int(counts.sum()))  # all signs alike
    if observed >= largest * (1 - 1e-9):
        return every_sign
    observed -= float(sizes[0])
    low, high = 0.0, 1.0
    while float(counts @ (sizes * np.tanh(high * sizes))) < observed:
        high *= 2
    for _ in range(100):
        s = (low + high) / 2
        low, high = (s, high) if float(counts @ (sizes * np.tanh(s * sizes))) < observed else (low, s)
    s = (low + high) / 2
    cumulant = float(counts @ (np.logaddexp(s * sizes, -s * sizes) - math.log(2)))
    r = math.sqrt(max(2 * (s * observed - cumulant), 1e-300))
    step = float(sizes[0])
    u = math.sinh(s * step) / step * math.sqrt(float(counts @ (sizes / np.cosh(s * sizes)) ** 2))
    if not (math.isfinite(u) and u > 0):
        return every_sign
    tail = 0.5 * math.erfc(r / math.sqrt(2)) + math.exp(-(r**2) / 2) / math.sqrt(2 * math.pi) * (1 / u - 1 / r)
    return float(min(1.0, max(every_sign, 2 * tail)))


def keep_margin(follow: Values, draws: Values, instruct: int, keep: float, sure: float = LEVEL) -> Values:
    """Return by how much each lam must exceed `keep` times instruct's following: float64 [lams].

    With it the share is kept in `sure` of the resamplings `draws` [draws, lams], not in half of them. 0 for instruct.
    """
    slack = draws - keep * draws[:, [instruct]]
    measured = follow - keep * follow[instruct]
    margin: Values = np.maximum(0.0, measured - np.quantile(slack, 1 - sure, axis=0))
    margin[instruct] = 0.0
    return margin


def as_good_as_best(utilities: Values, draws: Values, level: float = LEVEL) -> list[int]:
    """Return the lams among which the best one is, in `level` of studies, although the best was picked by eye: indices.

    Starting with all lams, the worst is dropped as long as the lams left differ: its distance from their average, in
    standard errors, exceeds what the largest such distance would be by chance. Source: the model confidence set of
    Hansen, Lunde and Nason 2011. `draws` [draws, lams] are resampled utilities.
    """
    centred = draws - draws.mean(axis=0)
    left = list(range(len(utilities)))
    while len(left) > 1:
        noise = centred[:, left].mean(axis=1, keepdims=True) - centred[:, left]
        behind = utilities[left].mean() - utilities[left]
        spread = noise.std(axis=0)
        some = spread > 1e-12
        if not some.any():
            break
        limit = float(np.quantile((noise[:, some] / spread[some]).max(axis=1), level))
        distance = np.where(some, behind / np.where(some, spread, 1.0), np.where(behind > 1e-12, np.inf, 0.0))
        worst = int(distance.argmax())
        if distance[worst] <= limit:
            break
        del left[worst]
    return left
