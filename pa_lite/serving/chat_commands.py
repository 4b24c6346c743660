"""The commands of a chat, and how a line is read: a command, or a message for the model."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

from pa_lite.engine.generation_options import GenerationOptions
from pa_lite.errors import InputError, nearest


class ChatCommand(NamedTuple):
    """A command's name, its arguments as users write them, and what it does."""

    name: str
    arguments: str
    summary: str


COMMANDS = (
    ChatCommand("/lam", "[L]", "continue at another lam; alone: show it"),
    ChatCommand("/compare", "[L L ...]", "answer the last question again at several lams"),
    ChatCommand("/system", "[TEXT|off]", "set the system prompt; alone: show it"),
    ChatCommand("/retry", "", "answer the last question again"),
    ChatCommand("/undo", "", "remove the last question and its answer"),
    ChatCommand("/forget", "[N]", "drop the oldest turns, to make room"),
    ChatCommand("/clear", "", "start a new conversation"),
    ChatCommand("/set", "[NAME VALUE]", "change a setting, such as temperature; alone: show all"),
    ChatCommand("/save", "FILE", "write the conversation: JSON, or Markdown (.md)"),
    ChatCommand("/help", "", "list the commands"),
    ChatCommand("/exit", "", "leave the chat, as Ctrl-D does"),
)
_ALIASES = {"/quit": "/exit", "/bye": "/exit", "/?": "/help"}
_NAMES = tuple(command.name for command in COMMANDS)
SETTINGS = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "seed")


@dataclass(frozen=True)
class Line:
    """What was typed: a command and its argument, or a message, for which the command is empty."""

    command: str
    text: str


def parse_line(text: str) -> Line:
    """Return a line as a command or a message; `//` at the start stands for a `/` of a message.

    Raises InputError, with the nearest command, for an unknown one.
    """
    stripped = text.strip()
    if stripped.startswith("//"):
        return Line("", stripped[1:])
    if not stripped.startswith("/"):
        return Line("", stripped)
    parts = stripped.split(maxsplit=1)
    name = _ALIASES.get(parts[0].lower(), parts[0].lower())
    if name not in _NAMES:
        raise InputError(
            f"unknown command {parts[0]:.40}.{_close(name)} A message that starts with / is sent with // at its start."
        )
    return Line(name, parts[1] if len(parts) > 1 else "")


def _close(name: str) -> str:
    found = nearest(name, _NAMES)
    return found if "Did you mean" in found else " /help lists all."


def changed_setting(options: GenerationOptions, text: str) -> tuple[GenerationOptions, str]:
    """Return the options after `NAME VALUE`, and the name. Raises InputError for anything else."""
    name, *values = re.split(r"[\s=]+", text.strip())
    name = name.replace("-", "_").lower()
    if name not in SETTINGS:
        raise InputError(f"unknown setting {name!r:.60}.{nearest(name, SETTINGS)}")
    if len(values) != 1 or not values[0]:
        raise InputError(f"/set {name} takes one value, such as /set {name} {getattr(options, name)}.")
    convert: type[float] | type[int] = float if isinstance(getattr(GenerationOptions(), name), float) else int
    try:
        value = convert(values[0])
    except (ValueError, OverflowError):
        kind = "a number" if convert is float else "an integer"
        raise InputError(f"{name} is {values[0]!r:.60}; it must be {kind}.") from None
    changed: dict[str, Any] = {name: value}
    return replace(options, **changed), name


def settings_in_words(options: GenerationOptions) -> str:
    """Return the settings of answers, as `/set` names them."""
    return ", ".join(f"{f.name} {getattr(options, f.name):g}" for f in fields(options) if f.name in SETTINGS)
