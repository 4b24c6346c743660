"""One turn of a conversation: reading messages, and streaming the answer."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pa_lite.engine.answer_text import Generation, OuterSpaces
from pa_lite.engine.answers import GenerationRequest, Piece
from pa_lite.engine.chat import Message, conversation_prompt
from pa_lite.engine.chat_options import ChatOptions
from pa_lite.engine.conversation import read_messages
from pa_lite.engine.generation_options import GenerationOptions
from pa_lite.engine.growing_scheduler import GrowingScheduler
from pa_lite.engine.model import Model
from pa_lite.errors import EngineError, InputError

Messages = str | Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class ChatReply:
    """The assistant's turn.

    `finish_reason` is `end` (the model ended its turn), `stop` (a stop string), `length`, or `reasoning` (it ended
    within the reasoning). `messages` is the conversation with this turn; append the next one.
    """

    text: str
    reasoning: str
    finish_reason: str
    n_tokens: int
    messages: list[dict[str, Any]]

    def __str__(self) -> str:
        return self.text


class ChatStream(Iterator[str]):
    """An iterator over pieces of the assistant's text; `reply` is the complete turn afterwards."""

    def __init__(self, pieces: Generator[str, None, ChatReply]) -> None:
        self._pieces = pieces
        self._reply: ChatReply | None = None

    def __next__(self) -> str:
        try:
            return next(self._pieces)
        except StopIteration as e:
            self._reply = e.value or self._reply
            raise

    @property
    def reply(self) -> ChatReply:
        """The complete turn. Raises EngineError before the last piece was taken, or if the answer was stopped."""
        if self._reply is None:
            raise EngineError("the answer is not complete: iterate over all pieces first.")
        return self._reply

    def close(self) -> None:
        """Stop the answer. Later calls do nothing."""
        self._pieces.close()


def start_chat(
    model: Model, scheduler: GrowingScheduler, messages: Messages, options: GenerationOptions, chat: ChatOptions
) -> ChatStream:
    """Return the stream of the next turn, which starts when its first piece is taken.

    Raises, before any work, what `conversation_prompt` raises, and InputError if the conversation fills the context.
    """
    turns = read_messages(messages)
    prompt, reasoning = conversation_prompt(model, turns, chat)
    room = model.max_length - len(prompt)
    if room < 1:
        raise InputError(
            f"the conversation has {len(prompt)} tokens, which fill the context of {model.name} ({model.max_length}): "
            "leave out the oldest messages."
        )
    chosen = replace(options, max_tokens=min(options.max_tokens, room))
    system = [{"role": "system", "content": chat.system}] if chat.system else []
    asked = [*system, *map(_document, turns)]

    def pieces() -> Generator[str, None, ChatReply]:
        request = GenerationRequest(prompt=prompt, options=chosen, reasoning=reasoning)
        made = yield from _without_outer_spaces(scheduler.stream(request))
        answer = _document(Message("assistant", made.text.strip(), made.reasoning))
        return ChatReply(
            text=made.text.strip(), reasoning=made.reasoning, finish_reason=made.reason, n_tokens=made.n_tokens,
            messages=[*asked, answer],
        )  # fmt: skip

    return ChatStream(pieces())


def _document(message: Message) -> dict[str, Any]:
    out: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        out["tool_calls"] = json.loads(message.tool_calls)
    return out | {key: text for key in ("reasoning", "name", "tool_call_id") if (text := getattr(message, key))}


def _without_outer_spaces(pieces: Generator[Piece, None, Generation]) -> Generator[str, None, Generation]:
    """Yield the pieces' text without white space at both ends of the whole; return what they return."""
    spaces = OuterSpaces()
    with contextlib.closing(pieces):
        while True:
            try:
                text = spaces.feed(next(pieces).text)
            except StopIteration as e:
                made: Generation = e.value
                return made
            if text:
                yield text
