"""Compute loglikelihoods of many continuations; prefixes that requests share are decoded once.

`pa_lite.engine.prefix_tree` plans the batches; this module runs them and reads the logits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pa_lite.engine.context import Context
from pa_lite.engine.context_memory import ContextSize, first_that_fits, shrinking
from pa_lite.engine.interrupts import ends_on_interrupt
from pa_lite.engine.model import Model
from pa_lite.engine.prefix_tree import SPINE, Batch, BatchLimits, plan_batches
from pa_lite.engine.requests import Request, make_requests, rolling_requests, truncate
from pa_lite.errors import EngineError
from pa_lite.ggml.kernels import FloatArray
from pa_lite.progress import Progress

__all__ = [
    "NoiseFloor",
    "Request",
    "Score",
    "Scorer",
    "make_requests",
    "noise_floor",
    "rolling_requests",
    "score_requests",
    "scoring_context",
]
Finished = Callable[[int, "Score"], None]
_BRANCHES = 63  # sequences in addition to the spine; llama.cpp holds a row of logits for each
_CPU_BATCH = 128  # enough for a CPU; every token computes attention over the whole batch, mostly other branches
_ROW_BYTES = 48 << 20  # of logits kept in a batch; llama.cpp holds them twice


@dataclass(frozen=True, kw_only=True)
class Score:
    """The score of a continuation: ln p in nats (<= 0), its tokens and bytes.

    `n_greedy` counts the tokens that were the most likely ones. `truncated` is set if the context was cut at the left
    to fit.
    """

    logprob: float
    n_tokens: int
    n_bytes: int
    n_greedy: int
    truncated: bool = False

    @property
    def is_greedy(self) -> bool:
        """Whether every token was the most likely one."""
        return self.n_greedy == self.n_tokens


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What a batch predicted: ln p in nats of `tokens`, each at `positions` (indices) of `requests` (indices).

    `best` are the most likely tokens there. Row `rows[i]` of `logits`, a view until the next batch, is the one for
    target i, and `normalisers[i]` is its ln(sum(exp(logits))). After the batch, `done` requests are complete.
    """

    requests: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]
    tokens: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float64]
    best: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    logits: FloatArray
    normalisers: npt.NDArray[np.float64]
    done: int


