"""Greedy generation of many prompts in one batch: a sequence joins when another stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from pa_lite.engine.model import Context, Model
from pa_lite.errors import EngineError


@dataclass(frozen=True)
class Generation:
    """What a prompt was continued with: text, number of tokens, and whether the model itself ended it."""

    text: str
    n_tokens: int
    ended: bool


@dataclass
class _Slot:
    """A sequence that is being generated: `fed` waits to be decoded, `cached` tokens were."""

    prompt: int
    fed: list[int]
    cached: int = 0
    out: list[int] = field(default_factory=list)


def generate_greedy(
    model: Model,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    parallel: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> list[Generation]:
    """Continue every prompt (token ids) with its likeliest tokens, in the prompts' order, `parallel` at a time.

    A generation stops at an end token, which is not part of its text, or after max_tokens. `progress` gets (prompts
    done, prompts in all). Raises EngineError when a prompt is empty or leaves no room in the trained context.
    """
    results: dict[int, Generation] = {}
    longest = max((len(p) for p in prompts), default=1)
    if min((len(p) for p in prompts), default=1) == 0:
        raise EngineError("a prompt has no tokens.")
    if longest + max_tokens > model.n_ctx_train:
        raise EngineError(
            f"a prompt of {longest} tokens and {max_tokens} new ones exceed the {model.n_ctx_train} that {model.name} "
            "was trained on. Use a smaller --max-tokens."
        )
    parallel = max(1, min(parallel, len(prompts)))
    per_sequence = -(-(longest + max_tokens) // 256) * 256  # llama.cpp pads each sequence's cells to 256
    with model.context(parallel * per_sequence, parallel, unified=False) as context:
        waiting = iter(enumerate(prompts))
        slots: dict[int, _Slot] = {}
        while _fill(slots, parallel, waiting):
            for sequence, row in _step(context, slots):
                slot = slots[sequence]
                token = int(context.logits(row).argmax())
                ended = model.is_end(token)
                if not ended:
                    slot.out.append(token)
                    slot.fed.append(token)
                if ended or len(slot.out) == max_tokens:
                    results[slot.prompt] = Generation(model.text(slot.out), len(slot.out), ended)
                    context.forget(sequence)
                    del slots[sequence]
                    if progress is not None:
                        progress(len(results), len(prompts))
    return [results[i] for i in range(len(prompts))]


def _fill(slots: dict[int, _Slot], parallel: int, waiting: Iterator[tuple[int, Sequence[int]]]) -> bool:
    """Give free sequences to waiting prompts; False when nothing is left to do."""
    for sequence in range(parallel):
        if sequence not in slots and (entry := next(waiting, None)) is not None:
            slots[sequence] = _Slot(entry[0], list(entry[1]))
    return bool(slots)


def _step(context: Context, slots: dict[int, _Slot]) -> list[tuple[int, int]]:
    """Decode one batch of what the slots wait for; returns (sequence, batch row) of those with nothing left to feed."""
    tokens: list[int] = []
    positions: list[int] = []
    sequences: list[tuple[int]] = []
    ready: list[tuple[int, int]] = []
    for sequence, slot in slots.items():
        piece = slot.fed[: context.n_batch - len(tokens)]
        tokens += piece
        positions += range(slot.cached, slot.cached + len(piece))
        sequences += [(sequence,)] * len(piece)
        slot.cached += len(piece)
        del slot.fed[: len(piece)]
        if piece and not slot.fed:
            ready.append((sequence, len(tokens) - 1))
    wanted = [False] * len(tokens)
    for _, row in ready:
        wanted[row] = True
    context.decode(tokens, positions, sequences, wanted)
    return ready
