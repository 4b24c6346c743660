"""A progress that keeps what it gets."""

from __future__ import annotations


class Reports(list[tuple[str, int, int, str]]):
    """The reports (phase, done, total, unit), in order."""

    def __call__(self, phase: str, done: int, total: int, unit: str) -> None:
        self.append((phase, done, total, unit))
