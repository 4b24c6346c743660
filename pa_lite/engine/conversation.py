"""The turns of a conversation: checked, and as chat templates read them. Runs no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pa_lite.engine.chat_options import ChatOptions
from pa_lite.errors import InputError

PLAIN_ROLES = {"user": "Instruction: ", "assistant": "Response: "}  # of models without a template


class Message(NamedTuple):
    """One turn; `reasoning` is what an assistant's turn had before its answer, for templates that show it again."""

    role: str
    content: str
    reasoning: str = ""


Turn = Message | tuple[str, str]  # a role and its content do


def check_turns(turns: Sequence[Message], options: ChatOptions) -> None:
    """Raise InputError for a conversation that has no next turn, two system prompts, or text that is not valid."""
    if not turns:
        raise InputError("the conversation has no messages.")
    if turns[-1].role == "assistant":
        raise InputError("the last message is the assistant's: the next turn would be the user's.")
    if options.system and turns[0].role == "system":
        raise InputError("the first message is a system prompt, and another one is given. Leave one of them out.")
    for number, turn in enumerate(turns, 1):
        try:
            "".join(turn).encode("utf-8")
        except UnicodeEncodeError as e:
            raise InputError(f"message {number} is not valid text: {e.reason}.") from e


def as_dict(message: Message) -> dict[str, str]:
    """A message as templates read it; reasoning under each name that published templates have for it."""
    out = {"role": message.role, "content": message.content}
    if message.reasoning:
        out |= dict.fromkeys(("reasoning_content", "thinking", "reasoning"), message.reasoning)
    return out
