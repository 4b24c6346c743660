"""Verifiable instructions: a model answers them, and rules check the answers without a judge."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pa_lite.engine.chat import chat_prompts
from pa_lite.engine.chat_options import ChatOptions
from pa_lite.engine.chat_template import chat_facts, measured_options, template_of
from pa_lite.engine.generation import GenerationOptions, generate
from pa_lite.engine.model import Model
from pa_lite.errors import InputError
from pa_lite.instructions.checks import Check, checkable, loose_variants, passes, validate
from pa_lite.progress import Progress, part_of
from pa_lite.sanitize import without_nonfinite
from pa_lite.statistics import Mean, clustered_error, standard_error
from pa_lite.untrusted.rows import read_objects
from pa_lite.untrusted.tables import ANYTHING, TABLES, TEXT, Form, check_table

_log = logging.getLogger(__name__)
# of an instruction; `key` only numbers it
_FORMS: dict[str, Form] = {
    "instruction": TEXT, "checks": ((lambda value: bool(value) and TABLES[0](value)), "a list of checks"), "kind": TEXT,
    "split": ((lambda value: value is None or isinstance(value, str)), "a string or null"), "key": ANYTHING,
}  # fmt: skip


@dataclass(frozen=True)
class Constraint:
    """One requirement of an instruction: its name, and checks that must all pass."""

    name: str
    checks: tuple[Check, ...]

    @property
    def checkable(self) -> bool:
        """Whether rules can check it."""
        return all(map(checkable, self.checks))


@dataclass(frozen=True)
class Instruction:
    """What the model is asked, the kind of instruction, and the constraints on its answer."""

    kind: str
    text: str
    constraints: tuple[Constraint, ...]

    @property
    def checks(self) -> tuple[Check, ...]:
        """The checks of all constraints."""
        return tuple(check for constraint in self.constraints for check in constraint.checks)


@dataclass(frozen=True)
class ConstraintResult:
    """Whether an answer meets a constraint, strictly and loosely (`loose_variants`); None if no rule can check it."""

    name: str
    strict: bool | None
    loose: bool | None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A model's answer to an instruction, and whether it meets every constraint, strictly (`followed`) and loosely."""

    instruction: str
    kind: str
    output: str
    ended: bool
    followed: bool | None
    loose: bool | None = None
    constraints: tuple[ConstraintResult, ...] = ()
    reasoning: str = ""

    def document(self) -> dict[str, Any]:
        """Return the answer as a JSON object; `reasoning`, which is not checked, only if the model reasoned."""
        return {key: value for key, value in asdict(self).items() if value or key != "reasoning"}


@dataclass(frozen=True)
class Rate:
    """The number of checked items, and the share that passes, in [0, 1], strictly and loosely."""

    n: int
    strict: Mean
    loose: Mean

    def to_document(self) -> dict[str, Any]:
        """Return the rate as a JSON object; shares are null if nothing could be checked."""
        shares = {"strict": asdict(self.strict), "loose": asdict(self.loose)}
        return {"n": self.n, **(shares if self.n else {"strict": None, "loose": None})}


@dataclass(frozen=True, kw_only=True)
class FollowResult:
    """The share of instructions followed strictly, in [0, 1], its standard error, and every answer.

    `n` counts the instructions that could be checked. Standard errors of constraints are clustered by answer.
    `identity` is the model's (`Model.identity`), empty if it cannot be computed. `chat` describes the prompts where
    they differ from the template's default (see `chat_facts`).
    """

    model: str
    n: int
    accuracy: float
    stderr: float
    answers: tuple[Answer, ...]
    max_tokens: int | None = None
    identity: str = ""
    chat: Mapping[str, Any] = field(default_factory=dict)

    @property
    def prompt_accuracy(self) -> Mean:
        """The share of instructions whose constraints are all met strictly, and its standard error."""
        return Mean(self.accuracy, self.stderr)

    @property
    def unchecked(self) -> int:
        """The number of constraints that no rule can check; they and their instructions are left out of all shares."""
        return sum(v.strict is None for a in self.answers for v in a.constraints)

    @property
    def cut(self) -> int:
        """The number of answers that were cut at max_tokens."""
        return sum(not a.ended for a in self.answers)

    def by_kind(self) -> dict[str, float]:
        """Return the share followed strictly, by kind of instruction."""
        return {kind: rate.strict.value for kind, rate in self.kinds().items()}

    def prompts(self) -> Rate:
        """Return the rate of instructions whose constraints are all met."""
        return _rate([[(a.followed, a.loose)] for a in self.answers])

    def kinds(self) -> dict[str, Rate]:
        """Return the rate of `prompts` by kind of instruction."""
        names = sorted({a.kind for a in self.answers})
        return {k: _rate([[(a.followed, a.loose)] for a in self.answers if a.kind == k]) for k in names}

    def constraints(self, name: str | None = None) -> Rate:
        """Return the rate of single constraints that are met: all, or those of a name."""
        return _rate([[(v.strict, v.loose) for v in a.constraints if name in (None, v.name)] for a in self.answers])

    def by_constraint(self) -> dict[str, Rate]:
        """Return the rate of `constraints` by name."""
        return {n: self.constraints(n) for n in sorted({v.name for a in self.answers for v in a.constraints})}

    def to_document(self) -> dict[str, Any]:
        """Return the result as a JSON document: rates with standard errors, and every answer."""
        document: dict[str, Any] = without_nonfinite({
            "model": self.model, "identity": self.identity, "max_tokens": self.max_tokens, "chat": dict(self.chat),
            "versions": _versions(),
            "unchecked_constraints": self.unchecked, "cut_answers": self.cut,
            "prompts": self.prompts().to_document(), "constraints": self.constraints().to_document(),
            "by_kind": {k: r.to_document() for k, r in self.kinds().items()},
            "by_constraint": {n: r.to_document() for n, r in self.by_constraint().items()},
            "answers": [a.document() for a in self.answers],
        })  # fmt: skip
        return document


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("pa-lite", "llama-cpp-python")}


