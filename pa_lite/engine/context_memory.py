"""Estimate the memory of a context, and try smaller ones where it does not fit.

A system may grant more memory than it has, and kill the process that uses it. So the need is estimated and compared
with the free memory before a context is created. On a GPU, llama.cpp itself refuses a context that does not fit.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from pa_lite.engine.context import Context
from pa_lite.engine.model import Model
from pa_lite.errors import EngineError
from pa_lite.system.machine import available_memory

_log = logging.getLogger(__name__)
CELL_STEP = 256  # llama.cpp pads the cells of a sequence to a multiple of it
_SHARE = 0.9  # the largest share of the free memory to use
_LEAST_BATCH = 8
_SLACK = 32 << 20  # bytes that llama.cpp and numpy take while decoding, in addition to half of a batch's memory


@dataclass(frozen=True, kw_only=True)
class ContextSize:
    """The size of a context: `n_ctx` cells of `cache_type`, shared by all `n_seq_max` sequences if `unified`.

    A batch has up to `n_batch` tokens and keeps up to `n_outputs` rows of logits. `flash_attention` is used where
    the device can.
    """

    n_ctx: int
    n_seq_max: int
    unified: bool
    n_batch: int
    n_outputs: int
    cache_type: str
    flash_attention: bool = False

    @property
    def description(self) -> str:
        """The size in words, for messages."""
        each = self.n_ctx if self.unified else self.n_ctx // self.n_seq_max
        sequences = "" if self.unified else f"{self.n_seq_max} sequence{'s' * (self.n_seq_max > 1)} of "
        return f"{sequences}{each} tokens (cache {self.cache_type}, batches of {self.n_batch})"


@dataclass(frozen=True)
class Needs:
    """Estimated bytes: the weights, which are loaded already; the cache; and buffers for a batch with its logits."""

    weights: int
    cache: int
    batch: int

    @property
    def new(self) -> int:
        """The bytes that the context adds."""
        return self.cache + self.batch


def needs(model: Model, size: ContextSize) -> Needs:
    """Estimate the memory of a context, too high rather than too low.

    A batch's logits are held twice, attention takes a number for each head, token and cell in reach, and each token has
    a few hidden and feed-forward states.
    """
    width = 2 if size.cache_type == "F16" else 4
    cells = -(-size.n_ctx // CELL_STEP) * CELL_STEP
    tokens = min(size.n_batch, model.most_at_once)
    reach = cells if size.unified else cells // size.n_seq_max
    attention = 0 if size.flash_attention or model.options.flash_attention else tokens * reach * model.n_heads * 4
    logits = (size.n_outputs + min(tokens, size.n_outputs)) * model.n_vocab * 4
    states = tokens * (4 * model.width + 3 * model.inner_width) * 4 + tokens * cells * 4
    return Needs(model.weight_bytes, model.cell_items * cells * width, attention + logits + states)


@contextlib.contextmanager
def first_that_fits(model: Model, sizes: Sequence[ContextSize], advice: str) -> Iterator[Context]:
    """Open a context of the first size that fits in memory; if that is not `sizes[0]`, log it and add a remark.

    Raises EngineError when none fits, with what the last size would need, what is free, and the advice.
    """
    free = available_memory() if model.gpu_layers == 0 else 0
    refusal: EngineError | None = None
    for size in sizes:
        if free and needs(model, size).new > _SHARE * free:
            continue
        with contextlib.ExitStack() as stack:
            try:
                _check_grant(model, size)
                made = model.context(
                    size.n_ctx, size.n_seq_max, size.unified, size.n_outputs, size.n_batch, cache_type=size.cache_type,
                    flash_attention=size.flash_attention,
                )  # fmt: skip
                context = stack.enter_context(made)
            except EngineError as e:
                refusal = e
                continue
            if size != sizes[0]:
                _note(model, f"memory is enough for {size.description}, not {sizes[0].description}")
            context.planned_bytes = needs(model, size).new
            yield context
            return
    raise _no_room(model, sizes[-1], free, refusal, advice) from refusal


def _check_grant(model: Model, size: ContextSize) -> None:
    """Raise EngineError unless the system grants the memory for a context and for decoding with it.

    The memory is allocated and freed at once. llama.cpp survives most failed allocations while it creates a context,
    but not all, and none while it decodes; so a limit of the system, or strict accounting, has to refuse now.
    """
    wanted = needs(model, size)
    n = _SLACK + wanted.batch // 2 + (wanted.new if model.gpu_layers == 0 else 0)
    try:
        if sys.platform == "win32":
            mmap.mmap(-1, n).close()
        else:  # limits do not count a shared mapping, which is the default
            mmap.mmap(-1, n, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, MemoryError) as e:
        raise EngineError(f"{model.label}: the system does not grant {n / 1e6:.0f} MB of memory.") from e


def _note(model: Model, remark: str) -> None:
    if remark not in model.remarks:
        model.remarks.append(remark)
        _log.warning("%s: %s.", model.name, remark)


def _no_room(model: Model, least: ContextSize, free: int, refusal: EngineError | None, advice: str) -> EngineError:
    needed = needs(model, least)
    parts = f"{_mb(needed.cache)} of cache and {_mb(needed.batch)} for a batch"
    weights = f"in addition to weights of {_mb(needed.weights)}"
    has = [f"{_mb(free)} are free"] if free else []
    if refusal is not None:
        has.append(str(refusal).removeprefix(f"{model.label}: ").rstrip("."))
    size = least.description
    return EngineError(
        f"{model.label}: no room for {size}: it needs {parts}, {weights}; {', but '.join(has)}. {advice}"
    )


def _mb(n: int) -> str:
    return f"{n / 1e6:.0f} MB" if n >= 10_000_000 else f"{n / 1e6:.1f} MB"


def shrinking(
    make: Callable[[str, int], Sequence[ContextSize]], cache_type: str, is_free: bool, n_batch: int
) -> list[ContextSize]:
    """Return the sizes to try, largest first: those that `make` returns for (cache type, n_batch), in this order.

    First come the given type and batch; then an F16 cache in place of F32, if the type `is_free` to choose (less exact
    and no slower); then smaller batches.
    """
    cache_types = [cache_type, "F16"] if is_free and cache_type == "F32" else [cache_type]
    sizes = [size for chosen in cache_types for size in make(chosen, n_batch)]
    for part in (n_batch // 2, n_batch // 4, n_batch // 8):
        if part >= _LEAST_BATCH:
            sizes += make(cache_types[-1], part)
    return sizes


def fewer_sequences(model: Model, size: ContextSize) -> list[ContextSize]:
    """Return smaller sizes with fewer sequences: first as many as should fit, then half as many each time."""
    each, free = size.n_ctx // size.n_seq_max, available_memory() if model.gpu_layers == 0 else 0

    def of(n: int) -> ContextSize:
        return replace(size, n_ctx=n * each, n_seq_max=n, n_outputs=n)

    n = size.n_seq_max // 2
    if free and needs(model, size).new > _SHARE * free:
        n = next((n for n in range(size.n_seq_max - 1, 0, -1) if needs(model, of(n)).new <= _SHARE * free), 1)
    sizes = []
    while n:
        sizes.append(of(n))
        n //= 2
    return sizes
