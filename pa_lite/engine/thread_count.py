"""How many threads decode a batch: all that were allowed, fewer while other programs use cores.

llama.cpp's threads wait for each other after every step of a graph, and they spin while they wait. Where another
program takes the core of one of them, all others spin until it is back: beside one busy program, two threads on two
cores are slower than one. One thread for each core that is left is never far from the best, so the number follows the
load that is measured between batches. It changes no result: llama.cpp computes the same bits with any number.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from pa_lite.system.machine import cores

_WINDOW = 0.15  # seconds over which load is measured: shorter ones see the clock's steps of 10 ms, not the load
_DOWN = 0.45  # cores used by others, beyond whole ones, from which a thread fewer is used
_UP = 0.25  # and up to which a thread more is used; between the two the number stays


@dataclass(frozen=True)
class Usage:
    """Processor seconds up to a moment: `clock` of wall time, `own` of this process, `all` of the whole machine."""

    clock: float
    own: float
    all: float


def read_usage() -> Usage | None:
    """Return the seconds used so far on the cores that this process may run on; None where the system does not say.

    Time of programs that run at a lower priority (nice) does not count: they make way. Source: psutil.cpu_times.
    """
    try:
        import psutil

        times = psutil.cpu_times(percpu=True)
        if hasattr(os, "sched_getaffinity"):
            allowed = os.sched_getaffinity(0)
            times = [t for i, t in enumerate(times) if i in allowed] if len(times) > max(allowed) else times
        busy = sum(getattr(t, name, 0.0) for t in times for name in ("user", "system", "irq", "softirq"))
    except (ImportError, OSError, RuntimeError, ValueError):
        return None
    return Usage(time.monotonic(), time.process_time(), busy)


class ThreadCount:
    """The number of threads for the next batch; one object for each model, asked before each batch by any thread."""

    def __init__(self, threads: int = 0, read: Callable[[], Usage | None] = read_usage) -> None:
        """Start measuring. `threads` 0 allows one for each core and follows the load; another number stays as it is."""
        self.most = self.now = threads or cores()
        self._read = read
        self._last = read() if threads == 0 and self.most > 1 else None

    def measure(self) -> int:
        """Return how many threads to use now, from what other programs used since the last measurement."""
        last = self._last
        if last is None or time.monotonic() - last.clock < _WINDOW:
            return self.now
        usage = self._read()
        if usage is None:
            return self.now
        self._last = usage
        others = ((usage.all - last.all) - (usage.own - last.own)) / (usage.clock - last.clock)
        self.now = self.suited_to(others)
        return self.now

    def suited_to(self, others: float) -> int:
        """Return the number of threads while other programs keep `others` cores busy, at least 1."""
        fewer = max(1, self.most - int(others + 1 - _DOWN))
        more = max(1, self.most - int(others + 1 - _UP))
        return min(max(self.now, more), fewer)