class Scorer:
    """Scores lists of requests on one context."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def score(
        self, requests: Sequence[Request], progress: Progress | None = None, finished: Finished | None = None
    ) -> list[Score]:
        """Return the score of each continuation, in order: the sum of ln p(token | all tokens before it).

        `finished` gets the index and score of each request as soon as it is complete; then `progress` gets the
        requests done.

        Scores do not depend on the order of the requests, nor on what was scored before, to the last bit. They do
        depend on the set of requests, as the shape of a batch changes rounding. Raises EngineError if a request has
        more tokens than the context (nothing is cut) or no context token, and for a model that computes NaN;
        KeyboardInterrupt on Ctrl-C, even during a batch.
        """
        logprobs = np.zeros(len(requests))
        n_greedy = np.zeros(len(requests), np.int64)

        def result(i: int) -> Score:
            r = requests[i]
            return Score(
                logprob=float(logprobs[i]),
                n_tokens=len(r.tokens) - r.n_context,
                n_bytes=r.n_bytes,
                n_greedy=int(n_greedy[i]),
            )

        # requests become complete in the order of the tree
        order = sorted(range(len(requests)), key=lambda i: requests[i].tokens) if finished else []
        done = 0
        with ends_on_interrupt(self.context):
            for found in self.predictions(requests):
                np.add.at(logprobs, found.requests, found.logprobs)
                np.add.at(n_greedy, found.requests, found.best == found.tokens)
                if finished is not None:
                    for i in order[done : found.done]:
                        finished(i, result(i))
                done = found.done
                if progress is not None:
                    progress("score", done, len(requests), "requests")
        return [result(i) for i in range(len(requests))]

    def predictions(self, requests: Sequence[Request]) -> Iterator[Predicted]:
        """Decode batch after batch and yield what each predicted of the requests' continuations.

        Raises what `score` raises. After an interrupt between two batches, the batches to come are missing.
        """
        context = self.context
        self._check(requests)
        # With a sliding window, a later micro-batch may overwrite cells that have left its sequence's window, although
        # the next branch still needs them. Within one micro-batch that cannot happen, and cells of the spine are kept
        # by the spine's sequence.
        n_tokens = context.n_ubatch if context.model.n_swa else context.n_batch
        limits = BatchLimits(
            tokens=n_tokens, branches=context.n_seq_max - 1, rows=context.n_outputs, cells=context.n_ctx
        )
        context.clear()
        for batch in plan_batches(requests, limits):
            yield self._run(batch)
            self._advance(batch)

    def _check(self, requests: Sequence[Request]) -> None:
        n_ctx = self.context.n_ctx
        for r in requests:
            if r.n_context < 1:
                raise EngineError("a request has no token before its continuation, as the model has no BOS token.")
            if r.n_context >= len(r.tokens):
                raise EngineError(f"a request of {len(r.tokens)} tokens has no token to predict.")
            if len(r.tokens) - 1 > n_ctx:
                raise EngineError(f"a request has {len(r.tokens)} tokens, the context holds {n_ctx}. Use fewer shots.")

    def _run(self, batch: Batch) -> Predicted:
        """Decode a batch and read the logits of its targets."""
        context = self.context
        for branch, shared in enumerate(batch.shared, 1):
            context.share(SPINE, [branch], shared)
        context.decode(batch.tokens, batch.positions, batch.first, batch.last, batch.wanted)
        n_rows = int(batch.wanted.sum())
        logits = context.logit_rows(n_rows) if n_rows else np.zeros((0, context.model.n_vocab), np.float32)
        normalisers, best = context.normalise(logits)
        rows = (np.cumsum(batch.wanted) - 1)[batch.target_rows]
        logprobs = logits[rows, batch.target_tokens].astype(np.float64) - normalisers[rows]
        if not np.isfinite(logprobs).all():
            raise context.broken()
        return Predicted(
            requests=batch.target_requests, positions=batch.positions[batch.target_rows] + 1,
            tokens=batch.target_tokens, logprobs=logprobs, best=best[rows], rows=rows, logits=logits,
            normalisers=normalisers[rows], done=batch.done,
        )  # fmt: skip

    def _advance(self, batch: Batch) -> None:
        """Prepare the spine for the next batch."""
        context = self.context
        context.forget(SPINE)
        if batch.keep:
            context.share(len(batch.shared), [SPINE], batch.keep)
        for branch in range(1, len(batch.shared) + 1):
            context.forget(branch)


@contextlib.contextmanager
def scoring_context(model: Model, longest: int) -> Iterator[Context]:
    """Open a context for requests of up to `longest` decoded tokens, with room for a full batch, memory permitting.

    Where memory is short, first the extra cells for a batch are dropped; then the cache becomes F16 (if its type is
    "auto"), which moves scores further from those of a request alone; then batches become smaller. Raises EngineError
    when there is no memory for the smallest of these.
    """
    if not model.can_rewind:
        raise EngineError(f"{model.label}: a recurrent model's memory cannot be shared between requests.")

    def sizes_of(cache_type: str, n_batch: int) -> list[ContextSize]:
        n_seq_max = min(_BRANCHES + 1, n_batch)
        n_outputs = min(n_batch, max(n_seq_max, _ROW_BYTES // (4 * model.n_vocab)))
        return [
            ContextSize(
                n_ctx=longest + beside,
                n_seq_max=n_seq_max,
                unified=True,
                n_batch=n_batch,
                n_outputs=n_outputs,
                cache_type=cache_type,
            )
            for beside in (n_batch, n_batch // 4, 0)
        ]

    n_batch = model.options.n_batch if model.gpu_layers else min(model.options.n_batch, _CPU_BATCH)
    sizes = shrinking(sizes_of, model.cache_type(True), model.options.cache_type == "auto", n_batch)
    advice = "Allow a shorter context (--n-ctx), use fewer shots, or take a smaller model or type."
    with first_that_fits(model, sizes, advice) as context:
        yield context


def _cut(model: Model, requests: Sequence[Request]) -> list[Request]:
    return [truncate(r, model.max_length) for r in requests]


def score_requests(
    model: Model, requests: Sequence[Request], progress: Progress | None = None, finished: Finished | None = None
) -> list[Score]:
    """Score requests on a new context, in order; for `progress` and `finished` see `Scorer.score`.

    A request longer than `model.max_length` is cut at the left, as lm-eval does, and its score is marked `truncated`.
    Raises EngineError when the longest request does not fit in memory, or a continuation alone is too long.
    """
    if not requests:
        return []
    cut = _cut(model, requests)
    with scoring_context(model, max(len(r.tokens) for r in cut) - 1) as context:
        scores = Scorer(context).score(cut, progress, finished)
    return [replace(s, truncated=a is not b) for s, a, b in zip(scores, requests, cut, strict=True)]


@dataclass(frozen=True)
class NoiseFloor:
    """How far scores depend on the shape of batches: |batched - alone| in nats, over n rescored requests."""

    n: int
    mean: float
    largest: float


def noise_floor(model: Model, requests: Sequence[Request], scores: Sequence[Score], sample: int = 8) -> NoiseFloor:
    """Score a sample of requests again, evenly spread and each alone, and compare with their scores in batches.

    Costs as much as `sample` whole prompts. Smaller differences between models are rounding.
    """
    n = min(sample, len(requests))
    if n == 0:
        return NoiseFloor(0, 0.0, 0.0)
    picked = [i * len(requests) // n for i in range(n)]
    cut = _cut(model, [requests[i] for i in picked])
    with scoring_context(model, max(len(r.tokens) for r in cut) - 1) as context:
        alone = [Scorer(context).score([r])[0].logprob for r in cut]
    moved = [abs(a - scores[i].logprob) for a, i in zip(alone, picked, strict=True)]
    return NoiseFloor(n, sum(moved) / n, max(moved))
