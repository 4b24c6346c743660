"""The time left of a sweep of mixed workloads, and what its progress says."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pa_lite.study.cells import Cell
from pa_lite.study.time_left import TimeLeft
from pa_lite.study.tracker import Tracker
from pa_lite.study.workload import chunks


def workload(kind: str, name: str, tokens: float, activity: str) -> Any:
    return SimpleNamespace(kind=kind, name=name, tokens_of_item=tokens, activity=activity)


MIXED = [
    workload("task", "boolq", 120.0, "few-shot"),
    workload("task", "rte", 60.0, "few-shot"),
    workload("follow", "public", 400.0, "instructions"),
]
SIZES, COSTS, BUILD = (400, 200, 150), (0.02, 0.01, 0.3), 1.5  # items, seconds of an item, seconds to build a lam


@dataclass
class Work:
    """One lam's chunks in the order in which a worker runs them: (workload, items, seconds)."""

    steps: list[tuple[int, int, float]]


def lam(rng: np.random.Generator, is_reversed: bool) -> Work:
    order = range(len(SIZES) - 1, -1, -1) if is_reversed else range(len(SIZES))
    steps = [(w, len(c), len(c) * COSTS[w] * rng.uniform(0.8, 1.25)) for w in order for c in chunks(SIZES[w], 64)]
    steps[0] = (*steps[0][:2], steps[0][2] + BUILD)
    return Work(steps)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_the_time_left_is_honest_after_a_tenth(workers: int, seed: int) -> None:
    """Simulate a sweep of 11 lams on a clock; from a tenth of its time on, estimates are within 30%."""
    rng = np.random.default_rng(seed)
    queue = [lam(rng, i % 2 == 1) for i in range(11)]
    end, events = [0.0] * workers, []
    for i, each in enumerate(queue):
        worker = int(np.argmin(end))
        for w, n, seconds in each.steps:
            end[worker] += seconds
            events.append((end[worker], i, w, n, seconds))
    total = max(end)
    left, time = [list(map(float, SIZES)) for _ in range(11)], TimeLeft(MIXED)
    checked = 0
    for now, i, w, n, seconds in sorted(events):
        time.add(w, n, seconds)
        left[i][w] -= n
        if 0.1 * total <= now <= 0.9 * total:
            estimate = time.seconds(left, workers)
            assert estimate is not None
            assert abs(estimate - (total - now)) <= 0.3 * (total - now)
            checked += 1
    assert checked > 20


def test_unknown_workloads_are_estimated_by_size_and_earlier_runs() -> None:
    time = TimeLeft(MIXED)
    assert time.seconds([[1, 1, 1]], 1) is None
    time.add(0, 10, 1.2)  # 0.12 s for 120 tokens
    assert time.seconds([[0, 10, 0]], 1) == pytest.approx(0.6)
    assert time.seconds([[0, 0, 10]], 2) == pytest.approx(4.0)  # a lam runs on one worker
    assert time.seconds([[0, 0, 10]] * 2, 2) == pytest.approx(4.0)
    time.recall({2: 0.5})
    assert time.seconds([[0, 0, 10]], 1) == pytest.approx(5.0)
    time.add(2, 10, 1.0)
    assert time.seconds([[0, 0, 10]], 1) == pytest.approx(1.0)


class Heard:
    """A progress that keeps what it gets."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, int, int, str]] = []
        self.expected: list[float] = []

    def __call__(self, phase: str, done: int, total: int, unit: str, /) -> None:
        self.reports.append((phase, done, total, unit))

    def expect(self, seconds: float) -> None:
        self.expected.append(seconds)


def test_progress_moves_inside_chunks_and_never_back() -> None:
    heard = Heard()
    tracker = Tracker(MIXED, heard, 1)
    cells = [Cell(lam=0.5, type="F16", kind="", name="", n_items=n, inputs={}) for n in SIZES]
    for w, each in enumerate(cells):
        tracker.enter(each, w, 0)
    cell = cells[1]
    with tracker.chunk(cell, 1, range(64)) as inside:
        inside("score", 32, 128, "requests")
        inside("score", 7, 0, "tokens")
        inside("score", 128, 128, "requests")
    tracker.finish(cell, 1, 64, 0.7)
    assert [done for _, done, _, _ in heard.reports] == [0, 16, 64, 64]
    assert heard.reports[1] == ("lam 0.5 · few-shot 2/2 rte", 16, sum(SIZES), "items")
    assert len(heard.expected) == 1
    with contextlib.suppress(RuntimeError), tracker.chunk(cell, 1, range(64)) as inside:
        inside("score", 64, 128, "requests")
        raise RuntimeError
    tracker.report()
    assert heard.reports[-1][1] == 64  # what a lost worker did of its chunk does not count
