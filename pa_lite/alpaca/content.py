"""Which fields of a row reach the model. Fields with content are used or refused by name; other columns are ignored.

Rows come from Alpaca's data, AlpacaEval's files, and any data set with an `instruction` in each row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pa_lite.alpaca.records import Record, text_of
from pa_lite.errors import InputError

_INPUTS = ("input", "context")  # Alpaca's and Dolly's names for the text that the instruction is about
_CONVERSATION = (
    "a conversation",
    "Only single turns are supported: put the user's turn under 'instruction' and a system prompt under 'system'.",
)
_MEDIA = "images, audio or video", "Only text is supported: remove these entries."
_TOOLS = "tools", "Tool calls are not supported: remove these entries, or describe the tools in 'system'."
_TEXTS = "a list of documents", "Join them to one string under 'input'."
_SYSTEM = "a system prompt", "Name the field 'system'."
_INPUT = "an input", "Name the field 'input'."
# name of a field in lower case -> what it contains, and what to do
_REFUSED: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("messages", "conversation", "conversations", "history", "turns", "dialog", "dialogue"), _CONVERSATION
    ),
    **dict.fromkeys(
        ("image", "images", "image_url", "image_urls", "audio", "audios", "video", "videos"), _MEDIA
    ),
    **dict.fromkeys(("tools", "functions"), _TOOLS),
    **dict.fromkeys(("contexts", "documents", "passages", "attachments"), _TEXTS),
    **dict.fromkeys(("system_prompt", "system_message", "system_instruction"), _SYSTEM),
    "inputs": _INPUT,
}  # fmt: skip
_OTHER_PROMPTS = ("prompt", "question", "query", "instruction")  # other data sets' names for the instruction


@dataclass(frozen=True)
class Content:
    """The user's turn, and the row's own system prompt, empty when it has none."""

    text: str
    system: str = ""

    @property
    def request(self) -> str:
        """The request as one string, for a judge: system prompt, empty line, user's turn."""
        return request(self.text, self.system)


def request(text: str, system: str) -> str:
    """Return a user's turn, after the system prompt and an empty line if there is a system prompt."""
    return f"{system}\n\n{text}" if system else text


def content_of(row: Record, where: str, key: str = "instruction") -> Content:
    """Return the request in a row: the string under `key`, joined with `input`, and the `system` prompt.

    `input` (Alpaca) or `context` (Dolly) follows the instruction after an empty line, as in Alpaca's prompt and in
    AlpacaEval's data; an empty one is ignored. Raises InputError, naming `where` and the field, for content that would
    be lost: conversations, images, tools, lists of documents, both `input` and `context`, another prompt in addition
    to `key`, or a known field in another spelling.
    """
    _check_fields(row, where, key)
    parts = [text_of(row, key, where)]
    given = [name for name in _INPUTS if _is_given(row.get(name))]
    if len(given) > 1:
        raise InputError(f"{where} has both 'input' and 'context'. Join them under 'input'.")
    parts += [_text(row, name, where) for name in given]
    content = Content("\n\n".join(parts), _text(row, "system", where) if _is_given(row.get("system")) else "")
    for name in _OTHER_PROMPTS:
        value = row.get(name)
        if name != key and isinstance(value, str) and value.strip() not in content.text and parts[0] not in value:
            raise InputError(f"{where} has both {name!r} and {key!r}. Only {key!r} is read: join them, or remove one.")
    return content


def data_set_of(row: Record, where: str, default: str | None) -> str | None:
    """Return a row's `dataset`: None where it is null, `default` where it is missing."""
    value = row.get("dataset", default)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{where}: 'dataset' must be a string or null, not {value!r:.80}.")
    return value


def _check_fields(row: Record, where: str, key: str) -> None:
    for name, value in row.items():
        lowered = name.strip().casefold()
        if not _has_content(value):
            continue
        if lowered in (key, *_INPUTS, "system") and name != lowered:
            raise InputError(f"{where} has the field {name!r}. Rename it {lowered!r}.")
        if lowered in _REFUSED:
            content, advice = _REFUSED[lowered]
            raise InputError(f"{where} has {content} under {name!r}, which would be ignored. {advice}")


def _has_content(value: Any) -> bool:
    """Return whether a value can carry content: a non-empty string, list or object, not a number or null."""
    return bool(value.strip() if isinstance(value, str) else value) and isinstance(value, (str, list, dict))


def _is_given(value: Any) -> bool:
    """Return whether a field that is read has a value: numbers and booleans count; null, NaN and empty ones do not."""
    return _has_content(value) or (isinstance(value, (int, float)) and not math.isnan(value))


def _text(row: Record, name: str, where: str) -> str:
    if not isinstance(row[name], str):
        raise InputError(f"{where}: {name!r} must be a string.")
    return text_of(row, name, where)
