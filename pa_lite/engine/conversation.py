"""Check the turns of a conversation, and convert them for chat templates. Runs no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pa_lite.engine.chat_options import ChatOptions
from pa_lite.errors import InputError

PLAIN_ROLES = {"user": "Instruction: ", "assistant": "Response: "}  # for models without a template


class Message(NamedTuple):
    """One turn; `reasoning` is the assistant's reasoning before its answer, for templates that include it."""

    role: str
    content: str
    reasoning: str = ""


Turn = Message | tuple[str, str]  # a message, or a role and its content


def check_turns(turns: Sequence[Message], options: ChatOptions) -> None:
    """Raise InputError for no turns, an assistant's last turn, two system prompts, and text that is not valid."""
    if not turns:
        raise InputError("the conversation has no messages.")
    if turns[-1].role == "assistant":
        raise InputError("the last message is the assistant's, so there is nothing to answer. Add a user's message.")
    if options.system and turns[0].role == "system":
        raise InputError("there are two system prompts: the first message and the option. Leave one of them out.")
    for number, turn in enumerate(turns, 1):
        try:
            "".join(turn).encode("utf-8")
        except UnicodeEncodeError as e:
            raise InputError(f"message {number} is not valid text: {e.reason}.") from e


def as_dict(message: Message) -> dict[str, str]:
    """Return a message as templates read it, with reasoning under each name that published templates use."""
    out = {"role": message.role, "content": message.content}
    if message.reasoning:
        out |= dict.fromkeys(("reasoning_content", "thinking", "reasoning"), message.reasoning)
    return out
