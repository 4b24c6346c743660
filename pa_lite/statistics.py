"""Standard errors, intervals and sample sizes: the formulas for every number that pa-lite prints."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
DRAWS = 2000
_RARE = 3  # outcomes for which Wilson's interval is too short at its far end
_CHUNK_VALUES = 1 << 22  # random numbers held at a time


@dataclass(frozen=True)
class Mean:
    """A number and its standard error, in the same unit; NaN where unknown, as for a single item."""

    value: float
    stderr: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A number, its standard error, and its 95% interval (`score_interval`), in the same unit; NaN where unknown."""

    value: float
    stderr: float
    low: float
    high: float


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of a mean: sample standard deviation (n - 1) / sqrt(n); NaN for a single value."""
    n = len(values)
    return float(np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else math.nan


def clustered_error(clusters: Sequence[Sequence[float]]) -> float:
    """Return the standard error of the mean of all values when values of a cluster are correlated.

    With one value per cluster it is `standard_error`. NaN for a single cluster. Source: the cluster-robust variance of
    a mean, with the factor G / (G - 1) for G clusters.
    """
    values = [v for c in clusters for v in c]
    groups = [c for c in clusters if c]
    if len(groups) < 2:
        return math.nan
    mean = float(np.mean(values))
    squares = sum(sum(v - mean for v in c) ** 2 for c in groups)
    return math.sqrt(squares * len(groups) / (len(groups) - 1)) / len(values)


def mean_over_tasks(per_task: Sequence[Sequence[float]]) -> Mean:
    """Return the mean of the tasks' means; its standard error, for fixed tasks, is sqrt(sum of squares) / tasks."""
    value = float(np.mean([np.mean(v) for v in per_task]))
    return Mean(value, math.sqrt(sum(standard_error(v) ** 2 for v in per_task)) / len(per_task))


@dataclass(frozen=True)
class Spread:
    """The standard error of an average, its degrees of freedom, and how many independent units it rests on."""

    stderr: float
    df: float
    units: int


def unit_sums(
    values: FloatArray, clusters: Sequence[int] | IntArray | None = None, weights: Sequence[float] | None = None
) -> tuple[FloatArray, FloatArray]:
    """Return the sum of every unit, float64 [..., units], and its size [units], of values [..., items].

    A unit is a single item, or the items of one cluster: those that share a passage or a question. With `weights`
    [items], sums are weighted, and a unit's size is the sum of its weights.
    """
    if weights is None:
        if clusters is None:
            return values, np.ones(values.shape[-1])
        _, of, sizes = np.unique(np.asarray(clusters), return_inverse=True, return_counts=True)
        ordered, starts = values[..., np.argsort(of, kind="stable")], np.cumsum(sizes) - sizes
        return np.add.reduceat(ordered, starts, axis=-1), sizes.astype(np.float64)
    each = np.asarray(weights, np.float64)
    if clusters is None:
        return values * each, each
    return unit_sums(values * each, clusters)[0], unit_sums(each, clusters)[0]


def spread_of_mean(
    values: Sequence[float] | FloatArray,
    clusters: Sequence[int] | IntArray | None = None,
    weights: Sequence[float] | None = None,
) -> Spread:
    """Return the spread of the mean of items, which may be correlated within clusters; NaN for a single unit.

    Source: as `clustered_error`. Uneven clusters tell less than their number says, so the degrees of freedom are
    Kish's effective number of clusters less one: (sum n)^2 / sum n^2 - 1. With `weights`, it is that of the weighted
    mean, a ratio of two sums, by linearisation (Cochran 1977, chapter 6).
    """
    items = np.asarray(values, np.float64)
    sums, sizes = unit_sums(items, clusters, weights)
    n_units = len(sizes)
    n = len(items) if weights is None else float(sizes.sum())
    if n_units < 2:
        return Spread(math.nan, math.nan, n_units)
    left = sums - (items.mean() if weights is None else sums.sum() / n) * sizes
    variance = float(left @ left) * n_units / (n_units - 1) / n**2
    return Spread(math.sqrt(variance), max(1.0, n**2 / float(sizes @ sizes) - 1), n_units)


def spread_of_average(spreads: Sequence[Spread]) -> Spread:
    """Return the spread of the unweighted average of independent means; degrees of freedom by Satterthwaite (1946)."""
    squares = np.array([s.stderr**2 for s in spreads])
    below = sum(v**2 / s.df for v, s in zip(squares, spreads, strict=True))
    df = float(squares.sum() ** 2 / below) if below > 0 else float(min(s.df for s in spreads))
    return Spread(math.sqrt(squares.sum()) / len(spreads), df, sum(s.units for s in spreads))