def _rate(clusters: Sequence[Sequence[tuple[bool | None, bool | None]]]) -> Rate:
    """Return the rate of (strict, loose) verdicts, clustered by answer. None is left out; NaN if none is left."""
    kept = [[(s, bool(loose)) for s, loose in c if s is not None] for c in clusters]
    n = sum(map(len, kept))
    strict, loose = ([[float(v[i]) for v in c] for c in kept] for i in (0, 1))
    return Rate(n, *(Mean(_mean(v for c in x for v in c), clustered_error(x)) for x in (strict, loose)))


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return float(np.mean(listed)) if listed else float("nan")


def load_instructions(path: Path, split: str = "test", warn: bool = False) -> list[Instruction]:
    """Read a JSONL file of instructions: objects with `instruction` and `checks`.

    `kind`, `split` and `key` are optional. A row without a split, or with null, belongs to every split; with `warn`, a
    warning counts the rows of other splits. Raises InputError with file and line for the first invalid row, and if the
    split has no rows.
    """
    rows = read_objects(path)
    found = [(row.get("split"), instruction_of(row, rows.where(i))) for i, row in enumerate(rows.rows)]
    out = [instruction for named, instruction in found if named in (None, split)]
    if not out:
        raise InputError(f"{path}: has no instructions of split {split!r}.")
    if warn and (left := len(found) - len(out)):
        _log.warning("%s: left out %d of %d instructions, whose split is not %r.", path, left, len(found), split)
    return out


def instruction_of(row: Mapping[str, Any], where: str) -> Instruction:
    """Return the instruction of a row; each check is a constraint, named after the check's type.

    Raises InputError, starting with `where`, for missing, unknown or invalid fields.
    """
    check_table(row, where, _FORMS, ("instruction", "checks"))
    checks = row["checks"]
    for check in checks:
        validate(check, where)
    kind = row.get("kind", kind_by_number(len(checks)))
    return Instruction(kind, row["instruction"], tuple(Constraint(c["kind"], (c,)) for c in checks))


def kind_by_number(n: int) -> str:
    """Return the default kind of an instruction: its number of constraints."""
    return f"{n} constraint{'s' * (n != 1)}"


def check_answer(instruction: Instruction, output: str, ended: bool = True, must_end: bool = True) -> Answer:
    """Check an output against an instruction; with `must_end`, a cut output fails every constraint."""
    counts, variants = ended or not must_end, list(loose_variants(output))

    def verdict(constraint: Constraint) -> ConstraintResult:
        if not constraint.checkable:
            return ConstraintResult(constraint.name, None, None)
        strict, loose = (any(_holds(t, constraint) for t in texts) for texts in ([output], variants))
        return ConstraintResult(constraint.name, counts and strict, counts and loose)

    verdicts = tuple(map(verdict, instruction.constraints))
    known = all(v.strict is not None for v in verdicts)
    return Answer(
        instruction=instruction.text,
        kind=instruction.kind,
        output=output,
        ended=ended,
        followed=all(v.strict for v in verdicts) if known else None,
        loose=all(v.loose for v in verdicts) if known else None,
        constraints=verdicts,
    )


def _holds(text: str, constraint: Constraint) -> bool:
    return all(passes(text, check) for check in constraint.checks)


def follow_instructions(
    model: Model,
    instructions: Sequence[Instruction],
    max_tokens: int = 64,
    progress: Progress | None = None,
    must_end: bool = True,
    parallel: int = 16,
    chat: ChatOptions | None = None,
) -> FollowResult:
    """Answer every instruction greedily through the model's chat template, and check the answers.

    With `must_end`, an answer that was cut at max_tokens, or whose reasoning did not end, fails every constraint.
    `parallel` instructions run at a time; `progress` gets the answers done. Reasoning before an answer is kept but not
    checked. The chat options are completed first (see `measured_options`). Raises what generate and chat_prompts raise.
    """
    template = template_of(model)
    chat = measured_options(template, chat, model.name)
    asked = chat_prompts(model, [i.text for i in instructions], chat)
    options = GenerationOptions(max_tokens=max_tokens, parallel=parallel)
    reports = part_of(progress, "follow", 0, len(instructions), "answers")
    outputs = generate(model, asked.tokens, options, reports, reasoning=asked.reasoning)
    answers = tuple(
        replace(check_answer(i, o.text, o.ended, must_end), reasoning=o.reasoning)
        for i, o in zip(instructions, outputs, strict=True)
    )
    values = [float(a.followed) for a in answers if a.followed is not None]
    return FollowResult(
        model=model.name,
        n=len(values),
        accuracy=_mean(values),
        stderr=standard_error(values),
        answers=answers,
        max_tokens=max_tokens,
        identity=model.known_by()[1],
        chat=chat_facts(template, chat, model.name),
    )
