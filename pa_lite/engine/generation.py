"""Generate from many prompts in one batch: sequences join and leave it as they start and stop.

The work is done in steps. `_Run.fill` gives every free slot (a sequence of the cache) the next waiting prompt.
`_Run.step` decodes one batch: the newest token of every running text, and as much of the waiting prompts as fits, so
that a long prompt never delays running texts. Then every slot whose tokens are all decoded gets its next token, and a
text that has ended frees its slot.

Prompts wait in sorted order, so neighbours share long prefixes (a system prompt, few-shot examples). A prompt that
starts looks for the slot that holds the longest prefix of it and copies these cells in place of decoding them; if that
slot has yet to decode them, the prompt waits until it has.

Each sequence has its own stream of cells: with 32 of them that is a fifth faster than one unified cache, because
attention reads no other sequence's cells.
"""

from __future__ import annotations

import contextlib
import math
from array import array
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from pa_lite.engine.answer_text import AnswerText, Generation, StopText
from pa_lite.engine.context import Context
from pa_lite.engine.context_memory import CELL_STEP, ContextSize, fewer_sequences, first_that_fits, shrinking
from pa_lite.engine.interrupts import ends_on_interrupt
from pa_lite.engine.model import Model
from pa_lite.engine.reasoning import ReasoningFormat
from pa_lite.engine.sampling import draw
from pa_lite.errors import InputError
from pa_lite.progress import Progress

MAX_PARALLEL = 256  # LLAMA_MAX_SEQ: llama.cpp aborts beyond it
_EXACT_BYTES = 1 << 30  # up to this size a cache is F32
_WORTH = 8  # copy cells from another sequence if that saves decoding at least as many tokens


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How to continue prompts. Raises InputError for values out of range.

    `max_tokens` limits the new tokens of each prompt. With `temperature` 0 the most likely token is chosen, otherwise
    one is sampled (`top_k` 0, `top_p` 1 and `min_p` 0 keep all tokens; see `sampling.candidates`); `seed` and the
    prompt's index determine its random numbers. A text ends before the first `stop` string in it. `parallel` is the
    number of prompts that run at a time.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    min_p: float = 0.0
    top_k: int = 0
    seed: int = 0
    stop: tuple[str, ...] = ()
    parallel: int = 16

    def __post_init__(self) -> None:
        for name, holds, allowed in (
            ("max_tokens", self.max_tokens >= 1, "at least 1"),
            ("temperature", 0 <= self.temperature < math.inf, "a number from 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0, up to 1"),
            ("min_p", 0 <= self.min_p <= 1, "from 0 to 1"),
            ("top_k", self.top_k >= 0, "at least 0"),
            ("seed", self.seed >= 0, "at least 0"),
            ("parallel", 1 <= self.parallel <= MAX_PARALLEL, f"from 1 to {MAX_PARALLEL}"),
        ):
            if not holds:
                raise InputError(f"{name} is {getattr(self, name)}; it must be {allowed}.")
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        for text in self.stop:
            if not isinstance(text, str) or not text or _encoded(text) is None:
                raise InputError(f"stop string {text!r} is empty or not valid Unicode.")


def _encoded(text: str) -> bytes | None:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return None


@dataclass(kw_only=True)
class _Slot:
    """A sequence of the cache: the first `cached` of `tokens` are decoded, the others are waiting.

    Between two prompts it keeps the tokens of the last one. While `source` is set, it waits until that slot has decoded
    its first `shared` tokens, and will start with a copy of them.
    """

    sequence: int
    tokens: list[int] = field(default_factory=list)
    cached: int = 0
    prompt: int | None = None
    made: int = 0
    text: AnswerText | StopText = field(default_factory=lambda: StopText(()))
    source: _Slot | None = None
    shared: int = 0


