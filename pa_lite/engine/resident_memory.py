"""Plan how many models of a pair fit in memory, each with a context."""

from __future__ import annotations

from dataclasses import dataclass

from pa_lite.engine.options import EngineOptions
from pa_lite.errors import InputError
from pa_lite.merging.memory import thread_bytes
from pa_lite.merging.plan import MergePlan
from pa_lite.system.machine import available_memory, cores

_SHARE = 0.5  # of the free memory, without a limit
_MOST = 101  # models: every lam from 0 to 1 in steps of 0.01


@dataclass(frozen=True, kw_only=True)
class MemoryLimit:
    """Bytes: what all models may take, the weights of each, and the buffers of a move.

    A limit that was not given (`is_given`) is exceeded rather than to have no model.
    """

    limit: int
    weights: int
    moving: int
    is_given: bool = True

    @property
    def for_contexts(self) -> int:
        """The bytes that one model's weights leave for contexts."""
        return self.limit - self.weights - self.moving


@dataclass(frozen=True, kw_only=True)
class ResidentPlan:
    """How many models are held, and the bytes of each: weights, and a context (cache and a batch with its logits).

    `moving` is for the buffers of a move, `limit` what all may take together (0: no limit).
    """

    n_models: int
    weights: int
    context: int
    moving: int
    limit: int

    @property
    def total(self) -> int:
        """The bytes of all models, and of a move."""
        return self.n_models * (self.weights + self.context) + self.moving

    @property
    def description(self) -> str:
        """The plan in words."""
        several = "s" * (self.n_models > 1)
        each = f"{_mb(self.weights)} of weights and {_mb(self.context)} of context{' each' * (self.n_models > 1)}"
        moving = f", {_mb(self.moving)} to move one" if self.moving else ""
        limit = f" of {_mb(self.limit)}" if self.limit else ""
        return f"{self.n_models} model{several} in memory: {each}{moving}; {_mb(self.total)}{limit}"


def check_weights(plan: MergePlan, max_memory: int, options: EngineOptions) -> MemoryLimit:
    """Return the limit (`max_memory`, 0: half of the free memory) with what a model's weights take of it.

    Raises InputError if the weights alone exceed `max_memory`.
    """
    _, _, weights = plan.at(0.0).file
    moving = (options.threads or cores()) * thread_bytes(plan)
    limit = max_memory or max(int(_SHARE * available_memory()), weights + moving + 1)
    found = MemoryLimit(limit=limit, weights=weights, moving=moving, is_given=bool(max_memory))
    if found.for_contexts <= 0:
        raise _too_little(found, 0)
    return found


def plan_residents(limit: MemoryLimit, context: int, most: int = 0) -> ResidentPlan:
    """Return the plan for models whose contexts take `context` bytes each; `most` bounds their number (0: no bound).

    Raises InputError if a limit that is not enough for one model was given.
    """
    n = (limit.limit - limit.moving) // (limit.weights + context)
    if n < 1 and limit.is_given:
        raise _too_little(limit, context)
    return ResidentPlan(
        n_models=min(max(n, 1), most or _MOST, _MOST), weights=limit.weights, context=context, moving=limit.moving,
        limit=max(limit.limit, limit.weights + context + limit.moving),
    )  # fmt: skip


def _too_little(limit: MemoryLimit, context: int) -> InputError:
    needed = limit.weights + limit.moving + context
    more = "" if context else " and a context"
    return InputError(
        f"--max-memory {_mb(limit.limit)} is not enough for one model: it needs {_mb(needed)}{more}. "
        "Allow more, a shorter context (--n-ctx), fewer answers at a time, or take a smaller type."
    )


def _mb(n: int) -> str:
    return f"{n / 1e6:.0f} MB" if n >= 10_000_000 else f"{n / 1e6:.1f} MB"
