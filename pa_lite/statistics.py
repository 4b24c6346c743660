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
_CHUNK_VALUES = 1 << 22  # random numbers held at a time


@dataclass(frozen=True)
class Mean:
    """A number and its standard error, in the same unit; NaN where unknown, as for a single item."""

    value: float
    stderr: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A number, its standard error, and its 95% bootstrap interval, in the same unit; NaN where unknown."""

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


def items_to_show(variance: float, difference: float = 0.02, power: float = 0.8, level: float = 0.05) -> int:
    """Return how many paired items are needed to detect a difference of that size between two averages.

    n = (z(1 - level/2) + z(power))^2 * s^2 / difference^2, rounded up, where s^2 is the `variance` of the items' paired
    differences and z the normal quantile; the test is two-sided. s^2 is at least difference * (1 - difference), the
    smallest variance of right-or-wrong items at that difference (385 items for 0.02): if no item differs, the sample
    variance 0 says nothing. Source: the sample size of a paired z test, as in Miller 2024 (arXiv 2411.00640).
    """
    z = NormalDist().inv_cdf(1 - level / 2) + NormalDist().inv_cdf(power)
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


def measure_mean(values: Sequence[float], rng: np.random.Generator) -> Measured:
    """Return the mean of items with its standard error (n - 1) and interval."""
    return _measured(float(np.mean(values)), standard_error(values), bootstrap_means(values, rng))


def measure_groups(groups: Sequence[Sequence[float]], rng: np.random.Generator) -> tuple[Measured, Measured]:
    """Return the micro (over items) and macro (over groups' means) averages, resampled within each group.

    Standard errors treat the groups as fixed: `pooled_standard_error`, and sqrt(sum of squares) / k for k groups.
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
    """Add the interval of the draws; it is unknown where the standard error is."""
    low, high = interval(draws) if math.isfinite(stderr) else (math.nan, math.nan)
    return Measured(value=value, stderr=stderr, low=low, high=high)


def measure_classes(
    golds: Sequence[int],
    picks: Sequence[int],
    statistic: Callable[[IntArray, IntArray, IntArray], FloatArray],
    rng: np.random.Generator,
) -> Measured:
    """Return a statistic of (gold, picked) classes; its standard error is the standard deviation of bootstrap draws."""
    pairs, counts = np.unique(np.array([golds, picks], np.int64), axis=1, return_counts=True)
    value = statistic(pairs[0], pairs[1], counts[None, :].astype(np.int64))
    draws = statistic(pairs[0], pairs[1], rng.multinomial(len(golds), counts / len(golds), size=DRAWS))
    return _measured(float(value[0]), float(np.std(draws, ddof=1)) if len(golds) > 1 else math.nan, draws)
