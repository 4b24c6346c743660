"""How long a sweep still takes: each workload's own cost, measured as it runs, times what is left of it.

Items of different workloads differ in cost by orders of magnitude, so a rate over all items would mislead. A workload
that has not run yet is estimated from its size in tokens, relative to those that have.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Any

from pa_lite.study.workload import Workload


class TimeLeft:
    """Seconds of work left, from what chunks of each workload took."""

    def __init__(self, workloads: Sequence[Workload[Any]]) -> None:
        self._sizes = [max(1.0, workload.tokens_of_item) for workload in workloads]
        self._items, self._seconds = [0.0] * len(workloads), [0.0] * len(workloads)
        self._earlier: dict[int, float] = {}

    def recall(self, costs: Mapping[int, float]) -> None:
        """Take seconds per item of earlier runs, by workload; they count until the workload runs in this one."""
        self._earlier.update(costs)

    def add(self, workload: int, items: int, seconds: float) -> None:
        """Count a finished chunk; its seconds include building the model, if that was necessary."""
        self._items[workload] += items
        self._seconds[workload] += seconds

    def costs(self) -> list[float] | None:
        """Return the seconds per item of each workload; None before anything is known."""
        known = {i: s / n for i, (n, s) in enumerate(zip(self._items, self._seconds, strict=True)) if n}
        known = {**self._earlier, **known}
        if not known:
            return None
        each_token = sum(known.values()) / sum(self._sizes[i] for i in known)
        return [known.get(i, each_token * size) for i, size in enumerate(self._sizes)]

    def seconds(self, lams: Sequence[Sequence[float]], workers: int) -> float | None:
        """Return the seconds until the last worker ends; None if unknown.

        `lams` are the items left of each workload, for every lam in the order of the queue. A lam runs on one worker;
        the next one goes to the worker that is free first.
        """
        costs = self.costs()
        if costs is None:
            return None
        ends = [0.0] * max(1, workers)
        for left in lams:
            heapq.heapreplace(ends, ends[0] + sum(cost * n for cost, n in zip(costs, left, strict=True)))
        return max(ends)
