"""What a model writes, as it grows: reasoning set apart, the answer cut before stop strings. Runs no model."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

from pa_lite.engine.reasoning import ReasoningFormat

_REASONS = ("end", "stop", "length", "reasoning")
_MOST_TOKENS = 1 << 31  # of one answer


@dataclass(frozen=True)
class Generation:
    """What a prompt was continued with.

    `n_tokens` counts the tokens made, an end token left out and those of a stop string included; `ended` says whether
    the model itself ended its turn; `reason` is `end` (it did), `stop` (a stop string came), `length`, or `reasoning`:
    the model ended its turn within its reasoning. `reasoning` is what it wrote before the answer, `text` the answer.
    """

    text: str
    n_tokens: int
    ended: bool
    reason: str
    reasoning: str = ""

    def is_possible(self) -> bool:
        """Return whether a model can have made this: it may come from a file that anybody can change."""
        is_count = not isinstance(self.n_tokens, bool) and 0 <= self.n_tokens <= _MOST_TOKENS
        return is_count and self.reason in _REASONS and self.ended == (self.reason == "end")


class StopText:
    """A turn without reasoning: it grows by tokens' bytes until a stop string is in it."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [s.encode("utf-8") for s in stops]
        self._reach = max(map(len, self._stops), default=1) - 1  # bytes before a piece in which a stop may begin
        self._raw = bytearray()
        self._shown, self._decoder_of_shown = 0, codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, piece: bytes) -> bool:
        """Append a piece; True when a stop string is now whole: the text is cut before the first, and done."""
        start = max(0, len(self._raw) - self._reach)
        self._raw += piece
        places = [at for stop in self._stops if (at := self._raw.find(stop, start)) >= 0]
        if places:
            del self._raw[min(places) :]
        return bool(places)

    def fresh(self, is_done: bool = False) -> str:
        """Return what has come since the last call and no stop string can remove; with `is_done` all that is left."""
        end = len(self._raw) if is_done else max(self._shown, len(self._raw) - self._reach)
        text = self._decoder_of_shown.decode(bytes(self._raw[self._shown : end]))
        self._shown = end
        return text

    def text(self) -> str:
        """The text so far as UTF-8: bytes that are none become U+FFFD, a character begun at the end is left out."""
        return codecs.getincrementaldecoder("utf-8")("replace").decode(bytes(self._raw))

    def piece(self, _token: int) -> bytes | None:
        """Return None: control tokens have no text."""
        return None

    def ends_reasoning(self, _token: int) -> bool:
        """Return False: there is no reasoning."""
        return False

    def result(self, n_tokens: int, reason: str) -> Generation:
        """Return the finished turn."""
        return Generation(self.text(), n_tokens, reason == "end", reason)


class AnswerText:
    """A turn that grows by tokens' bytes: reasoning, then an answer that ends before the first stop string in it.

    Stop strings in the reasoning do not count. Bytes that are not UTF-8 become U+FFFD.
    """

    def __init__(self, stops: Sequence[str], reasoning: ReasoningFormat) -> None:
        self._answer, self._splitter = StopText(stops), reasoning.splitter()
        self._spelled = {token: text.encode("utf-8") for token, text in reasoning.spelled.items()}
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._reasoning: list[str] = []

    def piece(self, token: int) -> bytes | None:
        """Return the bytes that a control token stands for while markers may come, None for other tokens."""
        return None if self._splitter.in_answer else self._spelled.get(token)

    def ends_reasoning(self, token: int) -> bool:
        """Return whether a token is the marker that ends the open block, whatever else it ends for other models."""
        return self._splitter.in_reasoning and self._spelled.get(token, b"").decode("utf-8") == self._splitter.end

    def add(self, piece: bytes) -> bool:
        """Append a piece; True when a stop string is now whole in the answer, which is cut before it."""
        return self._keep(*self._splitter.feed(self._decoder.decode(piece)))

    def _keep(self, reasoning: str, answer: str) -> bool:
        self._reasoning.append(reasoning)
        return bool(answer) and self._answer.add(answer.encode("utf-8"))

    def fresh(self, is_done: bool = False) -> str:
        """Return what has come of the answer since the last call; see `StopText.fresh`."""
        return self._answer.fresh(is_done)

    def result(self, n_tokens: int, reason: str) -> Generation:
        """Return the finished turn; one that the model ended within its reasoning has not ended."""
        if reason == "end" and self._splitter.in_reasoning:
            reason = "reasoning"
        if reason != "stop" and self._keep(*self._splitter.finish()):
            reason = "stop"
        reasoning = "".join(self._reasoning).strip()
        return Generation(self._answer.text(), n_tokens, reason == "end", reason, reasoning)
