"""Prompts to generate answers for, read from files of objects with an `instruction`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pa_lite.alpaca.content import content_of, data_set_of
from pa_lite.alpaca.records import read_records
from pa_lite.errors import InputError
from pa_lite.system.opening import read_regular

MOST_TEXT_BYTES = 1 << 24  # of a text file of prompts, or of standard input


@dataclass(frozen=True)
class Prompt:
    """A user's turn, with the name of its data set and a system prompt where it has them."""

    instruction: str
    dataset: str | None
    system: str = ""

    def document(self) -> dict[str, Any]:
        """Return the prompt as JSON. Without a system prompt it is the same as in older journals."""
        return without_empty(asdict(self))


def without_empty(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value or name not in ("system", "reasoning", "chat")}


def read_prompts(path: Path, dataset: str, split: str | None = None) -> list[Prompt]:
    """Return the prompts of a file, as `load_prompts` does; `dataset` is the default for rows without one.

    With `split`, rows of other splits are left out.
    """
    prompts = []
    for number, row in enumerate(read_records(path), 1):
        if split is not None and row.get("split") not in (None, split):
            continue
        where = f"{path}: entry {number}"
        content = content_of(row, where)
        prompts.append(Prompt(content.text, data_set_of(row, where, dataset), content.system))
    return prompts


def read_lines(path: Path, dataset: str) -> list[Prompt]:
    """Return the lines of a text file (UTF-8) as prompts; empty lines are skipped.

    Raises InputError for a file without any, and one that is not text or cannot be read.
    """
    try:
        text = read_regular(path, MOST_TEXT_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise InputError(f"{path}: is not text in UTF-8: {e.reason} at byte {e.start}.") from e
    except OSError as e:
        raise InputError(f"{path}: cannot be read: {e.strerror}.") from e
    prompts = [Prompt(line.strip(), dataset) for line in text.split("\n") if line.strip()]
    if not prompts:
        raise InputError(f"{path}: has no lines with a prompt.")
    return prompts


def system_prompts(prompts: Sequence[Prompt], system: str) -> list[str]:
    """Return each prompt's own system prompt, "" where it has none.

    Raises InputError when a prompt has one and `system` is given as well.
    """
    own = [prompt.system for prompt in prompts]
    if system and any(own):
        number = next(i for i, text in enumerate(own, 1) if text)
        raise InputError(
            f"prompt {number} already has a system prompt. Omit --system, or add its text as 'system' to the prompts "
            "that have none."
        )
    return own
