"""Choose the tokens of one answer from logits, and collect its text and logprobs."""

from __future__ import annotations

import math

import numpy as np

from pa_lite.engine.answer_text import AnswerText, Generation, StopText
from pa_lite.engine.answers import Answer, Piece, TokenLogprob
from pa_lite.engine.context import Context
from pa_lite.engine.sampling import draw
from pa_lite.ggml.kernels import FloatArray


class RunningAnswer:
    """An answer that is being generated: its text so far, its random numbers, and its tokens."""

    def __init__(self, answer: Answer, context: Context, pieces: dict[int, bytes]) -> None:
        """Start with an empty text. `pieces` caches the bytes of tokens."""
        self.answer, self._context, self._pieces = answer, context, pieces
        request, self._options = answer.request, answer.request.options
        stops, reasoning = self._options.stop, request.reasoning
        self._text = StopText(stops) if reasoning is None else AnswerText(stops, reasoning)
        self._n_made = 0
        self._logprobs: list[TokenLogprob] = []
        self._random: np.random.Generator | None = None
        if self._options.temperature > 0:
            self._random = np.random.default_rng((self._options.seed, request.stream))

    def take(self, row: int) -> int | None:
        """Choose the next token from a row of logits and publish what is new; return None if the answer has ended.

        Raises EngineError for logits that are not finite.
        """
        context, model = self._context, self._context.model
        logits = context.logits(row)
        token = int(logits.argmax())
        if not math.isfinite(logits[token]):  # NaN counts as the largest
            raise context.broken()
        if self._random is not None:
            o = self._options
            token = draw(logits, o.temperature, o.top_k, o.top_p, o.min_p, self._random.random())
        is_end = model.is_end(token) and not self._text.ends_reasoning(token)
        if is_end:
            self.answer.end_token = token
        reason = "end" if is_end else self._append(token, logits)
        if reason:
            self._finish(self._text.result(self._n_made, reason))
        elif self.answer.streams and (piece := self._fresh()):
            self.answer.add(piece)
        return None if reason else token

    def _append(self, token: int, logits: FloatArray) -> str:
        """Add a token to the text; return why the text ends with it, or an empty string."""
        self._n_made += 1
        spelled = self._text.piece(token)
        piece = self._piece(token) if spelled is None else spelled
        if self.answer.request.logprobs is not None:
            self._logprobs.append(self._logprob(token, piece, logits, self.answer.request.logprobs))
        if self._text.add(piece):
            return "stop"
        return "length" if self._n_made == self._options.max_tokens else ""

    def _piece(self, token: int) -> bytes:
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._context.model.piece(token)
        return piece

    def _logprob(self, token: int, piece: bytes, logits: FloatArray, n_top: int) -> TokenLogprob:
        normaliser = self._context.log_normaliser(logits)
        best = most_likely(logits, n_top)
        top = tuple((i, float(logits[i]) - normaliser) for i in best)
        return TokenLogprob(token=token, piece=piece, logprob=float(logits[token]) - normaliser, top=top)

    def _fresh(self, is_done: bool = False) -> Piece:
        logprobs, self._logprobs = self._logprobs, []
        return Piece(self._text.fresh(is_done), self._text.fresh_reasoning(), tuple(logprobs))

    def _finish(self, result: Generation) -> None:
        streams = self.answer.streams or self.answer.request.logprobs is not None
        self.answer.finish(result, self._fresh(is_done=True) if streams else Piece())


def most_likely(logits: FloatArray, n: int) -> list[int]:
    """Return the ids of the n most likely tokens, most likely first, the lower id first among equals."""
    if n <= 0:
        return []
    n = min(n, len(logits))
    least = np.partition(logits, -n)[-n]
    ids = np.flatnonzero(logits >= least)  # more than n only if several equal the n-th
    return [int(i) for i in ids[np.argsort(-logits[ids], kind="stable")][:n]]
