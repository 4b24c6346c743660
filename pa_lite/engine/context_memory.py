"""What a context takes of memory, and the smaller ones that are tried where it does not fit.

The system may hand out memory that it does not have, and kill us for using it: what is needed is reckoned first and
compared with what is free. On a GPU, whose memory is not asked for, llama.cpp is let to refuse.
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
_SHARE = 0.9  # of the free memory that is taken at most
_LEAST_BATCH = 8
_SLACK = 32 << 20  # beside half of a batch's memory: what llama.cpp and numpy take while they decode


@dataclass(frozen=True)
class ContextSize:
    """A context: its cells in all and their type, its sequences, whether these share cells; tokens and rows a batch."""

    n_ctx: int
    n_seq_max: int
    unified: bool
    n_batch: int
    n_outputs: int
    cache_type: str

    @property
    def told(self) -> str:
        """For people."""
        each = self.n_ctx if self.unified else self.n_ctx // self.n_seq_max
        sequences = "" if self.unified else f"{self.n_seq_max} sequence{'s' * (self.n_seq_max > 1)} of "
        return f"{sequences}{each} tokens (cache {self.cache_type}, batches of {self.n_batch})"


@dataclass(frozen=True)
class Needs:
    """Bytes, about: the weights, which are there already; the cache; what a batch is computed in, its logits too."""

    weights: int
    cache: int
    batch: int

    @property
    def new(self) -> int:
        """What the context adds."""
        return self.cache + self.batch


def needs(model: Model, wish: ContextSize) -> Needs:
    """Reckon a context's memory, rather too much than too little.

    A batch's logits are held twice, its attention is a number for each head, token and cell in reach, and of each token
    some hidden and feed-forward states are held.
    """
    width = 2 if wish.cache_type == "F16" else 4
    cells = -(-wish.n_ctx // CELL_STEP) * CELL_STEP
    tokens = min(wish.n_batch, model.most_at_once)
    reach = cells if wish.unified else cells // wish.n_seq_max
    attention = 0 if model.options.flash_attention else tokens * reach * model.n_heads * 4
    logits = (wish.n_outputs + min(tokens, wish.n_outputs)) * model.n_vocab * 4
    states = tokens * (4 * model.width + 3 * model.inner_width) * 4 + tokens * cells * 4
    return Needs(model.weight_bytes, model.cell_items * cells * width, attention + logits + states)


@contextlib.contextmanager
def first_that_fits(model: Model, wishes: Sequence[ContextSize], advice: str) -> Iterator[Context]:
    """A context for the first wish that there is memory for. A later one than the first is told and noted.

    Raises EngineError when none fits, with what the least would need, what is free, and the advice.
    """
    free = available_memory() if model.gpu_layers == 0 else 0
    refusal: EngineError | None = None
    for wish in wishes:
        if free and needs(model, wish).new > _SHARE * free:
            continue
        with contextlib.ExitStack() as stack:
            try:
                _check_grant(model, wish)
                made = model.context(
                    wish.n_ctx, wish.n_seq_max, wish.unified, wish.n_outputs, wish.n_batch, cache_type=wish.cache_type
                )
                context = stack.enter_context(made)
            except EngineError as e:
                refusal = e
                continue
            if wish != wishes[0]:
                _note(model, f"memory holds {wish.told} at a time, not {wishes[0].told}")
            yield context
            return
    raise _no_room(model, wishes[-1], free, refusal, advice) from refusal


def _check_grant(model: Model, wish: ContextSize) -> None:
    """Raise EngineError unless the system grants what a context takes and what decoding takes beside it.

    Only asked for and given back. llama.cpp survives most refusals while it makes a context, but not all, and none
    while it decodes: a limit of the system, or strict accounting, is to refuse now.
    """
    wanted = needs(model, wish)
    size = _SLACK + wanted.batch // 2 + (wanted.new if model.gpu_layers == 0 else 0)
    try:
        if sys.platform == "win32":
            mmap.mmap(-1, size).close()
        else:  # a shared mapping, which is the default, would not count
            mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, MemoryError) as e:
        raise EngineError(f"{model.label}: the system does not grant {size / 1e6:.0f} MB.") from e


def _note(model: Model, told: str) -> None:
    if told not in model.remarks:
        model.remarks.append(told)
        _log.warning("%s: %s.", model.name, told)


def _no_room(model: Model, least: ContextSize, free: int, refusal: EngineError | None, advice: str) -> EngineError:
    needed = needs(model, least)
    parts = f"{_mb(needed.cache)} of cache and {_mb(needed.batch)} for a batch, beside weights of {_mb(needed.weights)}"
    has = [f"{_mb(free)} are free"] if free else []
    if refusal is not None:
        has.append(str(refusal).removeprefix(f"{model.label}: ").rstrip("."))
    return EngineError(f"{model.label}: no room for {least.told}: it needs {parts}; {', but '.join(has)}. {advice}")


def _mb(n: int) -> str:
    return f"{n / 1e6:.0f} MB" if n >= 10_000_000 else f"{n / 1e6:.1f} MB"


def shrinking(
    make: Callable[[str, int], Sequence[ContextSize]], cache_type: str, is_free: bool, n_batch: int
) -> list[ContextSize]:
    """Wishes from the roomiest on: as `make` orders those of one (cache type, n_batch), then smaller batches of these.

    A cache of F32 becomes one of F16 first, if its type `is_free` to be chosen: that costs exactness, but no time.
    """
    cache_types = [cache_type, "F16"] if is_free and cache_type == "F32" else [cache_type]
    wishes = [wish for chosen in cache_types for wish in make(chosen, n_batch)]
    for part in (n_batch // 2, n_batch // 4, n_batch // 8):
        if part >= _LEAST_BATCH:
            wishes += make(cache_types[-1], part)
    return wishes


def fewer_sequences(model: Model, wish: ContextSize) -> list[ContextSize]:
    """The same with fewer sequences: as many as are reckoned to fit, else half as many, and half of these."""
    each, free = wish.n_ctx // wish.n_seq_max, available_memory() if model.gpu_layers == 0 else 0

    def of(n: int) -> ContextSize:
        return replace(wish, n_ctx=n * each, n_seq_max=n, n_outputs=n)

    n = wish.n_seq_max // 2
    if free and needs(model, wish).new > _SHARE * free:
        n = next((n for n in range(wish.n_seq_max - 1, 0, -1) if needs(model, of(n)).new <= _SHARE * free), 1)
    wishes = []
    while n:
        wishes.append(of(n))
        n //= 2
    return wishes
