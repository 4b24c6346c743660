"""Score every token of prompts on the scoring path, a batch at a time, in turn with the generation of answers."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pa_lite.engine.answers import TokenLogprob
from pa_lite.engine.context import Context
from pa_lite.engine.interrupts import ends_on_interrupt
from pa_lite.engine.model import Model
from pa_lite.engine.pending import Pending
from pa_lite.engine.requests import Request
from pa_lite.engine.scoring import Predicted, Scorer, scoring_context
from pa_lite.engine.token_choice import most_likely
from pa_lite.errors import InputError, PaLiteError, StoppedError

_PORTION = 4096  # tokens of the prompts that are scored together; prefixes that they share are decoded once
_UNKNOWN = 0  # stands for the token after a prompt, which is predicted but not given


@dataclass(frozen=True, kw_only=True)
class PromptScore:
    """The logprobs of a prompt's tokens: None for the first, which nothing predicts.

    `following` is the most likely token after the prompt. The chosen token is always among the `top` of a logprob,
    where tokens were asked for.
    """

    tokens: tuple[TokenLogprob | None, ...]
    following: TokenLogprob


class ScoringJob(Pending[list[PromptScore]]):
    """The scores of a list of prompts (token ids), with the `n_top` most likely tokens at each position."""

    what = "the scoring"

    def __init__(
        self, prompts: Sequence[Sequence[int]], n_top: int = 0, on_change: Callable[[], None] | None = None
    ) -> None:
        super().__init__(on_change)
        self.prompts, self.n_top = prompts, n_top
        self.found: dict[int, PromptScore] = {}  # by index, for the scheduler


class PromptScorer:
    """The scoring jobs of one model. `step` decodes one batch of them, so that other work can take turns."""

    def __init__(self, model: Model) -> None:
        """Open no context yet; one is open while there are jobs, in addition to that of answers."""
        self._model = model
        self._waiting: deque[tuple[ScoringJob, int]] = deque()  # a job and the index of its prompt
        self._portion: list[tuple[ScoringJob, int]] = []
        self._running: Iterator[None] | None = None
        self._context: Context | None = None
        self._closing = contextlib.ExitStack()
        self.n_decoded = 0  # tokens, of finished portions; those of shared prefixes count for each prompt

    @property
    def is_busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._waiting or self._portion)

    @property
    def jobs(self) -> list[ScoringJob]:
        """The jobs that are not done, in order."""
        return list(dict.fromkeys(job for job, _ in (*self._portion, *self._waiting)))

    def add(self, job: ScoringJob) -> None:
        """Append a job."""
        self._waiting.extend((job, i) for i in range(len(job.prompts)))

    def drop_ended(self) -> list[ScoringJob]:
        """Drop jobs that were cancelled or failed, and return them; a portion of only such jobs is stopped."""
        ended = [job for job in self.jobs if job.is_done]
        self._waiting = deque(each for each in self._waiting if not each[0].is_done)
        if all(job.is_done for job, _ in self._portion):
            self._end_portion()
        return ended

    def close(self) -> None:
        """Free the context. Jobs that are not done stay so."""
        self._end_portion()
        self._closing.close()
        self._context = None

    def step(self) -> list[ScoringJob]:
        """Decode one batch; return the jobs that it ended. Raises StoppedError when an interrupt stopped it.

        Errors of llama.cpp fail the jobs that they concern.
        """
        if self._running is None:
            self._begin_portion()
        assert self._running is not None
        ended: list[ScoringJob] = []
        try:
            next(self._running)
        except StopIteration:
            self.n_decoded += sum(len(job.prompts[i]) for job, i in self._portion)
            ended = [job for job in dict.fromkeys(job for job, _ in self._portion) if self._completed(job)]
            self._end_portion()
        except StoppedError:  # nothing is lost: the portion is scored again
            self._waiting.extendleft(reversed(self._portion))
            self._end_portion()
            raise
        except PaLiteError as e:
            ended = list(dict.fromkeys(job for job, _ in self._portion))
            for job in ended:
                job.fail(e)
            self._end_portion()
            self.drop_ended()
        if not self.is_busy:
            self.close()
        return ended

    def _completed(self, job: ScoringJob) -> bool:
        """Complete a job whose prompts are all scored; return whether it is done."""
        if len(job.found) == len(job.prompts):
            job.complete([job.found[i] for i in range(len(job.prompts))])
        return job.is_done

    def _begin_portion(self) -> None:
        n_tokens = 0
        while self._waiting and (not self._portion or n_tokens < _PORTION):
            self._portion.append(self._waiting.popleft())
            job, i = self._portion[-1]
            n_tokens += len(job.prompts[i])
        self._running = self._score()

    def _end_portion(self) -> None:
        self._portion, self._running = [], None

    def _score(self) -> Iterator[None]:
        """Score the portion, pausing after each batch."""
        prompts = [job.prompts[i] for job, i in self._portion]
        requests = [Request((*prompt, _UNKNOWN), 1) for prompt in prompts]
        found: list[list[TokenLogprob | None]] = [[None] * (len(prompt) + 1) for prompt in prompts]
        context = self._context_for(max(map(len, prompts)))
        predictions = Scorer(context).predictions(requests)
        while True:
            with ends_on_interrupt(context):
                predicted = next(predictions, None)
            if predicted is None:
                break
            self._note(predicted, found)
            yield
        for (job, i), tokens in zip(self._portion, found, strict=True):
            *given, following = tokens
            assert following is not None
            job.found[i] = PromptScore(tokens=tuple(given), following=following)

    def _context_for(self, longest: int) -> Context:
        """Return a context for prompts of up to `longest` tokens: the present one if it is large enough."""
        if self._context is None or self._context.n_ctx < longest:
            self._closing.close()
            self._context = None
            self._context = self._closing.enter_context(scoring_context(self._model, longest))
        return self._context

    def _note(self, batch: Predicted, found: list[list[TokenLogprob | None]]) -> None:
        """Write the logprobs that a batch predicted to their places in `found`."""
        for k, (request, position) in enumerate(zip(batch.requests.tolist(), batch.positions.tolist(), strict=True)):
            job, i = self._portion[request]
            logits, normaliser = batch.logits[batch.rows[k]], float(batch.normalisers[k])
            is_given = position < len(job.prompts[i])
            token = int(batch.tokens[k]) if is_given else int(batch.best[k])
            top = most_likely(logits, job.n_top)
            if job.n_top and token not in top:
                top.append(token)
            found[request][position] = TokenLogprob(
                token=token, piece=self._model.piece(token), logprob=float(logits[token]) - normaliser,
                top=tuple((each, float(logits[each]) - normaliser) for each in top),
            )  # fmt: skip


def check_prompts(prompts: Sequence[Sequence[int]], length: int, model: str) -> None:
    """Raise InputError for no prompts, and for a prompt without tokens or with more than `length`."""
    if not prompts:
        raise InputError("there is nothing to score.")
    for number, prompt in enumerate(prompts, 1):
        if not prompt:
            raise InputError(f"prompt {number} has no tokens.")
        if len(prompt) > length:
            raise InputError(
                f"prompt {number} has {len(prompt)} tokens, which exceed the context of {model}, {length} tokens."
            )
