"""Requests for generation, and their answers, which any thread can read while another one generates them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from pa_lite.engine.answer_text import Generation
from pa_lite.engine.generation_options import GenerationOptions
from pa_lite.engine.pending import Pending
from pa_lite.engine.reasoning import ReasoningFormat
from pa_lite.errors import EngineError, InputError


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """A prompt (token ids) to continue.

    Of the options, all but `parallel` count. `stream` is the number of the prompt's random stream: answers to equal
    prompts with the same seed differ if their streams differ. `reasoning` separates reasoning from the answer; without
    it, everything is text. `logprobs` asks for the logprob of each generated token, and of this many most likely ones.
    """

    prompt: Sequence[int]
    options: GenerationOptions = field(default_factory=GenerationOptions)
    stream: int = 0
    reasoning: ReasoningFormat | None = None
    logprobs: int | None = None


@dataclass(frozen=True, kw_only=True)
class TokenLogprob:
    """A generated token, its bytes, and its ln p in nats at temperature 1, before top-k, top-p and min-p.

    `top` has the most likely tokens (id, ln p), most likely first. The chosen one may be missing there.
    """

    token: int
    piece: bytes
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """A new part of an answer: text, reasoning, and the logprobs of the tokens generated since the last part.

    Texts end between characters. Text that may be the start of a stop string is held back until that is decided, so
    a piece can have tokens without text.
    """

    text: str = ""
    reasoning: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.text or self.reasoning or self.logprobs)


class Answer(Pending[Generation]):
    """The answer to one request. Any thread may read or cancel it; a scheduler writes it.

    `n_reused` is the number of the prompt's tokens that were not decoded again (None before the answer has started).
    `end_token` is the token by which the model ended its turn, None before, and where it did not. Pieces may be left to
    take when it is done.
    """

    what = "the answer"

    def __init__(
        self, request: GenerationRequest, on_change: Callable[[], None] | None = None, streams: bool = True
    ) -> None:
        """Prepare an answer without pieces.

        `on_change` is called in the scheduler's thread, without locks, after new pieces and at the end; it must be
        quick. An answer that does not stream has at most one piece, at its end.
        """
        super().__init__(on_change)
        self.request, self.streams = request, streams
        self.n_reused: int | None = None
        self.end_token: int | None = None
        self._pieces: list[Piece] = []

    @property
    def n_prompt(self) -> int:
        """The number of tokens in the prompt."""
        return len(self.request.prompt)

    def take(self) -> Piece:
        """Return all that is new since the last call, without waiting; an empty piece if nothing is."""
        with self._lock:
            return self._taken()

    def _taken(self) -> Piece:
        taken, self._pieces = self._pieces, []
        if len(taken) == 1:
            return taken[0]
        text, reasoning = "".join(p.text for p in taken), "".join(p.reasoning for p in taken)
        return Piece(text, reasoning, tuple(entry for p in taken for entry in p.logprobs))

    def pieces(self, timeout: float | None = None) -> Iterator[Piece]:
        """Yield the pieces as they come, while another thread runs the scheduler.

        Raises at the end what `result` raises; EngineError if no piece comes for `timeout` seconds.
        """
        while True:
            if not self._wait(lambda: bool(self._pieces) or self.is_done, timeout):
                raise EngineError(f"no token came for {timeout:g} seconds.")
            with self._lock:
                piece, done = self._taken(), self.is_done
            if piece:
                yield piece
            if done:
                self.result()
                return

    def add(self, piece: Piece) -> None:
        """Append a piece. For schedulers."""
        with self._lock:
            if self.is_done:
                return
            self._pieces.append(piece)
            self._note_change()
        self._notify()

    def finish(self, result: Generation, piece: Piece) -> None:
        """Complete the answer with its last piece. For schedulers."""
        with self._lock:
            if piece and not self.is_done:
                self._pieces.append(piece)
        self.complete(result)


def check_request(request: GenerationRequest, length: int, model: str) -> None:
    """Raise InputError for a prompt without tokens, or one that with its limit exceeds a length."""
    n, limit = len(request.prompt), request.options.max_tokens
    if not n:
        raise InputError("the prompt has no tokens.")
    if n + limit > length:
        raise too_long(model, "the prompt", n, limit, length)


def too_long(model: str, name: str, n: int, limit: int, length: int) -> InputError:
    """Return the error for a prompt of n tokens that with `limit` new ones exceeds the length of a model's context."""
    return InputError(
        f"{name} has {n} tokens; with {limit} new ones they exceed the context of "
        f"{model}, {length} tokens. Use a smaller --max-tokens or leave the prompt out."
    )
