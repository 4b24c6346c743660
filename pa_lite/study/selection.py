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

from pa_lite.statistics import (
    IntArray,
    Spread,
    chunks_of,
    mean_interval,
    score_interval,
    spread_of_average,
    t_quantile,
    t_test_p,
)
from pa_lite.study.curves import DRAWS, LEVEL, Row, Series, Values, means, spreads

PARTS, REPEATS = 10, 4  # 40 splits


@dataclass(frozen=True)
class Interval:
    """A number and its interval of 95 percent, in the same unit; NaN where unknown."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class HeldOut:
    """What a choice of lam is worth on items that had no part in it.

    `at_all`, float64 [lams], and `at_chosen` are averages over the items that measured: at every lam, and at the lam
    chosen each time, so that a gain over a fixed lam is a paired difference.
    """

    at_all: Values
    at_chosen: float


def held_out(
    series: Sequence[Series],
    choose: Callable[[Values], int],
    seed: int = 0,
    parts: int = PARTS,
    repeats: int = REPEATS,
) -> HeldOut:
    """Return what a choice of lam is worth, by cross-validation.

    `choose` gets averages, float64 [lams], and returns the index of the lam that it takes. The units of each task are
    cut at random into parts, `repeats` times; each part measures once, and all others choose. NaN where a task has a
    single unit. With fewer parts, fewer items choose, and lams that are worse than the one reported; with more, the
    result varies more.
    """
    rng = np.random.default_rng(seed)
    units = [task.units() for task in series]
    n_lams = len(units[0][0])
    parts = min(parts, *(len(sizes) for _, sizes in units))
    if parts < 2:
        return HeldOut(np.full(n_lams, math.nan), math.nan)
    at_all, at_chosen = np.zeros(n_lams), 0.0
    for _ in range(repeats):
        measured, rest = _cut(units, parts, rng)
        at_all += measured.mean(axis=1) / repeats
        taken = [choose(rest[:, part]) for part in range(parts)]
        at_chosen += float(measured[taken, np.arange(parts)].mean()) / repeats
    return HeldOut(at_all, at_chosen)


def _cut(series: Sequence[tuple[Values, Values]], parts: int, rng: np.random.Generator) -> tuple[Values, Values]:
    """Cut the units of each series at random into parts; return the averages of each part and of all others.

    Both are float64 [lams, parts]. Parts differ by at most one unit; which are larger is random for each series.
    """
    measured, rest = np.zeros((len(series[0][0]), parts)), np.zeros((len(series[0][0]), parts))
    for sums, sizes in series:
        n = len(sizes)
        order, lengths = rng.permutation(n), rng.permutation(n // parts + (np.arange(parts) < n % parts))
        starts = np.cumsum(lengths) - lengths
        part_sums, part_sizes = (np.add.reduceat(v[..., order], starts, axis=-1) for v in (sums, sizes))
        measured += part_sums / part_sizes / len(series)
        rest += (sums.sum(axis=1, keepdims=True) - part_sums) / (sizes.sum() - part_sizes) / len(series)
    return measured, rest


def _largest_error(draws: Values, level: float) -> float:
    """Return the quantile of the largest of all errors of draws [draws, k], each in its own standard error."""
    spread = draws.std(axis=0)
    errors = (draws - draws.mean(axis=0))[:, spread > 0] / spread[spread > 0]
    return float(np.quantile(errors.max(axis=1), level)) if errors.size else 0.0


def _low_quantile(draws: Values, spread: Spread) -> float:
    """Return the number of standard errors from a selected value to its lower end: max-t, with Student's excess.

    Where the lams' errors differ, the lower end has the 5 percent to itself: a value chosen for its height is hardly
    ever too low. Where they are nearly the same error it has half, as without a choice.
    """
    tail = (1 + LEVEL) / 2
    plain = t_quantile(tail, math.inf)
    return max(plain, _largest_error(draws, LEVEL)) * t_quantile(tail, spread.df) / plain


def selected_average(series: Sequence[Series], draws: Values, chosen: int, held: HeldOut) -> Interval:
    """Return the average at a lam that was chosen for its height: measured on held-out items, with its interval.

    `draws` [draws, k] are the resampled averages of the lams that could be chosen. The lower end holds for all of them
    at once, and so for the one chosen, however that was done; the upper end needs no correction, as choosing the
    highest errs upwards.
    """
    value, spread = float(means(series)[chosen]), spreads([s.at([chosen]) for s in series])[0]
    bounds_of = score_interval if all(s.is_share for s in series) else mean_interval
    return _around(held.at_chosen, *bounds_of(value, spread, LEVEL, _low_quantile(draws, spread)))


def _around(value: float, low: float, high: float) -> Interval:
    """Return an interval that contains the value; NaN stays."""
    return Interval(value, min(low, value), max(high, value)) if math.isfinite(value) else Interval(value, low, high)


def paired_spread(gaps: Sequence[Row]) -> Spread:
    """Return the spread of the average over tasks of paired differences.

    Differences of shares are in [-1, 1]. To their variance comes that of one unit more that differs fully, in the task
    where a unit weighs most: where few items differ, or where many small gains hide a rare loss, the sample alone shows
    too little of it. Source: after Agresti and Min 2005, who add such units to matched pairs. Other differences, as of
    bits, have no bound, and vary at every unit.
    """
    each = [gap.spread() for gap in gaps]
    found, weight = spread_of_average(each), 1 / min(spread.units for spread in each)
    if not _are_shares(gaps):
        return found
    return Spread(math.hypot(found.stderr, weight / len(gaps)), found.df, found.units)


def _value(gaps: Sequence[Row]) -> float:
    return float(np.mean([gap.mean() for gap in gaps]))


def _are_shares(gaps: Sequence[Row]) -> bool:
    return all(gap.is_share for gap in gaps)


def paired_difference(gaps: Sequence[Row], spread: Spread | None = None) -> Interval:
    """Return the average over tasks of paired differences, with its interval, from the result of `paired_spread`."""
    value, spread = _value(gaps), spread or paired_spread(gaps)
    reach = t_quantile((1 + LEVEL) / 2, spread.df) * spread.stderr
    return Interval(value, *_possible(value - reach, value + reach, gaps))


def _possible(low: float, high: float, gaps: Sequence[Row]) -> tuple[float, float]:
    """Return the ends of an interval of differences, within [-1, 1] for shares; NaN stays."""
    if not _are_shares(gaps):
        return low, high
    return low if math.isnan(low) else max(-1.0, low), high if math.isnan(high) else min(1.0, high)


def selected_gain(series: Sequence[Series], draws: Values, chosen: int, reference: int, held: HeldOut) -> Interval:
    """Return the gain of a lam that was chosen for its height over a fixed lam; see `selected_average`.

    `draws` [draws, k] are the resampled gains of the lams that could be chosen.
    """
    gain = held.at_chosen - float(held.at_all[reference])
    if chosen == reference:
        return _around(gain, 0.0, 0.0)
    gaps = [s.gap(chosen, reference) for s in series]
    value, spread = _value(gaps), paired_spread(gaps)
    below = _low_quantile(draws, spread) * spread.stderr
    above = t_quantile((1 + LEVEL) / 2, spread.df) * spread.stderr
    return _around(gain, *_possible(value - below, value + above, gaps))


def paired_p(gaps: Sequence[Row], draws: int = DRAWS, seed: int = 0) -> float:
    """Return the two-sided p of the average over tasks of paired differences being 0; units are flipped as wholes.

    Fisher's randomisation test, which is exact where a unit's difference is as likely to have either sign: where items
    are right or wrong. Differences of F1 may be skewed with a mean of 0, and several draws of exemplars differ by more
    than their items show; there the p is that of Student's test with `paired_spread` if that is larger.
    """
    units = [gap.units() for gap in gaps]
    sums = [each for each, _ in units]
    weighted = np.concatenate([each / (sizes.sum() * len(gaps)) for each, sizes in units])
    weighted = weighted[weighted != 0]
    if not len(weighted):
        return 1.0
    found = flip_p(weighted, draws, seed)
    if all(gap.by_seed is None for gap in gaps) and all(np.isin(s, (-1.0, 0.0, 1.0)).all() for s in sums):
        return found
    spread = paired_spread(gaps)
    if not (math.isfinite(spread.stderr) and spread.stderr > 0):
        return found
    return max(found, t_test_p(_value(gaps) / spread.stderr, spread.df))


def flip_p(weighted: Values, draws: int = DRAWS, seed: int = 0) -> float:
    """Return the two-sided p of a sum of values [units] under random signs.

    Monte Carlo, the observed signs counted as one draw (Phipson and Smyth 2010). Where fewer than ten draws are as
    extreme it is the saddlepoint approximation (Lugannani and Rice 1980), so that a p can be corrected for hundreds.
    """
    observed = abs(float(weighted.sum()))
    rounding = 1e-12 * float(np.abs(weighted).sum())
    sizes, counts = np.unique(np.abs(weighted), return_counts=True)
    single, several = sizes[counts == 1], counts > 1
    rng, extreme = np.random.default_rng(seed), 0
    for part in chunks_of(draws, len(sizes)):
        n = part.stop - part.start
        # the sum of k signs with equal magnitudes is distributed as 2 Binomial(k, 1/2) - k
        sums = (2 * rng.binomial(counts[several], 0.5, size=(n, int(several.sum()))) - counts[several]) @ sizes[several]
        if len(single):
            bits = np.unpackbits(rng.integers(0, 256, (n, -(-len(single) // 8)), np.uint8), axis=1)[:, : len(single)]
            sums = sums + 2 * (bits.astype(np.float64) @ single) - single.sum()
        extreme += int((np.abs(sums) >= observed - rounding).sum())
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

    Starting with all lams, those are dropped whose distance from the average of the lams left, in standard errors,
    exceeds what the largest such distance would be by chance, until there are none. Source: the model confidence set of
    Hansen, Lunde and Nason 2011. `draws` [draws, lams] are resampled utilities.
    """
    centred = draws - draws.mean(axis=0)
    left = np.arange(len(utilities))
    while len(left) > 1:
        noise = centred[:, left].mean(axis=1, keepdims=True) - centred[:, left]
        behind = utilities[left].mean() - utilities[left]
        spread = noise.std(axis=0)
        some = spread > 1e-12
        if not some.any():
            break
        limit = float(np.quantile((noise[:, some] / spread[some]).max(axis=1), level))
        distance = np.where(some, behind / np.where(some, spread, 1.0), np.where(behind > 1e-12, np.inf, 0.0))
        if (distance <= limit).all():
            break
        left = left[distance <= limit]
    return [int(i) for i in left]
