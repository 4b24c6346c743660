"""Standard errors and paired differences: the same few formulas for every number that pa-lite prints. Numpy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error, in the same unit."""

    value: float
    stderr: float


def standard_error(values: Sequence[float]) -> float:
    """Of a mean: sample deviation (n - 1) over root n; 0 for a single value."""
    n = len(values)
    return float(np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else 0.0


def clustered_error(clusters: Sequence[Sequence[float]]) -> float:
    """Of the mean of all values, when those of a cluster hang together; with one value each it is standard_error.

    Source: the cluster-robust variance of a mean, with the factor G / (G - 1) for G clusters. 0 for a single cluster.
    """
    values = [v for c in clusters for v in c]
    groups = [c for c in clusters if c]
    if len(groups) < 2:
        return 0.0
    mean = float(np.mean(values))
    squares = sum(sum(v - mean for v in c) ** 2 for c in groups)
    return math.sqrt(squares * len(groups) / (len(groups) - 1)) / len(values)


def mean_over_tasks(per_task: Sequence[Sequence[float]]) -> Estimate:
    """The mean of the tasks' means; stderr with the tasks taken as given: sqrt(sum of squares) / number of tasks."""
    value = float(np.mean([np.mean(v) for v in per_task]))
    return Estimate(value, math.sqrt(sum(standard_error(v) ** 2 for v in per_task)) / len(per_task))


def significant_z(comparisons: int, level: float = 0.05) -> float:
    """How many standard errors a difference must exceed, two-sided, when it is one of several (Bonferroni)."""
    return NormalDist().inv_cdf(1 - level / (2 * max(1, comparisons)))
