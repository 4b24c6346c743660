"""What of a row reaches a model. Fields that carry content are used or refused by name; other columns are left alone.

Rows are those of Alpaca's data, of AlpacaEval's files and of whatever data set has an `instruction` in each row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pa_lite.alpaca.records import Record, text_of
from pa_lite.errors import InputError

_PLACES = ("input", "context")  # Alpaca's and Dolly's names for what the instruction is about
_CONVERSATION = (
    "a conversation",
    "Only single turns are answered: write the user's as 'instruction' and a system prompt as 'system'.",
)
_MEDIA = "pictures, sound or films", "The models here read text only: remove these entries."
_TOOLS = "tools", "They cannot be called here: remove these entries, or describe the tools in 'system'."
_TEXTS = "texts", "Write what the instruction is about as one string under 'input'."
_SYSTEM = "a system prompt", "Name the field 'system'."
_INPUT = "an input", "Name the field 'input'."
# name of a field, in any case -> what it holds, and what to do
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
_OTHER_PROMPTS = ("prompt", "question", "query", "instruction")  # what some data sets call what the model is asked


@dataclass(frozen=True)
class Content:
    """What a model is asked: the user's turn, and the row's own system prompt, empty when it has none."""

    text: str
    system: str = ""

    @property
    def request(self) -> str:
        """All of it as one text, for a judge: the system prompt, an empty line and the user's turn."""
        return request(self.text, self.system)


def request(text: str, system: str) -> str:
    """Return a user's turn with the system prompt and an empty line before it, if there is one."""
    return f"{system}\n\n{text}" if system else text


def content_of(row: Record, where: str, key: str = "instruction") -> Content:
    """Return what a row asks a model: its text under `key`, joined with its `input`, and its `system` prompt.

    `input` (Alpaca) or `context` (Dolly) follows the instruction after an empty line, where Alpaca's own prompt has
    it, and as AlpacaEval joined Alpaca's data; an empty one counts as none. Raises InputError, naming `where` and the
    field, for content that would be lost: conversations, pictures, tools, lists of texts, both `input` and `context`,
    a second prompt beside `key`, or a known field in another spelling.
    """
    _check_fields(row, where, key)
    parts = [text_of(row, key, where)]
    given = [name for name in _PLACES if _is_given(row.get(name))]
    if len(given) > 1:
        raise InputError(f"{where} has both 'input' and 'context'. Write all that the instruction is about as 'input'.")
    parts += [_text(row, name, where) for name in given]
    content = Content("\n\n".join(parts), _text(row, "system", where) if _is_given(row.get("system")) else "")
    for name in _OTHER_PROMPTS:
        value = row.get(name)
        if name != key and isinstance(value, str) and value.strip() not in content.text and parts[0] not in value:
            raise InputError(f"{where} has {name!r} beside {key!r}. Only {key!r} is read: join the two, or remove one.")
    return content


def data_set_of(row: Record, where: str, default: str | None) -> str | None:
    """Return the data set that a row names under `dataset`: None where it is null, `default` where it names none."""
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
        if lowered in (key, *_PLACES, "system") and name != lowered:
            raise InputError(f"{where} has the field {name!r}. Name it {lowered!r}.")
        if lowered in _REFUSED:
            holds, advice = _REFUSED[lowered]
            raise InputError(f"{where} has {holds} under {name!r}, which would be lost. {advice}")


def _has_content(value: Any) -> bool:
    """Tell whether a value can carry content: strings, lists and objects that are not empty, but no number or null."""
    return bool(value.strip() if isinstance(value, str) else value) and isinstance(value, (str, list, dict))


def _is_given(value: Any) -> bool:
    """Tell whether a field that is read says something: numbers and booleans do; null, NaN and empty values do not."""
    return _has_content(value) or (isinstance(value, (int, float)) and not math.isnan(value))


def _text(row: Record, name: str, where: str) -> str:
    if not isinstance(row[name], str):
        raise InputError(f"{where}: {name!r} must be a string. Write it as one.")
    return text_of(row, name, where)
