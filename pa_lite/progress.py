"""How long work reports how far it is: one protocol for every `progress` argument, and what nested work needs of it."""

from __future__ import annotations

import threading
from typing import Protocol


class Progress(Protocol):
    """A function that gets `(phase, done, total, unit)` while work goes on, such as `("merge", 4096, 16384, "B")`.

    `phase` names the current step. `done` and `total` count `unit`s, a plural such as `answers`, or `B` for bytes.
    `total` is 0 where it is unknown: generation reports its tokens so, between the answers. Calls come one at a time,
    but may come from other threads than the caller's. An exception raised in a call ends the work.
    """

    def __call__(self, phase: str, done: int, total: int, unit: str, /) -> None: ...


def silent(_phase: str, _done: int, _total: int, _unit: str) -> None:
    """Report nothing."""


def part_of(progress: Progress | None, phase: str, before: int, total: int, unit: str) -> Progress:
    """Return the progress for a part of larger work, of which `before` of `total` units were done when it starts.

    The part must count in the same steps. Its reports without a total, such as tokens, keep their numbers and unit.
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
    """Add up what several threads or steps do, and report the sum after each."""

    def __init__(self, progress: Progress | None, phase: str, total: int, unit: str) -> None:
        self.phase, self.done, self.total, self.unit = phase, 0, total, unit
        self._progress, self._lock = silent if progress is None else progress, threading.Lock()

    def add(self, n: int) -> None:
        """Count n more units as done."""
        with self._lock:
            self.done += n
            self._progress(self.phase, self.done, self.total, self.unit)