def t_quantile(probability: float, df: float) -> float:
    """Return Student's quantile (0.5 to 1) by Wallace's transformation (1959): 0.5% too wide at 4 degrees of freedom.

    Below that it errs on the safe side; from 10 on it is exact to 0.1%.
    """
    z = NormalDist().inv_cdf(probability) * (8 * df + 3) / (8 * df + 1) if math.isfinite(df) else math.inf
    return math.sqrt(df * math.expm1(z**2 / df)) if math.isfinite(z) else NormalDist().inv_cdf(probability)


def t_test_p(t: float, df: float) -> float:
    """Return the two-sided p of Student's t, by the inverse of what `t_quantile` does."""
    z = math.sqrt(df * math.log1p(t**2 / df)) * (8 * df + 1) / (8 * df + 3) if math.isfinite(df) else abs(t)
    return 2 * NormalDist().cdf(-z)


def score_interval(
    value: float, spread: Spread, level: float = 0.95, low_quantile: float | None = None
) -> tuple[float, float]:
    """Return the interval of an average of values in [0, 1] that holds near 0 and 1 too; NaN without a standard error.

    Wilson's score interval (1927) with the number of items that would give a share of right answers this standard
    error, value (1 - value) / stderr^2, and Student's quantile; where nothing varies, the number of units. Source: Dean
    and Pagano 2015, after Korn and Graubard 1998. `low_quantile` replaces the quantile of the lower end. Where 1 to 3
    items are wrong, or right, an end is further out, as Wilson's fails there (`_rarest`).
    """
    if not math.isfinite(spread.stderr):
        return math.nan, math.nan
    n = value * (1 - value) / spread.stderr**2 if spread.stderr > 0 and 0 < value < 1 else float(spread.units)
    quantile = t_quantile((1 + level) / 2, spread.df)
    ends = []
    for q in (-quantile if low_quantile is None else -low_quantile, quantile):
        centre = (value + q**2 / (2 * n)) / (1 + q**2 / n)
        half = q * math.sqrt(max(0.0, value * (1 - value)) / n + q**2 / (4 * n**2)) / (1 + q**2 / n)
        ends.append(min(1.0, max(0.0, centre + half)))
    return min(ends[0], _rarest(value * n, level) / n), max(ends[1], 1 - _rarest((1 - value) * n, level) / n)


def mean_interval(
    value: float, spread: Spread, level: float = 0.95, low_quantile: float | None = None
) -> tuple[float, float]:
    """Return Student's interval of an average of values without bounds; NaN without a standard error.

    `low_quantile` replaces the quantile of the lower end.
    """
    quantile = t_quantile((1 + level) / 2, spread.df)
    below = quantile if low_quantile is None else low_quantile
    return value - below * spread.stderr, value + quantile * spread.stderr


def _rarest(count: float, level: float) -> float:
    """Return the fewest rare outcomes to expect where `count` were seen, up to 3; infinity for more, and for none.

    The lower limit of a Poisson mean with the whole error on one side. Source: the modified interval of Brown, Cai and
    DasGupta 2001, and the cube-root approximation of Wilson and Hilferty 1931, for counts that are not integers.
    """
    if not 0 < count <= _RARE:
        return math.inf
    root = 1 - 1 / (9 * count) - NormalDist().inv_cdf(level) / (3 * math.sqrt(count))
    return count * max(0.0, root) ** 3


def pooled_standard_error(groups: Sequence[Sequence[float]]) -> float:
    """Return the standard error of the mean over all items of several fixed groups.

    sqrt(sum((n - 1) n se^2) / (N - k) / N) over k groups of n items, N in all: lm-eval's formula for weighted groups.
    NaN if no group has two items.
    """
    n_all, k = sum(len(g) for g in groups), len(groups)
    if n_all <= k:
        return math.nan
    squares = sum((len(g) - 1) * len(g) * standard_error(g) ** 2 for g in groups if len(g) > 1)
    return math.sqrt(squares / (n_all - k) / n_all)


def items_to_show(
    variance: float, difference: float = 0.02, power: float = 0.8, level: float = 0.05, is_share: bool = True
) -> int:
    """Return how many paired items are needed to detect a difference of that size between two averages.

    n = (z(1 - level/2) + z(power))^2 * s^2 / difference^2, rounded up, where s^2 is the `variance` of the items' paired
    differences and z the normal quantile; the test is two-sided. s^2 is at least difference * (1 - difference), the
    smallest variance of right-or-wrong items at that difference (385 items for 0.02): if no item differs, the sample
    variance 0 says nothing. Values that are not shares (`is_share` false) have no minimum variance, and need at least
    two items. Source: the sample size of a paired z test, as in Miller 2024 (arXiv 2411.00640).
    """
    z = NormalDist().inv_cdf(1 - level / 2) + NormalDist().inv_cdf(power)
    if not is_share:
        return max(2, math.ceil(z**2 * variance / difference**2))
    return math.ceil(z**2 * max(variance, difference * (1 - difference)) / difference**2)


