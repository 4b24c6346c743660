"""The state of a chat: its turns, system prompt, lam and settings; asking, undoing, comparing lams. No terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from pa_lite.engine.answers import Piece
from pa_lite.engine.chat_options import ChatOptions
from pa_lite.engine.conversation import Message
from pa_lite.engine.generation_options import GenerationOptions
from pa_lite.errors import InputError, PaLiteError
from pa_lite.serving.host import Host, Prompt
from pa_lite.serving.live_answers import STOPPED, ChatAnswer, LiveAnswer, LiveComparison

ANSWER_SHARE = 8  # an answer has at least this part of the context, or what `max_tokens` says


@dataclass(frozen=True, kw_only=True)
class ChatTurn:
    """A question and its answer; `attempt` counts the answers to the question that were tried before."""

    question: str
    answer: ChatAnswer
    attempt: int = 0


class ContextFullError(InputError):
    """A question does not fit in the context after the conversation; without the `n_oldest` oldest turns it does."""

    def __init__(self, n_prompt: int, length: int, n_oldest: int) -> None:
        super().__init__(
            f"the context is full: {n_prompt} of {length} tokens with this message, and no room for the answer. "
            f"/forget drops the {_oldest(n_oldest)} and asks again."
        )
        self.n_oldest = n_oldest


def _oldest(n: int) -> str:
    return "oldest turn" if n == 1 else f"{n} oldest turns"


class LiveTurn:
    """An answer of the chat while it is generated. A context manager.

    Reading its pieces to the end adds the turn to the conversation. If the block ends before, the answer is stopped,
    and what there is of it stays in the conversation; `rest` is what was not read. A turn that fails, or is stopped
    before its text starts, is not added.
    """

    def __init__(
        self, question: str, answer: LiveAnswer, on_end: Callable[[LiveTurn], ChatTurn | None], n_forgotten: int = 0
    ) -> None:
        """Wrap a started answer; `on_end` adds the turn. `n_forgotten` turns were dropped to make room."""
        self.question, self.answer, self.n_forgotten = question, answer, n_forgotten
        self.turn: ChatTurn | None = None
        self.rest = Piece()
        self._is_open = True
        self.is_repeated = False  # whether the question was not typed just now
        self._on_end = on_end

    def __enter__(self) -> LiveTurn:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the turn: stop the answer, unless it is complete. Later calls do nothing."""
        if self._is_open:
            self.rest = self.answer.stop()
            self._is_open = False
            self.turn = self._on_end(self)

    def pieces(self) -> Iterator[Piece]:
        """Yield the pieces as they come. Raises the error if the answer failed."""
        try:
            yield from self.answer.pieces()
        finally:
            self.close()


