"""Loglikelihoods of many continuations on one context: what requests share is decoded once.

The requests' token ids form a prefix tree. Its trunk, common to all, is decoded once and kept; the rest goes through
in batches of whole branches, a token that several branches share lying in all of their sequences (unified cache).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pa_lite.engine.model import Context, Model
from pa_lite.errors import EngineError, InputError

MAX_BRANCHES = 64  # sequences beside the trunk's


@dataclass(frozen=True)
class Request:
    """A continuation to score: token ids, of which the first n_context are given and the rest are to be predicted."""

    tokens: tuple[int, ...]
    n_context: int


@dataclass(frozen=True)
class Score:
    """ln p of a continuation in nats (<= 0), its number of tokens, and whether each was the likeliest."""

    logprob: float
    n_tokens: int
    is_greedy: bool


def make_requests(model: Model, context: str, continuations: Sequence[str]) -> list[Request]:
    """Tokenise as lm-eval does: blanks at the context's end move over, the whole is encoded, the context's ids cut off.

    BOS comes as the vocabulary has it; an empty context is the prefix token alone. Raises InputError for an empty
    continuation. Source: lm-eval, `TemplateLM._encode_pair`.
    """
    if not all(continuations):
        raise InputError(f"nothing to score behind {context[-40:]!r}: the continuation is empty.")
    if not context:
        start = [] if model.prefix_token is None else [model.prefix_token]
        return [Request((*start, *model.tokenize(c, add_special=False)), len(start)) for c in continuations]
    n_context = len(model.tokenize(context.rstrip()))
    return [Request(tuple(model.tokenize(context + c)), n_context) for c in continuations]


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    n = min(len(left), len(right))
    for i in range(n):
        if left[i] != right[i]:
            return i
    return n


@dataclass
class _Branches:
    """Part of the prefix tree as one list of tokens, parents before children."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    first: list[int] = field(default_factory=list)  # sequences first..last hold the token
    last: list[int] = field(default_factory=list)
    stack: list[int] = field(default_factory=list)  # the newest path's tokens, as places in the lists
    targets: dict[int, list[tuple[int, int]]] = field(default_factory=dict)  # place -> (request, predicted token)

    def add(self, path: Sequence[int], shared: int, start: int, sequence: int) -> None:
        """Append a path (behind `start` trunk tokens) of which `shared` tokens are the newest path's own."""
        del self.stack[shared:]
        for depth in range(shared, len(path)):
            self.stack.append(len(self.tokens))
            self.tokens.append(path[depth])
            self.positions.append(start + depth)
            self.first.append(sequence)
            self.last.append(sequence)
        for place in self.stack:
            self.last[place] = sequence


class Scorer:
    """Scores lists of requests on one context; results come in the requests' order."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._logprobs: list[float] = []
        self._greedy: list[bool] = []

    def score(self, requests: Sequence[Request], progress: Callable[[int, int], None] | None = None) -> list[Score]:
        """Sum of ln p(token | all before it) over each continuation. `progress` gets (requests done, requests in all).

        Raises EngineError if a request has more tokens than the context (nothing is cut), or nothing to condition on.
        """
        self._check(requests)
        self._logprobs = [0.0] * len(requests)
        self._greedy = [True] * len(requests)
        self.context.clear()
        order = sorted(range(len(requests)), key=lambda r: requests[r].tokens)
        paths = {r: requests[r].tokens[:-1] for r in order}
        trunk = paths[order[0]][: _common(paths[order[0]], paths[order[-1]])] if order else ()
        trunk_part = _Branches()
        trunk_part.add(trunk, 0, 0, 0)
        for r in order:
            self._aim(trunk_part, r, requests[r], 0, len(trunk))
        self._run(trunk_part)

        done = 0
        while done < len(order):
            part, taken = self._next_branches(order[done:], paths, len(trunk), requests)
            n_branches = max(part.last, default=0)  # none when all of it is the trunk
            self.context.share(0, range(1, n_branches + 1))
            self._run(part)
            for sequence in range(1, n_branches + 1):
                self.context.forget(sequence)
            done += taken
            if progress is not None:
                progress(done, len(order))
        return [
            Score(logprob, len(r.tokens) - r.n_context, greedy)
            for r, logprob, greedy in zip(requests, self._logprobs, self._greedy, strict=True)
        ]

    def _check(self, requests: Sequence[Request]) -> None:
        for r in requests:
            if r.n_context < 1:
                raise EngineError("a request has no token before its continuation: the model has no BOS token.")
            if len(r.tokens) > self.context.n_ctx:
                raise EngineError(
                    f"a request has {len(r.tokens)} tokens, the context holds {self.context.n_ctx}. Use fewer shots."
                )

    def _next_branches(
        self, order: Sequence[int], paths: dict[int, tuple[int, ...]], start: int, requests: Sequence[Request]
    ) -> tuple[_Branches, int]:
        """As many requests as go into one batch (at least one), and how many these are."""
        part, previous, sequence = _Branches(), None, 0
        room = min(self.context.n_batch, self.context.n_ctx - start)
        for taken, r in enumerate(order):
            path = paths[r][start:]
            shared = _common(previous, path) if previous is not None else 0
            is_new = previous is None or path != previous
            full = sequence == self.context.n_seq_max - 1 or len(part.tokens) + len(path) - shared > room
            if is_new and previous is not None and full:
                return part, taken
            if is_new:
                sequence += 1
                part.add(path, shared, start, sequence)
            self._aim(part, r, requests[r], start, start + len(path))
            previous = path
        return part, len(order)

    @staticmethod
    def _aim(part: _Branches, r: int, request: Request, start: int, stop: int) -> None:
        """Note which places of the newest path, trunk tokens start..stop, predict tokens of the request."""
        for j in range(max(request.n_context, start + 1), min(len(request.tokens), stop + 1)):
            place = part.stack[j - 1 - start]
            part.targets.setdefault(place, []).append((r, request.tokens[j]))

    def _run(self, part: _Branches) -> None:
        """Decode, a batch at a time, and add up the predicted tokens' logprobs."""
        context, n = self.context, len(part.tokens)
        sequences = [range(a, b + 1) for a, b in zip(part.first, part.last, strict=True)]
        wanted = np.zeros(n, np.bool_)
        wanted[list(part.targets)] = True
        for begin in range(0, n, context.n_batch):
            piece = slice(begin, begin + context.n_batch)
            context.decode(part.tokens[piece], part.positions[piece], sequences[piece], wanted[piece])
            for place in np.flatnonzero(wanted[piece]):
                logits = context.logits(int(place))
                normaliser, best = context.log_normaliser(logits), int(logits.argmax())
                for r, token in part.targets[begin + int(place)]:
                    self._logprobs[r] += float(logits[token]) - normaliser
                    self._greedy[r] = self._greedy[r] and token == best


def score_requests(
    model: Model, requests: Sequence[Request], progress: Callable[[int, int], None] | None = None
) -> list[Score]:
    """Score on a fresh context just large enough: the longest request, or the trunk and a full batch.

    Raises EngineError when a request is longer than the model's trained context.
    """
    longest = max((len(r.tokens) for r in requests), default=1)
    if longest > model.n_ctx_train:
        raise EngineError(
            f"a request has {longest} tokens, {model.name} was trained on {model.n_ctx_train}. Use fewer shots."
        )
    with model.context(longest + model.options.n_batch, MAX_BRANCHES + 1) as context:
        return Scorer(context).score(requests, progress)
