"""One turn of a conversation: what is asked, pieces of the answer as they come, and the whole."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pa_lite.engine.chat import Message, conversation_prompt
from pa_lite.engine.chat_options import ChatOptions
from pa_lite.engine.generation import GenerationOptions, stream
from pa_lite.engine.model import Model
from pa_lite.errors import EngineError, InputError, nearest

_KEYS = ("role", "content", "reasoning")
_ROLES = ("system", "user", "assistant", "tool")

Messages = str | Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class ChatReply:
    """The assistant's turn.

    `finish_reason` is `end` (the model ended its turn), `stop` (a stop string came), `length`, or `reasoning` (the turn
    ended before an answer). `messages` are the conversation with this turn: append the user's next one and go on.
    """

    text: str
    reasoning: str
    finish_reason: str
    n_tokens: int
    messages: list[dict[str, str]]

    def __str__(self) -> str:
        return self.text


class ChatStream(Iterator[str]):
    """Pieces of the assistant's text as they come; `reply` is the whole turn afterwards."""

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
        """The whole turn. Raises EngineError while pieces are still to come, or when the answer was broken off."""
        if self._reply is None:
            raise EngineError("the answer is not complete: take all pieces first.")
        return self._reply

    def close(self) -> None:
        """Break the answer off; more than once does no harm."""
        self._pieces.close()


def read_messages(messages: Messages) -> list[Message]:
    """Return the turns of a conversation. Raises InputError for what is wrong, and for content that would be lost."""
    if isinstance(messages, str):
        return [Message("user", messages)]
    out = []
    for number, entry in enumerate(messages, 1):
        if not isinstance(entry, Mapping):
            raise InputError(f"message {number} is not an object with 'role' and 'content'.")
        for key in entry:
            if key not in _KEYS:
                raise InputError(f"message {number} has the unknown key {key!r:.80}.{nearest(str(key), _KEYS)}")
        values = [entry.get(key, "") for key in _KEYS]
        if not all(isinstance(value, str) for value in values) or "content" not in entry:
            raise InputError(f"message {number}: 'role' and 'content' must be strings.")
        role = values[0]
        if role not in _ROLES:
            raise InputError(f"message {number} has the unknown role {role!r:.80}.{nearest(role, _ROLES)}")
        out.append(Message(*values))
    return out


def start_chat(model: Model, messages: Messages, options: GenerationOptions, chat: ChatOptions) -> ChatStream:
    """Return the stream of the next turn. Raises before any work what `conversation_prompt` raises, and InputError when
    the conversation leaves the context no room for an answer.
    """
    turns = read_messages(messages)
    prompt, reasoning = conversation_prompt(model, turns, chat)
    room = model.max_length - len(prompt)
    if room < 1:
        raise InputError(
            f"the conversation has {len(prompt)} tokens, and {model.name} may see {model.max_length}: leave out its "
            "oldest messages."
        )
    chosen = replace(options, max_tokens=min(options.max_tokens, room))
    system = [{"role": "system", "content": chat.system}] if chat.system else []
    asked = [*system, *map(_document, turns)]

    def pieces() -> Generator[str, None, ChatReply]:
        made = yield from _without_outer_spaces(stream(model, prompt, chosen, reasoning))
        answer = _document(Message("assistant", made.text.strip(), made.reasoning))
        return ChatReply(
            text=made.text.strip(), reasoning=made.reasoning, finish_reason=made.reason, n_tokens=made.n_tokens,
            messages=[*asked, answer],
        )  # fmt: skip

    return ChatStream(pieces())


def _document(message: Message) -> dict[str, str]:
    out = {"role": message.role, "content": message.content}
    return {**out, "reasoning": message.reasoning} if message.reasoning else out


def _without_outer_spaces(pieces: Generator[str, None, Any]) -> Generator[str, None, Any]:
    """Yield the pieces without spaces at the start and the end of the whole, and return what they return."""
    held, has_begun = "", False
    with contextlib.closing(pieces):
        while True:
            try:
                held += next(pieces)
            except StopIteration as e:
                return e.value
            held = held if has_begun else held.lstrip()
            text = held.rstrip()
            if text:
                has_begun, held = True, held[len(text) :]
                yield text
