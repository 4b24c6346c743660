"""Requests for generation, and their answers, which any thread can read while another one generates them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from pa_lite.engine.answer_text import Generation
from pa_lite.engine.generation_options import GenerationOptions
from pa_lite.engine.reasoning import ReasoningFormat
from pa_lite.errors import CancelledError, EngineError, PaLiteError

_log = logging.getLogger(__name__)


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


class Answer:
    """The answer to one request. Any thread may read or cancel it; a scheduler writes it.

    `n_reused` is the number of the prompt's tokens that were not decoded again, `lam` the lam of the model, and `label`
    its name. The three are known once the answer has started (None and "" before). `end_token` is the token by which
    the model ended its turn, None before, and where it did not.
    """

    def __init__(
        self, request: GenerationRequest, on_change: Callable[[], None] | None = None, streams: bool = True
    ) -> None:
        """Prepare an answer without pieces.

        `on_change` is called in the scheduler's thread, without locks, after new pieces and at the end; it must be
        quick. An answer that does not stream has at most one piece, at its end.
        """
        self.request, self.streams = request, streams
        self.n_reused: int | None = None
        self.lam: float | None = None
        self.label = ""
        self.end_token: int | None = None
        self._on_change = on_change
        self._on_cancel: Callable[[], None] | None = None
        self._lock = threading.Lock()
        self._changed: threading.Event | None = None  # made by the first reader that waits
        self._pieces: list[Piece] = []
        self._result: Generation | None = None
        self._error: PaLiteError | None = None

    @property
    def n_prompt(self) -> int:
        """The number of tokens in the prompt."""
        return len(self.request.prompt)

    @property
    def is_done(self) -> bool:
        """Whether the answer is complete, cancelled or failed. Pieces may be left to take."""
        return self._result is not None or self._error is not None

    @property
    def error(self) -> PaLiteError | None:
        """The error of an answer that was cancelled or failed, else None."""
        return self._error

    def cancel(self) -> None:
        """Stop the answer at the next step, unless it is done."""
        self.fail(CancelledError("the answer was cancelled."))
        if self._on_cancel is not None:
            self._on_cancel()

    def watch(self, on_cancel: Callable[[], None]) -> None:
        """Have `on_cancel` called after a cancellation, at once if it was before. For schedulers."""
        self._on_cancel = on_cancel
        if self.is_done:
            on_cancel()

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

    def result(self, timeout: float | None = None) -> Generation:
        """Return the complete answer, waiting for another thread to generate it.

        Raises CancelledError if it was cancelled, the error if it failed, EngineError after `timeout` seconds.
        """
        if not self._wait(lambda: self.is_done, timeout):
            raise EngineError(f"the answer is not complete after {timeout:g} seconds.")
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def _wait(self, is_ready: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until `is_ready` returns true; return False after `timeout` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        while not is_ready():
            with self._lock:
                if is_ready():
                    break
                changed = self._changed = self._changed or threading.Event()
                changed.clear()
            if not changed.wait(None if end is None else max(0.0, end - time.monotonic())):
                return is_ready()
        return True

    def _note_change(self) -> None:
        """Wake the readers that wait. The lock is held."""
        if self._changed is not None:
            self._changed.set()

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
            if self.is_done:
                return
            if piece:
                self._pieces.append(piece)
            self._result = result
            self._note_change()
        self._notify()

    def fail(self, error: PaLiteError) -> None:
        """End the answer with an error, unless it is done. For schedulers."""
        with self._lock:
            if self.is_done:
                return
            self._error = error
            self._note_change()
        self._notify()

    def _notify(self) -> None:
        if self._on_change is None:
            return
        try:
            self._on_change()
        except Exception:  # noqa: BLE001 - the reader is gone, for example its event loop is closed
            _log.debug("a reader of an answer failed", exc_info=True)
            self._on_change = None
            self.cancel()