def generate(
    model: Model,
    prompts: Sequence[Sequence[int]],
    options: GenerationOptions | None = None,
    progress: Progress | None = None,
    on_done: Callable[[int, Generation], None] | None = None,
    limits: Sequence[int] | None = None,
    streams: Sequence[int] | None = None,
    reasoning: Sequence[ReasoningFormat] | None = None,
) -> list[Generation]:
    """Continue every prompt (token ids); return the results in the order of the prompts.

    `limits` has a max_tokens for each prompt. `streams` has the number of each prompt's random stream, by default its
    index; to generate a list in several calls, pass the indices in the whole list. `on_done` gets (index, generation)
    as each prompt is finished, in any order; `progress` gets the answers finished and, after each step, the tokens
    generated so far (with total 0). `reasoning` has the reasoning format of each prompt (see `chat_prompts`),
    which separates reasoning from the answer; without it, everything is text.

    The same call on the same machine returns the same texts. Other values of `parallel`, another order, or other
    prompts in the list change the shape of llama.cpp's batches, and with it the rounding of logits: by up to 0.03 with
    F16 weights, 1e-4 with F32, more with quantised ones. Random numbers do not depend on it, so a text only changes
    where two tokens are that close, or where a random number falls that close to the boundary between them.

    Raises InputError before any work for a prompt without tokens, or one that with its limit exceeds
    `model.max_length`; EngineError when there is no memory for even one sequence, and during the work for a model that
    computes NaN. Ctrl-C stops it within one node of llama.cpp's graph.
    """
    options = options or GenerationOptions()
    limits = [options.max_tokens] * len(prompts) if limits is None else list(limits)
    streams = range(len(prompts)) if streams is None else streams
    assert len(limits) == len(streams) == len(prompts)
    assert reasoning is None or len(reasoning) == len(prompts)
    _check(model, prompts, limits)
    if not prompts:
        return []
    cells = max(len(p) + n for p, n in zip(prompts, limits, strict=True))
    with _room(model, min(options.parallel, len(prompts)), -(-cells // CELL_STEP) * CELL_STEP) as context:
        held = [p if isinstance(p, array) else array("i", p) for p in prompts]  # lists take eight times the memory
        run = _Run(context, held, options, limits, streams, reasoning)
        n_made = 0
        with ends_on_interrupt(context):
            while run.fill():
                finished, n_tokens = run.step()
                n_made += n_tokens
                if progress is not None:
                    progress("generate", n_made, 0, "tokens")
                for i in finished:
                    if on_done is not None:
                        on_done(i, run.results[i])
                if progress is not None and finished:
                    progress("generate", len(run.results), len(prompts), "answers")
    return [run.results[i] for i in range(len(prompts))]


def stream(
    model: Model,
    prompt: Sequence[int],
    options: GenerationOptions | None = None,
    reasoning: ReasoningFormat | None = None,
) -> Generator[str, None, Generation]:
    """Continue one prompt (token ids): yield pieces of the answer as they are generated, and return the whole.

    The joined pieces are the text of the result: without reasoning, and what may be the start of a stop string is held
    back. Raises what `generate` raises. Closing the generator stops the work.
    """
    options = options or GenerationOptions()
    _check(model, [prompt], [options.max_tokens])
    cells = -(-(len(prompt) + options.max_tokens) // CELL_STEP) * CELL_STEP
    with _room(model, 1, cells) as context:
        formats = None if reasoning is None else [reasoning]
        run = _Run(context, [array("i", prompt)], options, [options.max_tokens], [0], formats)
        (slot,) = run.slots
        while run.fill():
            with ends_on_interrupt(context):
                run.step()
            if piece := slot.text.fresh(is_done=bool(run.results)):
                yield piece
    return run.results[0]


def _check(model: Model, prompts: Sequence[Sequence[int]], limits: Sequence[int]) -> None:
    for number, (prompt, limit) in enumerate(zip(prompts, limits, strict=True), 1):
        if not prompt:
            raise InputError(f"prompt {number} has no tokens.")
        if limit < 1:
            raise InputError(f"the token limit of prompt {number} is {limit}; it must be at least 1.")
        if len(prompt) + limit > model.max_length:
            raise InputError(
                f"prompt {number} has {len(prompt)} tokens; with {limit} new ones they exceed the context of "
                f"{model.name}, {model.max_length} tokens. Use a smaller --max-tokens or leave the prompt out."
            )


@contextlib.contextmanager
def _room(model: Model, slots: int, cells: int) -> Iterator[Context]:
    """Open a context of `slots` sequences of `cells` tokens each, or a smaller one if memory is short.

    A cache that is small anyway is F32, so that the shape of a batch decides fewer near ties. Where memory is short, it
    becomes F16 (if its type is "auto"), then batches become smaller, then sequences fewer.
    """

    def all_slots(cache_type: str, n_batch: int) -> list[ContextSize]:
        return [
            ContextSize(
                n_ctx=slots * cells,
                n_seq_max=slots,
                unified=False,
                n_batch=n_batch,
                n_outputs=slots,
                cache_type=cache_type,
            )
        ]

    exact = slots * cells * model.exact_cell_bytes <= _EXACT_BYTES
    sizes = shrinking(all_slots, model.cache_type(exact), model.options.cache_type == "auto", model.options.n_batch)
    sizes += fewer_sequences(model, sizes[-1])
    advice = "Use a smaller --max-tokens, shorter prompts (--n-ctx), or a smaller model or type."
    with first_that_fits(model, sizes, advice) as context:
        yield context


class _Run:
    """The slots, the waiting prompts and the results of one call."""

    def __init__(
        self,
        context: Context,
        prompts: Sequence[array[int]],
        options: GenerationOptions,
        limits: Sequence[int],
        streams: Sequence[int],
        reasoning: Sequence[ReasoningFormat] | None = None,
    ) -> None:
        self.context, self.model, self.options, self.reasoning = context, context.model, options, reasoning
        self.prompts, self.limits, self.streams = prompts, limits, streams
        self.results: dict[int, Generation] = {}
        self.slots = [_Slot(sequence=i) for i in range(context.n_seq_max)]
        # sorted, so that neighbours share long prefixes
        self._waiting = deque(sorted(range(len(prompts)), key=lambda i: prompts[i]))
        self._randoms: dict[int, np.random.Generator] = {}
        self._pieces: dict[int, bytes] = {}

    def fill(self) -> bool:
        """Start waiting prompts in free slots, or close gaps between running ones; return False when all is done."""
        for slot in self.slots:
            if slot.prompt is None and self._waiting:
                self._start(slot, self._waiting.popleft())
        if not self._waiting:
            self._close_gaps()
        return any(slot.prompt is not None for slot in self.slots)

    def _start(self, slot: _Slot, i: int) -> None:
        """Start prompt i: keep the prefix that the slot holds, or copy a longer one from another slot."""
        prompt = self.prompts[i].tolist()
        own = _common(slot.tokens[: slot.cached], prompt) if self.model.can_rewind else 0
        best, shared = None, own
        for other in self.slots if self.model.can_rewind else []:
            # a running slot will decode all its tokens; a finished one never decodes its last
            held = other.tokens[: other.cached] if other.prompt is None else other.tokens
            if other is not slot and (n := _common(held, prompt)) >= shared + _WORTH:
                best, shared = other, n
        stops = self.options.stop
        slot.prompt, slot.made = i, 0
        slot.text = StopText(stops) if self.reasoning is None else AnswerText(stops, self.reasoning[i])
        slot.source, slot.shared = best, shared
        slot.tokens = prompt
        if best is None:
            slot.cached = own
            self.context.trim(slot.sequence, own)
        else:
            slot.cached = 0
            self._copy(slot)
        if self.options.temperature > 0:
            self._randoms[i] = np.random.default_rng((self.options.seed, self.streams[i]))

    def _copy(self, slot: _Slot) -> None:
        """Copy the shared prefix from the source once it is decoded there."""
        source = slot.source
        if source is not None and source.cached >= slot.shared:
            self.context.copy(source.sequence, slot.sequence, slot.shared)
            slot.cached, slot.source = slot.shared, None

    def _close_gaps(self) -> None:
        """Move the last running slot into each gap.

        llama.cpp splits a batch wherever sequence ids are not consecutive, and each part reads all weights again, in
        every further step. A move copies the cells of one sequence, once.
        """
        for gap in self.slots:
            last = next((s for s in reversed(self.slots) if s.prompt is not None), gap)
            if gap.prompt is None and last.sequence > gap.sequence and self.model.can_rewind and last.source is None:
                self.context.copy(last.sequence, gap.sequence, last.cached)
                a, b = gap.sequence, last.sequence
                gap.sequence, last.sequence = b, a
                gap.tokens, gap.cached = [], 0
                self.context.forget(b)
                self.slots[a], self.slots[b] = last, gap

    def step(self) -> tuple[list[int], int]:
        """Decode one batch and choose a token for each slot with nothing left to decode.

        Return the prompts that are finished (indices) and the number of new tokens.
        """
        finished = []
        ready = self._decode()
        for slot, row in ready:
            if self._take(slot, row):
                assert slot.prompt is not None
                finished.append(slot.prompt)
                slot.prompt = None
        for slot in self.slots:
            self._copy(slot)
        return finished, len(ready)

    def _decode(self) -> list[tuple[_Slot, int]]:
        """Decode waiting tokens of all slots, at most n_batch: one for every text under way, then parts of prompts.

        Return the slots that have nothing left to decode, each with the index in the batch of its last token.
        """
        tokens: list[int] = []
        positions: list[int] = []
        sequences: list[int] = []
        ready: list[tuple[_Slot, int]] = []
        running = [s for s in self.slots if s.prompt is not None and s.source is None]
        # a slot with one token to decode always gets it; `room` is what prompts may take in turn
        room = self.context.n_batch - sum(len(s.tokens) - s.cached == 1 for s in running)
        for slot in running:
            n = len(slot.tokens) - slot.cached
            if n > 1:
                n = min(n, room)
                room -= n
            tokens += slot.tokens[slot.cached : slot.cached + n]
            positions += range(slot.cached, slot.cached + n)
            sequences += [slot.sequence] * n
            slot.cached += n
            if slot.cached == len(slot.tokens):
                ready.append((slot, len(tokens) - 1))
        wanted = np.zeros(len(tokens), np.bool_)
        wanted[[row for _, row in ready]] = True
        self.context.decode(tokens, positions, sequences, sequences, wanted)
        return ready

    def _take(self, slot: _Slot, row: int) -> bool:
        """Choose a slot's next token and append it; return True if the text has ended, with its result stored."""
        i, options = slot.prompt, self.options
        assert i is not None
        logits = self.context.logits(row)
        token = int(logits.argmax())
        if not math.isfinite(logits[token]):  # NaN counts as the largest
            raise self.context.broken()
        if options.temperature > 0:
            u = self._randoms[i].random()
            token = draw(logits, options.temperature, options.top_k, options.top_p, options.min_p, u)
        reason = ""
        if self.model.is_end(token) and not slot.text.ends_reasoning(token):
            reason = "end"
        else:
            slot.made += 1
            slot.tokens.append(token)
            spelled = slot.text.piece(token)
            if slot.text.add(self._piece(token) if spelled is None else spelled):
                reason = "stop"
            elif slot.made == self.limits[i]:
                reason = "length"
        if reason:
            self.results[i] = slot.text.result(slot.made, reason)
            self._randoms.pop(i, None)
        return bool(reason)

    def _piece(self, token: int) -> bytes:
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self.model.piece(token)
        return piece


def _common(held: Sequence[int], prompt: Sequence[int]) -> int:
    """Return how many tokens of a prompt are held already, without its last: the logits after it are needed."""
    n = min(len(held), len(prompt) - 1)
    for i in range(n):
        if held[i] != prompt[i]:
            return i
    return n
