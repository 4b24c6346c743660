"""Write a conversation as JSON, with messages in OpenAI's form, or as Markdown."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pa_lite.engine.generation_options import GenerationOptions
from pa_lite.errors import OutputError
from pa_lite.sanitize import one_line, plain, to_json
from pa_lite.serving.chat_commands import SETTINGS
from pa_lite.serving.conversation_session import ChatTurn
from pa_lite.system.atomic import check_target, write_text

MARKDOWN = (".md", ".markdown")
_ENDS = {"length": "cut", "reasoning": "only reasoning", "stopped": "stopped"}


def transcript(name: str, system: str, turns: Sequence[ChatTurn], options: GenerationOptions) -> dict[str, Any]:
    """Return a conversation as a JSON document.

    `messages` is what `LoadedModel.chat` and OpenAI's clients take. `answers` has, for each of the assistant's
    messages, the lam, the reasoning if there is any, and how it ended; `settings` those of the next answer.
    """
    messages = [{"role": "system", "content": system}] if system else []
    for turn in turns:
        messages.append({"role": "user", "content": turn.question})
        messages.append({"role": "assistant", "content": turn.answer.text})
    answers = [
        {
            "lam": a.lam, **({"reasoning": a.reasoning} if a.reasoning else {}), "finish_reason": a.finish_reason,
            "n_prompt": a.n_prompt, "n_tokens": a.n_tokens,
        }
        for a in (turn.answer for turn in turns)
    ]  # fmt: skip
    settings = {key: value for key, value in asdict(options).items() if key in SETTINGS}
    return {"model": name, "messages": messages, "answers": answers, "settings": settings}


def markdown(name: str, system: str, turns: Sequence[ChatTurn]) -> str:
    """Return a conversation as Markdown, control characters escaped; the heading of each answer has its lam."""
    parts = [f"# A conversation with {one_line(name)}"]
    parts += [f"**System prompt**\n\n{system}"] if system else []
    for turn in turns:
        answer = turn.answer
        notes = [] if answer.lam is None else [f"lam {answer.lam:g}"]
        if answer.finish_reason in _ENDS:
            notes.append(_ENDS[answer.finish_reason])
        shown = f" ({', '.join(notes)})" if notes else ""
        parts += ["## User", turn.question, f"## {one_line(name)}{shown}"]
        if answer.reasoning:
            parts.append("\n".join(f"> {line}".rstrip() for line in answer.reasoning.splitlines()))
        parts.append(answer.text)
    return plain("\n\n".join(parts)) + "\n"


def write_transcript(
    path: Path, name: str, system: str, turns: Sequence[ChatTurn], options: GenerationOptions, force: bool = False
) -> None:
    """Write a conversation: Markdown if the name ends in .md, else JSON. Complete, or not at all.

    Raises OutputError where the file cannot be written, and without `force` where it exists.
    """
    check_target(path, force=True)
    if os.path.lexists(path) and not force:
        raise OutputError(f"{path}: exists already. Choose another name.")
    if path.suffix.lower() in MARKDOWN:
        write_text(path, markdown(name, system, turns))
    else:
        write_text(path, to_json(transcript(name, system, turns, options)) + "\n")
