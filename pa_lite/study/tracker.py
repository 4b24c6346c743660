"""The progress of a sweep: what runs at which lam, items done also inside chunks, and the time left."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pa_lite.progress import Progress, expect, silent
from pa_lite.study.cells import Cell
from pa_lite.study.time_left import TimeLeft
from pa_lite.study.workloads import Workload

Lam = tuple[str, float]  # weight type and lam


class Tracker:
    """Counts items over all workers and reports them as `("lam 0.5 · few-shot 3/8 boolq", done, total, "items")`."""

    def __init__(self, workloads: Sequence[Workload[Any]], progress: Progress | None, n_workers: int) -> None:
        self.time = TimeLeft(workloads)
        self._labels, self._n_workers = labels_of(workloads), n_workers
        self._progress, self._lock = silent if progress is None else progress, threading.RLock()
        self._total = self._done = 0
        self._left: dict[Lam, list[float]] = {}  # items left of each workload, in the order of the queue
        self._inside: dict[int, tuple[Lam, int, float]] = {}  # thread -> lam, workload, done of its current chunk
        self._phase = "sweep"

    def enter(self, cell: Cell, workload: int, done: int) -> None:
        """Enter a cell, of whose items some are done already."""
        self._total += cell.n_items
        self._done += done
        if done < cell.n_items:
            left = self._left.setdefault((cell.type, cell.lam), [0.0] * len(self._labels))
            left[workload] += cell.n_items - done

    @contextmanager
    def chunk(self, cell: Cell, workload: int, items: Sequence[int]) -> Iterator[Progress]:
        """Yield the progress for the work on a chunk, which moves the sweep's own."""
        thread = threading.get_ident()
        phase = f"lam {cell.lam:g} \u00b7 {self._labels[workload]}"

        def inside(_phase: str, done: int, total: int, _unit: str, /) -> None:
            if not total:
                return
            with self._lock:
                lam, self._phase = (cell.type, cell.lam), phase
                self._inside[thread] = lam, workload, len(items) * min(1.0, done / total)
                self.report()

        with self._lock:
            self._phase = phase
            self.report()
        try:
            yield inside
        except BaseException:
            with self._lock:
                self._inside.pop(thread, None)
            raise

    def finish(self, cell: Cell, workload: int, items: int, seconds: float) -> None:
        """Count this thread's chunk, whose records are stored."""
        with self._lock:
            self._inside.pop(threading.get_ident(), None)
            self._done += items
            self._left[cell.type, cell.lam][workload] -= items
            self.time.add(workload, items, seconds)
            self.report()

    def report(self) -> None:
        """Report items and time left."""
        with self._lock:
            left = {lam: list(each) for lam, each in self._left.items()}
            for lam, workload, done in self._inside.values():
                left[lam][workload] -= done
            done = self._done + int(sum(done for _, _, done in self._inside.values()))
            self._progress(self._phase, done, self._total, "items")
            seconds = self.time.seconds(list(left.values()), self._n_workers)
            if seconds is not None:
                expect(self._progress, seconds)


def labels_of(workloads: Sequence[Workload[Any]]) -> list[str]:
    """Return a label for each workload; several of a kind are numbered: `few-shot 3/8 boolq`."""
    labels = []
    for i, workload in enumerate(workloads):
        same = [k for k, other in enumerate(workloads) if other.kind == workload.kind]
        number = f" {same.index(i) + 1}/{len(same)}" if len(same) > 1 else ""
        labels.append(f"{workload.activity}{number} {workload.name}")
    return labels
