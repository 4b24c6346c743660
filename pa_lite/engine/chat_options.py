"""Settings of chat prompts: system prompt, template arguments, and the date. Runs no model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from pa_lite.errors import InputError
from pa_lite.untrusted.strict_json import parse_json

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
# variables that pa-lite or jinja sets in a template
RESERVED = frozenset({
    "messages", "add_generation_prompt", "continue_final_message", "bos_token", "eos_token", "raise_exception",
    "strftime_now", "self", "loop", "caller", "varargs", "kwargs", "range", "dict", "lipsum", "cycler", "joiner",
    "namespace",
})  # fmt: skip
# other spellings of JSON values; as strings they would be true in a template, even `no`
_ALMOST = {"true": "true", "yes": "true", "on": "true", "false": "false", "no": "false", "off": "false",
           "none": "null", "null": "null"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """How messages become a chat prompt.

    `system` is the system prompt, or empty. `template_args` are variables for the chat template, JSON
    values by name. `date` is the date that templates print as today (at 12:00); None is the real time, which
    measurements fix before they start. Raises InputError for an invalid or reserved variable name, and for a value
    that is not JSON.
    """

    system: str = ""
    template_args: Mapping[str, Any] = field(default_factory=dict)
    date: date | None = None

    def __post_init__(self) -> None:
        if isinstance(self.date, str):
            object.__setattr__(self, "date", parse_date(self.date))
        for name, value in self.template_args.items():
            if _NAME.fullmatch(name) is None:
                raise InputError(f"{name!r} is not a valid template variable: use letters, digits and _.")
            if name in RESERVED:
                raise InputError(f"template argument {name!r} is set by pa-lite and cannot be changed.")
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError, RecursionError) as e:
                raise InputError(f"template argument {name!r} is not a JSON value: {e}.") from e


def parse_template_args(words: Sequence[str]) -> dict[str, Any]:
    """Return the template arguments in words such as `NAME=VALUE`; the last one of a name wins.

    VALUE is JSON (`false`, `3`, `"text"`, `[1, 2]`); anything else is used as a string (`high`, `26 Jul 2024`). Raises
    InputError for a word without `=`, for broken JSON (a value that starts like a string, list or object), and for
    `False`, `yes`, `None` and similar words, as templates would treat such strings as true.
    """
    return dict(map(_argument, words))


def _argument(word: str) -> tuple[str, Any]:
    name, equals, text = word.partition("=")
    name = name.strip()
    if not equals or not name:
        raise InputError(f"template argument {word!r} is not NAME=VALUE, such as enable_thinking=false.")
    try:
        return name, parse_json(text)
    except ValueError as e:
        reason = str(e)
    meant = _ALMOST.get(text.strip().lower())
    if meant is not None:
        raise InputError(
            f"template argument {word!r}: write {name}={meant} for the JSON value, or {name}='\"{text}\"' for a string."
        )
    if text.lstrip()[:1] in ("", '"', "[", "{"):
        raise InputError(f"template argument {word!r} is not JSON: {reason}.")
    return name, text


def parse_date(text: str) -> date:
    """Return the date in `YYYY-MM-DD`. Raises InputError for anything else."""
    try:
        if _DATE.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise InputError(f"{text!r} is not a date: write it as YYYY-MM-DD, such as 2026-02-28.")
