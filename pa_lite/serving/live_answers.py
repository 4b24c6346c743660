"""Answers while they are generated: one of a chat, or one at each of several lams. No terminal, no network."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pa_lite.engine.answer_text import OuterSpaces
from pa_lite.engine.answers import Piece
from pa_lite.engine.generation_options import GenerationOptions
from pa_lite.errors import CancelledError
from pa_lite.serving.host import Host, Prompt

STOPPED = "stopped"  # the finish reason of an answer that the user stopped


@dataclass(frozen=True, kw_only=True)
class ChatAnswer:
    """A finished answer, and the lam of its model (None for a file).

    `finish_reason` is `end` (the model ended its turn), `stop` (a stop string), `length` (the limit of new tokens, or
    the end of the context), `reasoning` (it ended within the reasoning), or `stopped` (by the user). `n_prompt` and
    `n_tokens` count the prompt's tokens and the generated ones, `n_reused` those of the prompt that were in memory.
    """

    text: str
    lam: float | None
    finish_reason: str
    reasoning: str = ""
    n_prompt: int = 0
    n_reused: int = 0
    n_tokens: int = 0


class LiveAnswer:
    """An answer that a host generates in another thread. One thread reads it.

    Its text has no white space at both ends.
    """

    def __init__(
        self,
        host: Host,
        prompt: Prompt,
        options: GenerationOptions,
        lam: float | None,
        *,
        stream: int = 0,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        """Start the answer; arguments are as for `Host.start`, and so are the errors."""
        self.lam = lam
        self._host, self._stripped = host, OuterSpaces()
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._is_stopped = False
        self._answer = host.start(prompt, options, lam=lam, stream=stream, on_change=on_change)

    @property
    def is_done(self) -> bool:
        """Whether the answer is complete, stopped or failed. Pieces may be left to take."""
        return self._answer.is_done

    @property
    def text(self) -> str:
        """The text that was read so far."""
        return "".join(self._text)

    @property
    def is_reasoning(self) -> bool:
        """Whether there is reasoning so far, and no text."""
        return any(self._reasoning) and not any(self._text)

    def _read(self, piece: Piece) -> Piece:
        text = self._stripped.feed(piece.text)
        self._text.append(text)
        self._reasoning.append(piece.reasoning)
        return Piece(text, piece.reasoning)

    def take(self) -> Piece:
        """Return what is new, without waiting; an empty piece if nothing is."""
        return self._read(self._answer.take())

    def pieces(self) -> Iterator[Piece]:
        """Yield the pieces as they come, until the answer is complete or stopped. Raises the error if it failed."""
        try:
            for piece in self._answer.pieces():
                if read := self._read(piece):
                    yield read
        except CancelledError:
            if not self._is_stopped:
                raise

    def stop(self) -> Piece:
        """Stop the answer, unless it is done, and return what was not read of it."""
        if not self._answer.is_done:
            self._is_stopped = True
            self._answer.cancel()
        return self.take()

    def result(self) -> ChatAnswer:
        """Return the answer, complete or stopped, waiting for its end. Raises the error if it failed."""
        try:
            made = self._answer.result()
        except CancelledError:
            if not self._is_stopped:
                raise
            n_tokens = len(self._host.tokenize(self.text, add_special=False))
            return self._finished(self.text, "".join(self._reasoning).strip(), STOPPED, n_tokens)
        return self._finished(made.text.strip(), made.reasoning, made.reason, made.n_tokens)

    def _finished(self, text: str, reasoning: str, reason: str, n_tokens: int) -> ChatAnswer:
        answer = self._answer
        return ChatAnswer(
            text=text, lam=self.lam, finish_reason=reason, reasoning=reasoning, n_prompt=answer.n_prompt,
            n_reused=answer.n_reused or 0, n_tokens=n_tokens,
        )  # fmt: skip


class LiveComparison:
    """The answers to one prompt at several lams, generated together as far as the models fit in memory."""

    def __init__(
        self,
        host: Host,
        question: str,
        prompt: Prompt,
        options: GenerationOptions,
        lams: Sequence[float],
        stream: int = 0,
    ) -> None:
        """Start an answer at each lam. `question` is only kept. Raises what `Host.start` raises."""
        self.question = question
        self._changed = threading.Event()
        self.answers: list[LiveAnswer] = []
        try:
            for lam in lams:
                self.answers.append(LiveAnswer(host, prompt, options, lam, stream=stream, on_change=self._changed.set))
        except BaseException:
            self.stop()
            raise

    @property
    def lams(self) -> list[float]:
        """The lams, in the order of the answers."""
        return [answer.lam for answer in self.answers if answer.lam is not None]

    @property
    def is_done(self) -> bool:
        """Whether all answers are complete, stopped or failed. Pieces may be left to take."""
        return all(answer.is_done for answer in self.answers)

    def wait(self, seconds: float) -> None:
        """Wait until an answer has something new, for at most `seconds`."""
        if self._changed.wait(seconds):
            self._changed.clear()

    def stop(self) -> None:
        """Stop all answers that are not done."""
        for answer in self.answers:
            answer.stop()

    def result(self) -> list[ChatAnswer]:
        """Return all answers, waiting for their end. Raises the error of one that failed; the others are stopped."""
        try:
            return [answer.result() for answer in self.answers]
        except BaseException:
            self.stop()
            raise
