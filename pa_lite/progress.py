"""The protocol of every `progress` argument, and helpers to report the progress of nested and threaded work."""

from __future__ import annotations

import threading
from typing import Protocol


class Progress(Protocol):
    """A function that is called with `(phase, done, total, unit)` during work, such as `("merge", 4096, 16384, "B")`.

    `phase` names the current step. `done` and `total` are counts in `unit`, a plural noun such as `answers`, or `B` for
    bytes. `total` is 0 if unknown: generation reports tokens this way, between answers. Calls never overlap, but may
    come from other threads than the caller's. An exception that is raised in a call stops the work. A progress that
    also has a method `expect(seconds)` gets estimates of the time left from work of mixed kinds.
    """

    def __call__(self, phase: str, done: int, total: int, unit: str, /) -> None: ...


def silent(_phase: str, _done: int, _total: int, _unit: str) -> None:
    """Report nothing."""


def expect(progress: Progress | None, seconds: float) -> None:
    """Pass on an estimate of the seconds left, if the progress takes it."""
    take = getattr(progress, "expect", None)
    if take is not None:
        take(seconds)


def part_of(progress: Progress | None, phase: str, before: int, total: int, unit: str) -> Progress:
    """Return the progress for one part of a larger task, of which `before` of `total` units were done before it.

    The part must count in steps of the same size. Reports without a total, such as tokens, keep their count and unit.
    """
    if progress is None:
        return silent

    def report(_phase: str, done: int, part_total: int, own_unit: str) -> None:
        if part_total:
            progress(phase, before + done, total, unit)
        else:
            progress(phase, done, 0, own_unit)

    return report


class Counter:
    """Sum the work of several threads or steps, and report the sum after each addition."""

    def __init__(self, progress: Progress | None, phase: str, total: int, unit: str) -> None:
        self.phase, self.done, self.total, self.unit = phase, 0, total, unit
        self._progress, self._lock = silent if progress is None else progress, threading.Lock()

    def add(self, n: int) -> None:
        """Count n more units as done."""
        with self._lock:
            self.done += n
            self._progress(self.phase, self.done, self.total, self.unit)
