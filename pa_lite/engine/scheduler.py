"""Generate answers to requests that arrive at any time, many in one batch (continuous batching).

The work is done in steps. A step first gives free sequences of the cache to waiting requests. Then it decodes one
batch: the newest token of every running answer, and as much of the waiting prompts as fits, so that a long prompt
delays running answers only a little. Then every sequence whose tokens are all decoded gets its next token, and an
answer that has ended frees its sequence. `pa_lite.engine.sequences` decides which prompt starts in which sequence.
Prompts to score (`pa_lite.engine.prompt_scores`) get a separate batch after each of these.

`submit`, and everything of an `Answer`, may be called from any thread; one thread at a time steps.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple

import numpy as np

from pa_lite.engine.answers import Answer, GenerationRequest, check_request
from pa_lite.engine.context_memory import CELL_STEP, ContextSize, fewer_sequences, first_that_fits, needs, shrinking
from pa_lite.engine.generation_options import MAX_PARALLEL
from pa_lite.engine.interrupts import ends_on_interrupt
from pa_lite.engine.model import Model
from pa_lite.engine.prompt_scores import PromptScorer, ScoringJob, check_prompts
from pa_lite.engine.sequences import WORTH, CachedSequence, CachedSequences
from pa_lite.engine.token_choice import RunningAnswer
from pa_lite.errors import EngineError, InputError, PaLiteError, StoppedError

EXACT_BYTES = 1 << 30  # up to this size a cache is F32


@dataclass(frozen=True, kw_only=True)
class SchedulerOptions:
    """How a scheduler uses its context. Raises InputError for values out of range.

    Up to `parallel` answers run at a time, others wait in the order of their arrival. `length` limits the tokens of one
    sequence, prompt and answer together (0: the model's `max_length`). While answers are running, a batch has up to
    `prompt_tokens` tokens of prompts (0: all that fit): fewer make a new prompt delay running answers less. With
    `keeps`, the tokens of finished answers are kept for prompts that continue them, as in a conversation. Answers are
    `exact` unless speed counts more: the shape of a batch then decides fewer near ties, because a small cache is F32
    and there is no flash attention.
    """

    parallel: int = 16
    length: int = 0
    prompt_tokens: int = 128
    keeps: bool = True
    exact: bool = True

    def __post_init__(self) -> None:
        for name, holds, allowed in (
            ("parallel", 1 <= self.parallel <= MAX_PARALLEL, f"from 1 to {MAX_PARALLEL}"),
            ("length", self.length >= 0, "at least 0"),
            ("prompt_tokens", self.prompt_tokens >= 0, "at least 0"),
        ):
            if not holds:
                raise InputError(f"{name} is {getattr(self, name)}; it must be {allowed}.")


class Step(NamedTuple):
    """What a step did: the answers that it ended, failed and cancelled ones included, and the tokens that it chose.

    `scored` are the scoring jobs that it ended.
    """

    ended: Sequence[Answer]
    n_tokens: int
    scored: Sequence[ScoringJob] = ()


def context_sizes(model: Model, parallel: int, length: int, exact: bool = True) -> list[ContextSize]:
    """Return the sizes of a context to try for `parallel` sequences of `length` tokens, largest first.

    If answers are to be `exact`, a cache that is small anyway is F32, and there is no flash attention by default. Where
    memory is short, the cache becomes F16 (if its type is "auto"), then batches become smaller, then sequences fewer.
    """
    cells = -(-length // CELL_STEP) * CELL_STEP

    def all_sequences(cache_type: str, n_batch: int) -> list[ContextSize]:
        return [
            ContextSize(
                n_ctx=parallel * cells,
                n_seq_max=parallel,
                unified=False,
                n_batch=n_batch,
                n_outputs=parallel,
                cache_type=cache_type,
                flash_attention=not exact,
            )
        ]

    is_small = parallel * cells * model.exact_cell_bytes <= EXACT_BYTES
    is_free = model.options.cache_type == "auto"
    sizes = shrinking(all_sequences, model.cache_type(exact and is_small), is_free, model.options.n_batch)
    return sizes + fewer_sequences(model, sizes[-1])


class Scheduler:
    """Generates on one context of a model. A context manager; close it before the model."""

    def __init__(
        self, model: Model, options: SchedulerOptions | None = None, lam: float | None = None, max_memory: int = 0
    ) -> None:
        """Open a context of the options' size, or a smaller one if memory is short. `lam` is noted in answers.

        The context takes up to `max_memory` bytes (0: what the machine has). Raises EngineError when there is no memory
        for even one sequence.
        """
        self.model, self.options, self.lam = model, options or SchedulerOptions(), lam
        self._name = model.name
        self.length = min(self.options.length or model.max_length, model.max_length)
        self._closing = contextlib.ExitStack()
        advice = "Use a smaller --max-tokens, shorter prompts (--n-ctx), or a smaller model or type."
        sizes = context_sizes(model, self.options.parallel, self.length, self.options.exact)
        allowed = [s for s in sizes if not max_memory or needs(model, s).new <= max_memory]
        self.context = self._closing.enter_context(first_that_fits(model, allowed or sizes[-1:], advice))
        self.sequences = CachedSequences(self.context, self.options.keeps, self._copy_worth())
        self.n_decoded = 0  # tokens
        self._lock = threading.Lock()  # of the waiting requests
        self._stepping = threading.RLock()
        self._waiting: deque[Answer] = deque()
        self._scorer, self._jobs = PromptScorer(model), list[ScoringJob]()  # jobs that the scorer does not have yet
        self._pieces: dict[int, bytes] = {}
        self._is_closed = self._has_cancelled = False
        self.wake: Callable[[], None] | None = None  # for a runner that sleeps

    def _copy_worth(self) -> int:
        """Return how many tokens a copy of a sequence must save.

        A copy moves all cells of a sequence, whatever it holds. On CPUs that were measured, decoding one token of a
        prompt takes as long as copying a twentieth of the bytes of the weights.
        """
        if not self.options.keeps:
            return WORTH
        cells = self.context.n_ctx // self.context.n_seq_max * self.model.cell_items * 4
        return max(WORTH, 20 * cells // max(1, self.model.weight_bytes))

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancel all answers and free the context. Later calls do nothing.

        Raises InputChangedError if the model's file has changed since it was loaded.
        """
        with self._stepping:
            with self._lock:
                self._is_closed = True
            for work in self._unfinished():
                work.cancel()
            self.drop_ended()
            self._scorer.close()
            self._closing.close()

    def abandon(self, error: EngineError) -> None:
        """Fail all answers and drop all tokens, after an error that may have left them in an unknown state."""
        with self._stepping:
            for work in self._unfinished():
                work.fail(error)
            self._has_cancelled = True
            self.drop_ended()
            self._scorer.close()
            self.sequences.forget()

    def submit(
        self, request: GenerationRequest, on_change: Callable[[], None] | None = None, streams: bool = True
    ) -> Answer:
        """Add a request to those that wait, and return its answer at once; see `Answer` for `on_change` and `streams`.

        Raises InputError for a request without tokens, or one that with its limit exceeds a sequence's length;
        EngineError after `close`.
        """
        check_request(request, self.length, self._name)
        answer = Answer(request, on_change, streams)
        self.add(answer)
        return answer

    def score(
        self, prompts: Sequence[Sequence[int]], n_top: int = 0, on_change: Callable[[], None] | None = None
    ) -> ScoringJob:
        """Add prompts (token ids) whose tokens are to be scored, and return the job at once.

        Raises InputError for a prompt without tokens, or beyond a sequence's length; EngineError after `close`.
        """
        check_prompts(prompts, self.length, self._name)
        job = ScoringJob(prompts, n_top, on_change)
        self.add(job)
        return job

    def add(self, work: Answer | ScoringJob) -> None:
        """Add an answer or a job that was checked. Raises EngineError after `close`."""
        with self._lock:
            if self._is_closed:
                raise EngineError(f"{self.model.label}: the model was closed.")
            if isinstance(work, Answer):
                self._waiting.append(work)
            else:
                work.lam, work.label = self.lam, self.model.label
                self._jobs.append(work)
        work.watch(self._note_cancelled)
        if self.wake is not None:
            self.wake()

    def _note_cancelled(self) -> None:
        self._has_cancelled = True
        if self.wake is not None:
            self.wake()

    @property
    def answers(self) -> list[Answer]:
        """The answers that are running or waiting."""
        with self._lock:
            return [*(s.running.answer for s in self.sequences.running if s.running is not None), *self._waiting]

    def _unfinished(self) -> list[Answer | ScoringJob]:
        with self._lock:
            jobs = [*self._scorer.jobs, *self._jobs]
        return [*self.answers, *jobs]

    @property
    def n_waiting(self) -> int:
        """The number of requests that wait for a free sequence."""
        return len(self._waiting)

    @property
    def n_running(self) -> int:
        """The number of answers that have a sequence."""
        return len(self.sequences.running)

    @property
    def is_busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._waiting or self.sequences.running or self._jobs or self._scorer.is_busy)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let Ctrl-C, or a condition of `stops_when`, stop a running batch at its next graph node, during the block.

        Other threads cannot step meanwhile.
        """
        with self._stepping, ends_on_interrupt(self.context):
            yield

    def step(self) -> Step:
        """Start waiting requests, decode one batch and choose a token for each sequence with nothing left to decode.

        A failure of llama.cpp, or logits that are not finite, fail the answers that they concern, which are among those
        that the step ended. Raises StoppedError when an interrupt stopped the batch (see `interruptible`); nothing is
        lost then, and the next step continues.
        """
        with self._stepping:
            ended = self.drop_ended() if self._has_cancelled else []
            if self.sequences.has_gaps or (self._waiting and self.sequences.has_free()):
                self._start_waiting()
            n_tokens = self._advance(ended)
            return Step(ended, n_tokens, self._score_batch() if self._jobs or self._scorer.is_busy else ())

    def _advance(self, ended: list[Answer]) -> int:
        """Decode one batch of running answers; append those that it ended, and return the number of tokens chosen."""
        running = [s for s in self.sequences.running if s.source is None]
        if not running:
            return 0
        try:
            ready = self._decode(running)
        except StoppedError:
            raise
        except EngineError as e:
            ended += self._fail(running, e)
            return 0
        for sequence, row in ready:
            if (answer := self._take(sequence, row)) is not None:
                ended.append(answer)
        if self.sequences.has_sources:
            self.sequences.copy_shared()
        return len(ready)

    def _score_batch(self) -> list[ScoringJob]:
        """Decode one batch of prompts to score; return the jobs that it ended."""
        with self._lock:
            jobs, self._jobs = self._jobs, []
            for job in jobs:
                self._scorer.add(job)
        return self._scorer.step() if self._scorer.is_busy else []

    def forget(self) -> None:
        """Drop the tokens kept for conversations, as after a change of the weights. No answer may be running."""
        with self._stepping:
            assert not self.sequences.running
            self.sequences.forget()

    def drop_ended(self) -> list[Answer]:
        """Free the sequences of answers that were cancelled, and return these. Each step does so."""
        if not self._has_cancelled:
            return []
        with self._stepping:
            self._has_cancelled = False
            with self._lock:
                ended = [a for a in self._waiting if a.is_done]
                self._waiting = deque(a for a in self._waiting if not a.is_done)
                self._jobs = [job for job in self._jobs if not job.is_done]
                self._scorer.drop_ended()
            for sequence in self.sequences.running:
                if sequence.running is not None and sequence.running.answer.is_done:
                    ended.append(sequence.running.answer)
                    self.sequences.free(sequence)
        return ended

    def _start_waiting(self) -> None:
        """Start waiting requests in free sequences, and close gaps between running ones unless a list fills them."""
        while self._waiting and self.sequences.has_free():
            with self._lock:
                answer = self._waiting.popleft()
            answer.lam, answer.label = self.lam, self.model.label
            self.sequences.start(RunningAnswer(answer, self.context, self._pieces), list(answer.request.prompt))
        self.sequences.close_gaps()

    def _decode(self, running: Sequence[CachedSequence]) -> list[tuple[CachedSequence, int]]:
        """Decode one batch. Return the sequences with nothing left to decode, each with the row of its last token."""
        tokens: list[int] = []
        positions: list[int] = []
        numbers: list[int] = []
        ready: list[tuple[CachedSequence, int]] = []
        left = [len(s.tokens) - s.cached for s in running]
        parts = left if max(left) == 1 else self._parts(running)
        for sequence, n in zip(running, parts, strict=True):
            end = sequence.cached + n
            tokens += sequence.tokens[sequence.cached : end]
            positions += range(sequence.cached, end)
            numbers += [sequence.number] * n
            if end == len(sequence.tokens):
                ready.append((sequence, len(tokens) - 1))
        wanted = np.zeros(len(tokens), np.bool_)
        wanted[[row for _, row in ready]] = True
        try:
            self.context.decode(tokens, positions, numbers, numbers, wanted)
        except BaseException:
            self.sequences.restore(running)
            raise
        for sequence, n in zip(running, parts, strict=True):
            sequence.cached += n
        self.n_decoded += len(tokens)
        return ready

    def _parts(self, running: Sequence[CachedSequence]) -> list[int]:
        """Return how many tokens of each sequence to decode: 1 where 1 is left, and parts of prompts.

        Of the prompts of a list, the first come first. Otherwise half of what is left of the batch goes to the shortest
        prompts, so that they do not wait for long ones, and the rest to those that came first.
        """
        n_single = sum(s.left == 1 for s in running)
        room = self.context.n_batch - n_single
        if n_single and self.options.prompt_tokens:
            room = min(room, self.options.prompt_tokens)
        parts = {s.number: s.left for s in running if s.left == 1}
        prompts = [s for s in running if s.left > 1]
        shares = [(prompts, room)]
        if self.options.keeps:
            by_length = sorted(prompts, key=lambda s: s.left)
            shares = [(by_length, room // 2), (sorted(prompts, key=lambda s: s.used), room)]
        for order, limit in shares:
            for s in order:
                given = sum(parts.get(p.number, 0) for p in prompts)
                parts[s.number] = parts.get(s.number, 0) + min(s.left - parts.get(s.number, 0), limit - given)
        return [parts[s.number] for s in running]

    def _take(self, sequence: CachedSequence, row: int) -> Answer | None:
        """Choose a sequence's next token; return its answer if that has ended."""
        running = sequence.running
        assert running is not None
        try:
            token = running.take(row)
        except PaLiteError as e:
            running.answer.fail(e)
            token = None
        if token is not None:
            sequence.tokens.append(token)
            return None
        self.sequences.free(sequence)
        return running.answer

    def _fail(self, sequences: Sequence[CachedSequence], error: EngineError) -> list[Answer]:
        """End the answers of a batch that llama.cpp could not decode."""
        answers = []
        for sequence in sequences:
            assert sequence.running is not None
            sequence.running.answer.fail(error)
            answers.append(sequence.running.answer)
            self.sequences.free(sequence)
        return answers
