"""Standard errors, intervals and paired differences: the few formulas for every number pa-lite prints. Numpy only."""

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
_CHUNK_VALUES = 1 << 22  # random numbers at a time


@dataclass(frozen=True)
class Mean:
    """A number and its standard error, in the same unit; NaN where that is not known, as for a single item."""

    value: float
    stderr: float


@dataclass(frozen=True)
class Measured:
    """A number, its standard error, and a bootstrap interval of 95 percent, in the same unit; NaN where not known."""

    value: float
    stderr: float
    low: float
    high: float


def standard_error(values: Sequence[float]) -> float:
    """Of a mean: sample deviation (n - 1) over root n; NaN, not known, for a single value."""
    n = len(values)
    return float(np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else math.nan


def clustered_error(clusters: Sequence[Sequence[float]]) -> float:
    """Of the mean of all values, when those of a cluster hang together; with one value each it is standard_error.

    Source: the cluster-robust variance of a mean, with the factor G / (G - 1) for G clusters. NaN for a single cluster.
    """
    values = [v for c in clusters for v in c]
    groups = [c for c in clusters if c]
    if len(groups) < 2:
        return math.nan
    mean = float(np.mean(values))
    squares = sum(sum(v - mean for v in c) ** 2 for c in groups)
    return math.sqrt(squares * len(groups) / (len(groups) - 1)) / len(values)


def mean_over_tasks(per_task: Sequence[Sequence[float]]) -> Mean:
    """The mean of the tasks' means; stderr with the tasks taken as given: sqrt(sum of squares) / number of tasks."""
    value = float(np.mean([np.mean(v) for v in per_task]))
    return Mean(value, math.sqrt(sum(standard_error(v) ** 2 for v in per_task)) / len(per_task))


def pooled_standard_error(groups: Sequence[Sequence[float]]) -> float:
    """Of the mean over all items of several groups, with the groups taken as given.

    sqrt(sum((n - 1) n se^2) / (N - k) / N) over k groups of n items, N in all: lm-eval's formula for weighted groups.
    NaN where no group has two.
    """
    n_all, k = sum(len(g) for g in groups), len(groups)
    if n_all <= k:
        return math.nan
    squares = sum((len(g) - 1) * len(g) * standard_error(g) ** 2 for g in groups if len(g) > 1)
    return math.sqrt(squares / (n_all - k) / n_all)


def items_to_show(variance: float, difference: float = 0.02, power: float = 0.8, level: float = 0.05) -> int:
    """Return how many paired items show a difference between two averages, if there is one of that size.

    n = (z(1 - level/2) + z(power))^2 * s^2 / difference^2, rounded up, where s^2 is the `variance` of the items' paired
    differences, z the normal quantile, and the test two-sided. s^2 counts as at least difference * (1 - difference),
    the least that right-or-wrong items can have at such a difference: where no item differs, s^2 is 0 and says nothing
    (385 items for 0.02). Source: the sample size of a paired z test, as in Miller 2024 (arXiv 2411.00640).
    """
    z = NormalDist().inv_cdf(1 - level / 2) + NormalDist().inv_cdf(power)
    return math.ceil(z**2 * max(variance, difference * (1 - difference)) / difference**2)


def bootstrap_means(values: Sequence[float] | FloatArray, rng: np.random.Generator, draws: int = DRAWS) -> FloatArray:
    """Means of `draws` resamples with replacement of items [n], float64 [draws]; or of rows of items [rows, n].

    Then a resample takes the same items in every row: float64 [draws, rows]. Counts of the distinct values (patterns of
    a column) are drawn, multinomial, which has the same distribution as drawing every item. Memory is bounded.
    """
    rows = np.atleast_2d(np.asarray(values, np.float64))
    n = rows.shape[1]
    patterns, counts = np.unique(rows, axis=1, return_counts=True)
    means = np.empty((draws, len(rows)))
    for part in chunks_of(draws, len(counts)):
        means[part] = rng.multinomial(n, counts / n, size=part.stop - part.start) @ patterns.T / n
    return means if np.ndim(values) == 2 else means[:, 0]


def chunks_of(draws: int, width: int) -> Iterator[slice]:
    """Cut draws of `width` random numbers each into parts that take a bounded memory."""
    step = max(1, _CHUNK_VALUES // max(1, width))
    for start in range(0, draws, step):
        yield slice(start, min(draws, start + step))


def interval(draws: FloatArray, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of bootstrap draws."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def measure_mean(values: Sequence[float], rng: np.random.Generator) -> Measured:
    """The mean of items with its standard error (n - 1) and interval."""
    return _measured(float(np.mean(values)), standard_error(values), bootstrap_means(values, rng))


def measure_groups(groups: Sequence[Sequence[float]], rng: np.random.Generator) -> tuple[Measured, Measured]:
    """Micro (over all items) and macro (over the groups' means) averages; resampled within each group.

    Standard errors take the groups as given: pooled_standard_error, and sqrt(sum of squares) / k.
    """
    drawn = np.stack([bootstrap_means(g, rng) for g in groups])
    weights = np.array([len(g) for g in groups], np.float64) / sum(len(g) for g in groups)
    micro = float(np.mean([v for g in groups for v in g]))
    macro = mean_over_tasks(groups)
    return (
        _measured(micro, pooled_standard_error(groups), weights @ drawn),
        _measured(macro.value, macro.stderr, drawn.mean(axis=0)),
    )


def _measured(value: float, stderr: float, draws: FloatArray) -> Measured:
    """With the interval of the draws, which is not known where the standard error is not."""
    low, high = interval(draws) if math.isfinite(stderr) else (math.nan, math.nan)
    return Measured(value, stderr, low, high)


def measure_classes(
    golds: Sequence[int],
    picks: Sequence[int],
    statistic: Callable[[IntArray, IntArray, IntArray], FloatArray],
    rng: np.random.Generator,
) -> Measured:
    """A statistic of (gold, picked) classes, which is no mean: its standard error is the bootstrap's deviation."""
    pairs, counts = np.unique(np.array([golds, picks], np.int64), axis=1, return_counts=True)
    value = statistic(pairs[0], pairs[1], counts[None, :].astype(np.int64))
    draws = statistic(pairs[0], pairs[1], rng.multinomial(len(golds), counts / len(golds), size=DRAWS))
    return _measured(float(value[0]), float(np.std(draws, ddof=1)) if len(golds) > 1 else math.nan, draws)
