"""Render a chat template without its model, for comparing it with other programs' templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pa_lite.engine.chat_template import MEMORY, SECONDS, WORKER
from pa_lite.engine.conversation import Message, as_dict
from pa_lite.errors import EngineError
from pa_lite.untrusted.sandbox import LimitedProcess

_CHARACTERS = 100_000  # of one rendered text


@dataclass(frozen=True)
class TemplateText:
    """A chat template, and the texts of the BOS and EOS tokens for it."""

    text: str
    bos: str
    eos: str

    def render_each(self, conversations: Sequence[Sequence[Message]], required: int = 0) -> list[str | None]:
        """Return the text of each conversation, ready for the next answer; None if the template refuses it.

        If it refuses one of the first `required`, the others are not rendered. It runs in a limited process.
        """
        found: list[str | None] = []
        with LimitedProcess(WORKER, MEMORY) as process:
            for messages in conversations:
                request: dict[str, Any] = {
                    "template": self.text, "bos": self.bos, "eos": self.eos, "arguments": {}, "date": None,
                    "conversations": [[as_dict(message) for message in messages]], "add_generation_prompt": True,
                    "characters": _CHARACTERS,
                }  # fmt: skip
                try:
                    found += process.ask(request, SECONDS)["texts"]
                except EngineError:
                    found.append(None)
                    if len(found) <= required:
                        break
        return found
