"""Collect what a model writes, token by token: separate reasoning, cut at stop strings. Runs no model."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

from pa_lite.engine.reasoning import ReasoningFormat

_REASONS = ("end", "stop", "length", "reasoning")
_MOST_TOKENS = 1 << 31  # in one answer


@dataclass(frozen=True, kw_only=True)
class Generation:
    """The continuation of a prompt.

    `text` is the answer, `reasoning` what the model wrote before it. `n_tokens` counts the generated tokens, including
    those of a stop string, without the end token. `ended` is set if the model ended its turn itself. `reason` is `end`
    (it did), `stop` (a stop string was found), `length` (the limit was reached) or `reasoning` (the model ended its
    turn before its reasoning was complete).
    """

    text: str
    n_tokens: int
    ended: bool
    reason: str
    reasoning: str = ""

    def is_possible(self) -> bool:
        """Return whether a model can have generated this; it may come from a file that was edited."""
        is_count = not isinstance(self.n_tokens, bool) and 0 <= self.n_tokens <= _MOST_TOKENS
        return is_count and self.reason in _REASONS and self.ended == (self.reason == "end")


class StopText:
    """A turn without reasoning, built from the bytes of tokens until it contains a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [s.encode("utf-8") for s in stops]
        self._reach = max(map(len, self._stops), default=1) - 1  # bytes before a new piece to search
        self._raw = bytearray()
        self._shown, self._decoder_of_shown = 0, codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, piece: bytes) -> bool:
        """Append a piece; return True if the text now contains a stop string, before which it is cut."""
        start = max(0, len(self._raw) - self._reach)
        self._raw += piece
        places = [at for stop in self._stops if (at := self._raw.find(stop, start)) >= 0]
        if places:
            del self._raw[min(places) :]
        return bool(places)

    def fresh(self, is_done: bool = False) -> str:
        """Return the new text that no stop string can cut any more; with `is_done`, all that is left."""
        end = len(self._raw) if is_done else max(self._shown, len(self._raw) - self._held())
        text = self._decoder_of_shown.decode(bytes(self._raw[self._shown : end]))
        self._shown = end
        return text

    def _held(self) -> int:
        """Return how many bytes at the end may be the start of a stop string."""
        end = bytes(self._raw[max(0, len(self._raw) - self._reach) :]) if self._reach else b""
        return next((n for n in range(len(end), 0, -1) if any(s.startswith(end[-n:]) for s in self._stops)), 0)

    def fresh_reasoning(self) -> str:
        """Return an empty string: this text has no reasoning."""
        return ""

    def text(self) -> str:
        """Return the text so far; invalid UTF-8 becomes U+FFFD, an incomplete last character is left out."""
        return codecs.getincrementaldecoder("utf-8")("replace").decode(bytes(self._raw))

    def piece(self, _token: int) -> bytes | None:
        """Return None: control tokens have no text."""
        return None

    def ends_reasoning(self, _token: int) -> bool:
        """Return False: there is no reasoning."""
        return False

    def result(self, n_tokens: int, reason: str) -> Generation:
        """Return the finished turn."""
        return Generation(text=self.text(), n_tokens=n_tokens, ended=reason == "end", reason=reason)


class OuterSpaces:
    """Removes the white space at both ends of a text that comes in pieces."""

    def __init__(self) -> None:
        self._held, self._has_started = "", False

    def feed(self, text: str) -> str:
        """Return the text to show next; white space that may be the end is held back."""
        held = self._held + text
        held = held if self._has_started else held.lstrip()
        shown = held.rstrip()
        self._has_started = self._has_started or bool(shown)
        self._held = held[len(shown) :]
        return shown


class AnswerText:
    """A turn built from the bytes of tokens: reasoning, then an answer that ends before the first stop string in it.

    Stop strings in the reasoning do not count. Invalid UTF-8 becomes U+FFFD.
    """

    def __init__(self, stops: Sequence[str], reasoning: ReasoningFormat) -> None:
        self._answer, self._splitter = StopText(stops), reasoning.splitter()
        self._spelled = {token: text.encode("utf-8") for token, text in reasoning.spelled.items()}
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._reasoning: list[str] = []
        self._n_shown, self._spaces = 0, OuterSpaces()

    def piece(self, token: int) -> bytes | None:
        """Return the text of a control token as bytes while markers are expected, None for other tokens."""
        return None if self._splitter.in_answer else self._spelled.get(token)

    def ends_reasoning(self, token: int) -> bool:
        """Return whether a token is the marker that ends the current reasoning, even if it also ends a turn."""
        return self._splitter.in_reasoning and self._spelled.get(token, b"").decode("utf-8") == self._splitter.end

    def add(self, piece: bytes) -> bool:
        """Append a piece; return True if the answer now contains a stop string, before which it is cut."""
        return self._keep(*self._splitter.feed(self._decoder.decode(piece)))

    def _keep(self, reasoning: str, answer: str) -> bool:
        self._reasoning.append(reasoning)
        return bool(answer) and self._answer.add(answer.encode("utf-8"))

    def fresh(self, is_done: bool = False) -> str:
        """Return the new text of the answer; see `StopText.fresh`."""
        return self._answer.fresh(is_done)

    def fresh_reasoning(self) -> str:
        """Return the new reasoning, with white space at its end held back, as the result has none there."""
        text = "".join(self._reasoning[self._n_shown :])
        self._n_shown = len(self._reasoning)
        return self._spaces.feed(text)

    def result(self, n_tokens: int, reason: str) -> Generation:
        """Return the finished turn; `ended` is not set if the model ended it before its reasoning was complete."""
        if reason == "end" and self._splitter.in_reasoning:
            reason = "reasoning"
        if reason != "stop" and self._keep(*self._splitter.finish()):
            reason = "stop"
        reasoning = "".join(self._reasoning).strip()
        return Generation(
            text=self._answer.text(), n_tokens=n_tokens, ended=reason == "end", reason=reason, reasoning=reasoning
        )
