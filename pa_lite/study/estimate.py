"""Estimates of a sweep's cost: time from a short measurement, memory and disk from the plan."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pa_lite.study.plan import PlannedCell, StudyPlan, with_answers
from pa_lite.study.records import InstructAnswer, Record, read_result
from pa_lite.study.worker import LocalWorker
from pa_lite.system.machine import available_memory

Costs = list[tuple[float, float]]  # of each workload: seconds per chunk, and per item


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A sweep's cost: seconds (None if nothing is left to run), and bytes of memory and disk.

    `stale` and `kept` list by reason the workloads with results from other inputs, which are measured again or kept
    (--keep-stale). `calibration` is the largest number of pairs with known preferences that the judge judges too.
    """

    cells: int
    items: int
    items_left: int
    seconds: float | None
    memory: int
    memory_available: int
    disk: int
    workers: int
    stale: Mapping[str, Sequence[str]] = field(default_factory=dict)
    kept: Mapping[str, Sequence[str]] = field(default_factory=dict)
    calibration: int = 0


_SAMPLES = 4, 16  # items of each workload in the two timed runs


def estimate_sweep(plan: StudyPlan, finished: Sequence[str] = ()) -> Estimate:
    """Return a sweep's cost. If cells are left, one lam is built and a few items of each workload are timed."""
    done = set(finished)
    left = [c for c in plan.cells if c.key not in done]
    first = [] if plan.before is None else [c for c in plan.before.cells if c.key not in done]
    seconds, before = None, plan.before
    if before is not None and plan.answers is None:  # a few answers are enough to time their scoring
        costs, build, records = _measure(before)
        seconds = _seconds(before, first, costs, build)
        sample = [read_result(InstructAnswer, record) for record in records.values()]
        plan = replace(plan, workloads=with_answers(plan, dict.fromkeys(plan.merges, sample)).workloads)
    if left:
        costs, build, _ = _measure(plan)
        seconds = (seconds or 0.0) + _seconds(plan, left, costs, build)
    return Estimate(
        cells=len(plan.cells) + (0 if before is None else len(before.cells)),
        items=plan.n_items + (0 if before is None else before.n_items),
        items_left=sum(c.cell.n_items for c in (*first, *left)),
        seconds=seconds,
        memory=plan.memory,
        memory_available=available_memory(),
        disk=plan.disk,
        workers=plan.workers,
    )


def _seconds(plan: StudyPlan, left: Sequence[PlannedCell], costs: Costs, build: float) -> float:
    """Return about the seconds that the cells left take."""
    lams = len({(c.cell.type, c.cell.lam) for c in left})
    work = sum(
        costs[c.workload][0] * -(-c.cell.n_items // plan.chunk) + costs[c.workload][1] * c.cell.n_items for c in left
    )
    return (lams * build + work) / plan.workers


def _measure(plan: StudyPlan) -> tuple[Costs, float, dict[int, Record]]:
    """Return each workload's (seconds per chunk, seconds per item), the seconds of building a lam, and some records.

    The records are the last workload's.
    """
    records: dict[int, Record] = {}
    weight_type, lam = plan.options.types[0], plan.options.lams[0]
    start = time.perf_counter()
    with LocalWorker(plan) as worker:
        worker.model_at(weight_type, lam)
        build = time.perf_counter() - start
        costs = []
        for i, workload in enumerate(plan.workloads):
            took = []
            sizes = [min(n, workload.n_items) for n in _SAMPLES]
            for n in sizes:
                start = time.perf_counter()
                records = worker.run(weight_type, lam, i, range(n))
                took.append(time.perf_counter() - start)
            item = max(0.0, took[1] - took[0]) / (sizes[1] - sizes[0]) if sizes[1] > sizes[0] else took[0] / sizes[0]
            costs.append((max(0.0, took[0] - item * sizes[0]), item))
    return costs, build, records
