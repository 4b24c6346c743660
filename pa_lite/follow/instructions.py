"""Verifiable instructions: a model answers them, rules check the answers, no judge is needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pa_lite.engine.chat import chat_prompts
from pa_lite.engine.generation import GenerationOptions, generate
from pa_lite.engine.model import Model
from pa_lite.errors import InputError
from pa_lite.follow.checks import Check, followed, validate
from pa_lite.statistics import standard_error


@dataclass(frozen=True)
class Instruction:
    """What the model is asked, the kind of constraint, and the checks that its answer must pass."""

    kind: str
    text: str
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Answer:
    """A model's answer to an instruction; it is followed only if the model ended its turn by itself."""

    instruction: str
    kind: str
    output: str
    ended: bool
    followed: bool


@dataclass(frozen=True)
class FollowResult:
    """The share of instructions followed, in [0, 1], its standard error, and every answer."""

    model: str
    n: int
    accuracy: float
    stderr: float
    answers: tuple[Answer, ...]

    def by_kind(self) -> dict[str, float]:
        """The share followed of each kind."""
        kinds = sorted({a.kind for a in self.answers})
        return {k: float(np.mean([a.followed for a in self.answers if a.kind == k])) for k in kinds}


def load_instructions(path: Path, split: str = "test") -> list[Instruction]:
    """Read a JSONL file of instructions (columns split, kind, instruction, checks).

    Raises InputError, naming file and line, for the first row that is wrong, or when the split has no rows.
    """
    out = []
    try:
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            row, where = json.loads(line), f"{path}:{number}"
            for check in row["checks"]:
                validate(check, where)
            if row["split"] == split:
                out.append(Instruction(str(row["kind"]), str(row["instruction"]), tuple(row["checks"])))
    except OSError as e:
        raise InputError(f"{path}: cannot be read: {e.strerror}.") from e
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise InputError(f"{path}: is no file of instructions ({type(e).__name__}: {e}).") from e
    if not out:
        raise InputError(f"{path}: has no instructions of split {split!r}.")
    return out


def follow_instructions(
    model: Model,
    instructions: Sequence[Instruction],
    max_tokens: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> FollowResult:
    """Let the model answer every instruction greedily through its chat template, and check the answers.

    `progress` gets (answers done, answers in all). Raises what generate and chat_prompts raise.
    """
    prompts = chat_prompts(model, [i.text for i in instructions])
    outputs = generate(model, prompts, GenerationOptions(max_tokens), progress)
    answers = tuple(
        Answer(i.text, i.kind, o.text, o.ended, o.ended and followed(o.text, i.checks))
        for i, o in zip(instructions, outputs, strict=True)
    )
    values = [float(a.followed) for a in answers]
    return FollowResult(model.name, len(answers), float(np.mean(values)), standard_error(values), answers)
