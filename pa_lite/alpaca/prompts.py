"""Prompts that answers are generated for, from files of objects with an `instruction`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pa_lite.alpaca.content import content_of, data_set_of
from pa_lite.alpaca.records import read_records
from pa_lite.errors import InputError


@dataclass(frozen=True)
class Prompt:
    """A user's turn, the data set that it belongs to, if any, and the system prompt that comes with it, if any."""

    instruction: str
    dataset: str | None
    system: str = ""

    def document(self) -> dict[str, Any]:
        """Return what decides an answer, as JSON; without a system prompt it is as in older journals."""
        return without_empty(asdict(self))


def without_empty(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value or name not in ("system", "reasoning", "chat")}


def read_prompts(path: Path, dataset: str) -> list[Prompt]:
    """Return the prompts of a file, as `load_prompts` does; `dataset` names those that name none themselves."""
    prompts = []
    for number, row in enumerate(read_records(path), 1):
        where = f"{path}: entry {number}"
        content = content_of(row, where)
        prompts.append(Prompt(content.text, data_set_of(row, where, dataset), content.system))
    return prompts


def system_prompts(prompts: Sequence[Prompt], system: str) -> list[str]:
    """Return each prompt's own system prompt, empty if it has none. Raises InputError for any beside `system`."""
    own = [prompt.system for prompt in prompts]
    if system and any(own):
        number = next(i for i, text in enumerate(own, 1) if text)
        raise InputError(
            f"prompt {number} has a system prompt of its own, and --system gives another. Leave --system out, or write "
            "it under 'system' into the prompts that have none."
        )
    return own