class ChatSession:
    """A conversation with a host's model, whose lam may change between its answers."""

    def __init__(
        self,
        host: Host,
        options: GenerationOptions | None = None,
        chat: ChatOptions | None = None,
        forgets: bool = False,
    ) -> None:
        """Start without turns, at the host's lam.

        With `forgets`, the oldest turns are dropped where a question would not fit (see `LiveTurn.n_forgotten`);
        otherwise `ask` raises ContextFullError.
        """
        self.host, self.options, self.chat = host, options or GenerationOptions(), chat or ChatOptions()
        self.forgets = forgets
        self.lam = host.lam
        self.turns: list[ChatTurn] = []
        self.refused = ""  # the last question, if it did not fit

    @property
    def lams_in_memory(self) -> list[float]:
        """The lams of the models in memory, the last used one first; none for a file."""
        return self.host.models.lams

    @property
    def n_used(self) -> int:
        """The number of tokens of the context that the conversation took with its last answer; 0 if there is none."""
        last = self.turns[-1].answer if self.turns else None
        return 0 if last is None else last.n_prompt + last.n_tokens

    def messages(self, question: str, n_oldest: int = 0) -> list[Message]:
        """Return the conversation without its oldest turns, with a question at its end."""
        out = []
        for turn in self.turns[n_oldest:]:
            out.append(Message("user", turn.question))
            out.append(Message("assistant", turn.answer.text, turn.answer.reasoning))
        return [*out, Message("user", question)]

    def ask(self, question: str) -> LiveTurn:
        """Start the answer to a question.

        Raises InputError for an empty question and one that does not fit even alone, ContextFullError for one that does
        not fit after the conversation, and what `Host.prompt` raises. The conversation is unchanged then.
        """
        return self._ask(question, None)

    def retry(self) -> LiveTurn:
        """Answer the last question again, with other random numbers; until the text starts, the old answer stays.

        Raises InputError without a turn, and as `ask` does.
        """
        last = self._last("there is nothing to answer again")
        self.turns.pop()
        try:
            return self._ask(last.question, last)
        except BaseException:
            self.turns.append(last)
            raise

    def _ask(self, question: str, before: ChatTurn | None) -> LiveTurn:
        if not question.strip():
            raise InputError("the message is empty.")
        prompt, n_oldest = self._fitting(question)
        attempt = 0 if before is None else before.attempt + 1
        answer = LiveAnswer(self.host, prompt, self.options, self.lam, stream=attempt)
        del self.turns[:n_oldest]

        def on_end(live: LiveTurn) -> ChatTurn | None:
            made = None
            with contextlib.suppress(PaLiteError):  # `pieces` raises it
                made = live.answer.result()
            if made is None or (made.finish_reason == STOPPED and not made.text):
                self.turns += [] if before is None else [before]
                return None
            self.turns.append(ChatTurn(question=question, answer=made, attempt=attempt))
            return self.turns[-1]

        return LiveTurn(question, answer, on_end, n_oldest)

    def _fitting(self, question: str) -> tuple[Prompt, int]:
        """Return the prompt of a question, and how many of the oldest turns must be dropped for it."""
        room = min(self.options.max_tokens, max(1, self.host.length // ANSWER_SHARE))

        def fits(prompt: Prompt) -> bool:
            return len(prompt.tokens) + room <= self.host.length

        prompt = whole = self.host.prompt(self.messages(question), self.chat)
        if fits(prompt):
            self.refused = ""
            return prompt, 0
        low, high = 0, len(self.turns)  # `low` turns are too few to drop; `high` are enough, if any number is
        prompt = self.host.prompt(self.messages(question, high), self.chat)
        if not fits(prompt):
            raise InputError(
                f"the message has {len(prompt.tokens)} tokens; with an answer it exceeds the context of "
                f"{self.host.length}. Shorten it, or allow a longer context if the model has one (--n-ctx)."
            )
        while high - low > 1:
            middle = (low + high) // 2
            tried = self.host.prompt(self.messages(question, middle), self.chat)
            low, high, prompt = (low, middle, tried) if fits(tried) else (middle, high, prompt)
        if not self.forgets:
            self.refused = question
            raise ContextFullError(len(whole.tokens), self.host.length, high)
        return prompt, high

    def _last(self, otherwise: str) -> ChatTurn:
        if not self.turns:
            raise InputError(f"{otherwise}: the conversation is empty.")
        return self.turns[-1]

    def undo(self) -> ChatTurn:
        """Remove the last turn and return it. Raises InputError without one."""
        last = self._last("there is nothing to undo")
        self.turns.pop()
        return last

    def clear(self) -> int:
        """Remove all turns, and return how many there were. The system prompt, lam and settings stay."""
        n, self.turns, self.refused = len(self.turns), [], ""
        return n

    def forget(self, n: int | None = None) -> int:
        """Remove the `n` oldest turns, by default as many as the last question that did not fit requires.

        Return how many were removed. Raises InputError for a number that is not possible.
        """
        self._last("there is nothing to forget")
        if n is None:
            n = self._needed() if self.refused else 1
        if not 1 <= n <= len(self.turns):
            raise InputError(f"the conversation has {len(self.turns)} turns: /forget takes a number from 1 to that.")
        del self.turns[:n]
        return n

    def _needed(self) -> int:
        """Return how many turns the refused question requires to drop, at least 1."""
        question = self.refused
        try:
            self._fitting(question)
        except ContextFullError as e:
            return e.n_oldest
        finally:
            self.refused = question
        return 1

    def set_system(self, text: str) -> None:
        """Set the system prompt ("": none) of this conversation, from the next answer on."""
        self.chat = replace(self.chat, system=text)

    def move(self, lam: float | str) -> float | None:
        """Continue at another lam; return the seconds that the move took, None if a model was there already.

        Raises as `Host.move` does; the lam is unchanged then.
        """
        chosen = self.host.rounded(lam)
        seconds = self.host.move(chosen)
        self.lam = chosen
        return seconds

    def compare(self, lams: Sequence[float | str]) -> LiveComparison:
        """Answer the last question again at each lam. The conversation keeps its own answer.

        Raises InputError without a turn, for a model from a file, and for a bad or duplicate lam.
        """
        if not self.host.is_pair:
            raise InputError(f"{self.host.name}: the lam of a GGUF file is fixed; only a pair can be compared.")
        last = self._last("there is no question to compare")
        chosen = distinct_lams(self.host, lams)
        kept = self.turns.pop()
        try:
            prompt = self.host.prompt(self.messages(last.question), self.chat)
        finally:
            self.turns.append(kept)
        return LiveComparison(self.host, last.question, prompt, self.options, chosen, last.attempt)


def distinct_lams(host: Host, lams: Sequence[float | str]) -> list[float]:
    """Return lams as models have them. Raises InputError for a bad one, duplicates, and none."""
    chosen = [host.rounded(lam) for lam in lams]
    for i, lam in enumerate(chosen):
        if lam in chosen[:i]:
            raise InputError(f"lam {lam:g} is named twice; lams have two decimals.")
    if not chosen:
        raise InputError("no lam is named: write e.g. 0,0.5,1.")
    return chosen