def bootstrap_means(values: Sequence[float] | FloatArray, rng: np.random.Generator, draws: int = DRAWS) -> FloatArray:
    """Return bootstrap means of items [n], float64 [draws], or of rows of items [rows, n], float64 [draws, rows].

    Each of the `draws` resamples takes the same items, with replacement, in every row. The counts of distinct columns
    are drawn from a multinomial, which has the same distribution as drawing every item. Memory is bounded.
    """
    rows = np.atleast_2d(np.asarray(values, np.float64))
    n = rows.shape[1]
    patterns, counts = np.unique(rows, axis=1, return_counts=True)
    means = np.empty((draws, len(rows)))
    for part in chunks_of(draws, len(counts)):
        means[part] = rng.multinomial(n, counts / n, size=part.stop - part.start) @ patterns.T / n
    return means if np.ndim(values) == 2 else means[:, 0]


def chunks_of(draws: int, width: int) -> Iterator[slice]:
    """Yield slices of `draws`, each draw of `width` random numbers, so that a slice takes bounded memory."""
    step = max(1, _CHUNK_VALUES // max(1, width))
    for start in range(0, draws, step):
        yield slice(start, min(draws, start + step))


def interval(draws: FloatArray, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of bootstrap draws."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def measured_mean(values: Sequence[float], clusters: Sequence[int] | None = None) -> Measured:
    """Return the mean of items in [0, 1] with its standard error, by clusters where given, and `score_interval`."""
    spread, value = spread_of_mean(values, clusters), float(np.mean(values))
    low, high = score_interval(value, spread)
    return Measured(value=value, stderr=spread.stderr, low=low, high=high)


def measured_groups(
    groups: Sequence[Sequence[float]],
    n_groups: int | None = None,
    clusters: Sequence[Sequence[int]] | None = None,
) -> tuple[Measured, Measured]:
    """Return micro (over all items) and macro (over the groups' means) averages of k groups of `n_groups`.

    Standard errors take the groups as given, as lm-eval's; with `clusters`, the items' numbers of clusters in the form
    of `groups`, they are by clusters. Intervals must not rest on the spread within groups of a few items: micro's takes
    all items as one sample, macro's adds (1 - k / n_groups) of the spread between the groups where not all are there
    (Cochran 1977, chapter 10). A group of one item, or one cluster, counts with the pooled variance of the others.
    """
    of = None if clusters is None else [c for group in clusters for c in group]
    parts: Sequence[Sequence[int] | None] = [None] * len(groups) if clusters is None else clusters
    spreads = [spread_of_mean(g, c) for g, c in zip(groups, parts, strict=True)]
    micro = measured_mean([v for g in groups for v in g], of)
    value = float(np.mean([np.mean(g) for g in groups]))
    low, high = score_interval(value, _spread_of_macro(groups, parts, spreads, n_groups or len(groups)))
    error = pooled_standard_error(groups) if of is None else micro.stderr
    error_of_macro = math.sqrt(sum(s.stderr**2 for s in spreads)) / len(groups)
    return (
        Measured(value=micro.value, stderr=error, low=micro.low, high=micro.high),
        Measured(value=value, stderr=error_of_macro, low=low, high=high),
    )


def _spread_of_macro(
    groups: Sequence[Sequence[float]],
    clusters: Sequence[Sequence[int] | None],
    spreads: Sequence[Spread],
    n_groups: int,
) -> Spread:
    """Return the spread of the mean of the groups' means: within groups, and between them where some are missing."""
    k, n_units = len(groups), sum(s.units for s in spreads)
    means = [float(np.mean(g)) for g in groups]
    if n_units == k:  # the parts within and between groups cannot be separated
        return Spread(standard_error(means), k - 1.0, n_units)
    pooled = 0.0
    for group, of, mean in zip(groups, clusters, means, strict=True):
        sums, sizes = unit_sums(np.asarray(group, np.float64), of)
        pooled += float(((sums / sizes - mean) ** 2).sum()) / (n_units - k)
    within = [s.stderr**2 if s.units > 1 else pooled for s in spreads]
    inner = sum(within) / k**2
    between = max(0.0, float(np.var(means, ddof=1)) - float(np.mean(within))) if k > 1 else 0.0
    outer = (1 - k / max(k, n_groups)) * between / k
    below = inner**2 / (n_units - k) + outer**2 / max(1, k - 1)
    df = (inner + outer) ** 2 / below if below > 0 else n_units - k
    return Spread(math.sqrt(inner + outer), max(1.0, float(df)), n_units)


def measured_classes(
    golds: Sequence[int],
    picks: Sequence[int],
    statistic: Callable[[IntArray, IntArray, IntArray], FloatArray],
    rng: np.random.Generator,
    clusters: Sequence[int] | None = None,
) -> Measured:
    """Return a statistic of (gold, picked) classes in [0, 1], with `score_interval`.

    Its standard error is the standard deviation over bootstrap resamples of the items, or of whole clusters.
    """
    pairs, of, counts = np.unique(np.array([golds, picks], np.int64), axis=1, return_inverse=True, return_counts=True)
    value = float(statistic(pairs[0], pairs[1], counts[None, :].astype(np.int64))[0])
    if clusters is None:
        resampled = rng.multinomial(len(golds), counts / len(golds), size=DRAWS)
    else:
        resampled = _counts_by_cluster(of.ravel(), clusters, rng)
    right = spread_of_mean([float(g == p) for g, p in zip(golds, picks, strict=True)], clusters)
    stderr = float(np.std(statistic(pairs[0], pairs[1], resampled), ddof=1)) if right.units > 1 else math.nan
    low, high = score_interval(value, Spread(stderr, right.df, right.units))
    return Measured(value=value, stderr=stderr, low=low, high=high)


def _counts_by_cluster(kinds: IntArray, clusters: Sequence[int], rng: np.random.Generator) -> IntArray:
    """Return how often each kind of item occurs in resamples of whole clusters: int64 [DRAWS, kinds]."""
    _, unit = np.unique(np.asarray(clusters), return_inverse=True)
    n_units = int(unit.max()) + 1
    counts = np.empty((DRAWS, int(kinds.max()) + 1), np.int64)
    for row in counts:
        taken = rng.multinomial(n_units, np.full(n_units, 1 / n_units))
        row[:] = np.bincount(kinds, taken[unit], len(row))
    return counts


def spread_over_seeds(values: FloatArray, clusters: Sequence[int] | IntArray | None = None) -> Spread:
    """Return the spread of the mean of float64 [seeds, items]: the same items with other exemplars for every seed.

    Items (or their clusters) and seeds vary both: the variance clustered by item, plus that clustered by seed, less
    that of what a seed does to an item, which both contain (Cameron, Gelbach, Miller 2011); at least the larger of the
    two.
    """
    n_seeds, n_items = values.shape
    items = spread_of_mean(values.mean(axis=0), clusters)
    if n_seeds < 2 or items.units < 2:
        return Spread(math.nan, math.nan, items.units)
    seeds = spread_of_mean(values.mean(axis=1))
    rest = values - values.mean(axis=0) - values.mean(axis=1)[:, None] + values.mean()
    sums, _ = unit_sums(rest, clusters)
    both = float((sums**2).sum()) * items.units / ((n_seeds - 1) * (items.units - 1) * n_seeds * n_items**2)
    squares = items.stderr**2, seeds.stderr**2
    variance = max(sum(squares) - both, *squares)
    below = squares[0] ** 2 / items.df + squares[1] ** 2 / seeds.df
    return Spread(math.sqrt(variance), max(1.0, variance**2 / below) if below > 0 else items.df, items.units)


def spread_of_draws(values: FloatArray, clusters: Sequence[int] | IntArray | None = None) -> Spread:
    """Return the spread of the mean of float64 [draws of exemplars, items]: over both, or over items for one draw."""
    return spread_of_mean(values[0], clusters) if len(values) < 2 else spread_over_seeds(values, clusters)


def calibrated_mean(cheap: Sequence[float], cheap_known: Sequence[float], known: Sequence[float]) -> Mean:
    """Return a mean of `known` judgements, of which there are few, adjusted by `cheap` ones of many further items.

    `cheap_known` are the cheap judgements of the items with known ones. The mean is that of `known`, plus w times the
    difference of the cheap means; the best w is 0 where the cheap judgements say nothing, and then so is their weight.
    Source: prediction-powered inference with power tuning (Angelopoulos, Duchi, Zrnic 2023). NaN for a single item.
    """
    first, second, many = (np.asarray(v, np.float64) for v in (cheap_known, known, cheap))
    n, n_many = len(second), len(many)
    if n < 2 or n_many < 2:
        return Mean(float(second.mean()) if n else math.nan, math.nan)
    spread = float(np.var(np.concatenate([first, many]), ddof=1))
    weight = float(np.cov(first, second)[0, 1]) / ((1 + n / n_many) * spread) if spread > 0 else 0.0
    value = float(second.mean() + weight * (many.mean() - first.mean()))
    variance = float(np.var(second - weight * first, ddof=1)) / n + weight**2 * float(np.var(many, ddof=1)) / n_many
    return Mean(value, math.sqrt(variance))
