"""Choose how many threads decode a batch: one per core, fewer while other programs use cores.

llama.cpp's threads wait for each other after every node of a graph, and spin while they wait. If another program takes
the core of one thread, all others spin until it is back: next to one busy program, two threads on two cores are slower
than one. One thread for each free core is always near the optimum, so the number follows the load, measured between
batches. Results do not change: llama.cpp computes the same bits with any number of threads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from pa_lite.system.machine import cores

_WINDOW = 0.15  # seconds over which load is measured; in shorter ones the clock's steps of 10 ms show
_DOWN = 0.45  # use one thread fewer from this fraction of a core on that others use
_UP = 0.25  # use one thread more up to this fraction; between the two, keep the number


@dataclass(frozen=True)
class Usage:
    """Seconds up to now: `clock` is wall time, `own` processor time of this process, `all` that of the machine."""

    clock: float
    own: float
    all: float


def read_usage() -> Usage | None:
    """Return the seconds used so far on the cores that this process may use; None where they are unknown.

    Programs with a lower priority (nice) do not count, as they yield. Source: psutil.cpu_times.
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
    """The number of threads for the next batch; each model has one object, which any thread may ask."""

    def __init__(self, threads: int = 0, read: Callable[[], Usage | None] = read_usage) -> None:
        """Start measuring. `threads` 0 is one for each core and follows the load; another number is kept."""
        self.most = self.now = threads or cores()
        self._read = read
        self._last = read() if threads == 0 and self.most > 1 else None

    def measure(self) -> int:
        """Return how many threads to use now, from the load of other programs since the last measurement."""
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
