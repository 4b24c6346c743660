"""Averages of a task's metrics over its items, with standard errors and intervals by groups and clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pa_lite.statistics import Measured, measured_classes, measured_groups, measured_mean
from pa_lite.tasks.metrics import CLASS_METRICS
from pa_lite.tasks.spec import TaskSpec

BOOTSTRAP_SEED = 1234  # of statistics of classes: only they are resampled


@dataclass(frozen=True, kw_only=True)
class MetricResult:
    """A metric of a task or group: `key` is lm-eval's `NAME,FILTER`, `macro` the mean over groups, if any."""

    name: str
    filter: str
    measured: Measured
    macro: Measured | None = None

    @property
    def key(self) -> str:
        return f"{self.name},{self.filter}"


@dataclass(frozen=True)
class GroupResult:
    """One group of a task."""

    name: str
    n: int
    metrics: tuple[MetricResult, ...]


class Scored(Protocol):
    """What averages use of an item's scores: the fields of `ItemScore`."""

    @property
    def logprobs(self) -> tuple[float, ...]: ...

    @property
    def answer(self) -> int: ...

    @property
    def metrics(self) -> Mapping[str, float]: ...

    @property
    def cluster(self) -> str: ...


def cluster_numbers(names: Sequence[str]) -> tuple[int, ...] | None:
    """Return the number of each item's cluster, from 0 in the order of the items; None if no two items share one.

    Names are empty where a task has no clusters.
    """
    numbers: dict[str, int] = {}
    found = tuple(numbers.setdefault(name, len(numbers)) for name in names)
    return found if any(names) and len(numbers) < len(names) else None


def measure_metrics(
    spec: TaskSpec, groups: Sequence[Sequence[Scored]], n_groups: int | None = None
) -> tuple[MetricResult, ...]:
    """Return every metric over the items of all groups; the whole task has `n_groups`, of which some may be missing.

    The bootstrap of each statistic of classes has the same seed, so that none affects another.
    """
    rows = [r for group in groups for r in group]
    clusters = cluster_numbers([r.cluster for r in rows])
    measured = []
    for key in rows[0].metrics:
        name, _, pattern = key.partition(",")
        values, pattern = [[r.metrics[key] for r in group] for group in groups], pattern or "none"
        if len(groups) == 1:
            measured.append(MetricResult(name=name, filter=pattern, measured=measured_mean(values[0], clusters)))
        else:
            micro, macro = measured_groups(values, n_groups, _as_groups(clusters, groups))
            measured.append(MetricResult(name=name, filter=pattern, measured=micro, macro=macro))
    for name in spec.metrics:
        if name in CLASS_METRICS:
            picks = [int(np.argmax(r.logprobs)) for r in rows]
            rng = np.random.default_rng(BOOTSTRAP_SEED)
            classes = measured_classes([r.answer for r in rows], picks, CLASS_METRICS[name], rng, clusters)
            measured.append(MetricResult(name=name, filter="none", measured=classes))
    return tuple(measured)


def _as_groups(clusters: Sequence[int] | None, groups: Sequence[Sequence[object]]) -> list[Sequence[int]] | None:
    """Return the items' clusters in the form of the groups."""
    if clusters is None:
        return None
    ends = np.cumsum([len(group) for group in groups])
    return [clusters[end - len(group) : end] for group, end in zip(groups, ends.tolist(), strict=True)]
