"""Decide which request runs on which of several models that can move to another lam. Runs no model.

A request joins the model that is at its lam. Where there is none, it claims a model, the one idle longest, which moves
once it has nothing to do. Until then, requests for the model's old lam may still join it, but only those that arrive at
most `max_wait` seconds after the one with the claim, or that were waiting when the model came to its lam; later ones
wait. All requests are looked at in the order of their arrival, so lams take turns and no request starves: it waits for
each other lam at most once more.

Nothing is stored but the waiting requests: each plan starts from the present state of the models.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Waiting(Generic[T]):
    """A request, its lam, and when it arrived, in seconds."""

    item: T
    lam: float
    arrival: float


@dataclass(frozen=True, kw_only=True)
class ModelState:
    """A model's lam (None: not loaded yet), whether it is idle, and when a request last joined or left it.

    `since` is when it came to its lam, `moving_to` the lam to which it is being moved now.
    """

    lam: float | None
    is_idle: bool
    used: float
    since: float = 0.0
    moving_to: float | None = None


@dataclass(frozen=True)
class Decisions(Generic[T]):
    """Requests that join a model now (request, index of the model), and models to move now (index, lam)."""

    joins: Sequence[tuple[T, int]]
    moves: Sequence[tuple[int, float]]


class LamQueue(Generic[T]):
    """Requests that wait for a model at their lam, in the order of their arrival."""

    def __init__(self, max_wait: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start empty. `max_wait` is in seconds of the clock."""
        self._max_wait, self._clock = max_wait, clock
        self._waiting: list[Waiting[T]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def items(self) -> list[T]:
        """The requests that wait, in order."""
        return [w.item for w in self._waiting]

    def add(self, item: T, lam: float) -> None:
        """Append a request that arrives now."""
        self._waiting.append(Waiting(item, lam, self._clock()))

    def remove(self, is_gone: Callable[[T], bool]) -> list[T]:
        """Remove and return the requests for which `is_gone` returns true."""
        gone = [w.item for w in self._waiting if is_gone(w.item)]
        self._waiting = [w for w in self._waiting if not is_gone(w.item)]
        return gone

    def remove_lam(self, lam: float) -> list[T]:
        """Remove and return the requests for a lam."""
        gone = [w.item for w in self._waiting if w.lam == lam]
        self._waiting = [w for w in self._waiting if w.lam != lam]
        return gone

    def decide(self, models: Sequence[ModelState]) -> Decisions[T]:
        """Return what is to be done now; requests that join no longer wait."""
        claims: dict[int, Waiting[T]] = {}  # by model
        coming = {m.moving_to for m in models if m.moving_to is not None}
        idle = {i for i, m in enumerate(models) if m.is_idle and m.moving_to is None}
        joins: list[tuple[T, int]] = []
        kept: list[Waiting[T]] = []
        for waiting in self._waiting:
            at = next((i for i, m in enumerate(models) if m.lam == waiting.lam and m.moving_to is None), None)
            if at is not None and (
                at not in claims or (at not in idle and self._joins(waiting, claims[at], models[at]))
            ):
                joins.append((waiting.item, at))
                idle.discard(at)
                continue
            kept.append(waiting)
            if at is None and waiting.lam not in coming:
                free = [i for i, m in enumerate(models) if i not in claims and m.moving_to is None]
                if free:
                    claims[min(free, key=lambda i: (i not in idle, models[i].used))] = waiting
                    coming.add(waiting.lam)
        self._waiting = kept
        return Decisions(joins, [(i, claim.lam) for i, claim in claims.items() if i in idle])

    def _joins(self, waiting: Waiting[T], claim: Waiting[T], model: ModelState) -> bool:
        return waiting.arrival <= max(claim.arrival + self._max_wait, model.since)
