"""Two model_outputs files brought together: the answers of a model and of a reference to the same instructions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pa_lite.alpaca.content import content_of, data_set_of
from pa_lite.alpaca.outputs import Output
from pa_lite.alpaca.records import read_records, same_name, shorten, text_of
from pa_lite.engine.reasoning import split_reasoning
from pa_lite.errors import InputError
from pa_lite.sanitize import name_text


@dataclass(frozen=True)
class AnswerPair:
    """One request, the reference's answer (output 1 of an annotation) and the model's (output 2)."""

    instruction: str
    reference: str
    model: str
    dataset: str | None


@dataclass(frozen=True)
class Pairing:
    """Every pair in the order of the model's file; `n_left` counts the reference's further instructions."""

    model: str
    reference: str
    pairs: tuple[AnswerPair, ...]
    n_left: int


def read_outputs(path: Path, allow_empty: bool = False) -> list[Output]:
    """Read a model_outputs file, JSON or JSONL; the generator's name is the file's own where no entry has one.

    An output's `instruction` is the whole request: `input` (or `context`) follows it, a `system` prompt stands before
    it, so that two files match by all that was asked. Reasoning before an answer (`<think>...</think>` and the like) is
    kept apart as `reasoning`; where it never ended, the output is empty. Raises InputError, naming file and entry, for
    an entry without `instruction` or `output`, content that would be lost (see `content_of`), a request that comes
    twice, several generators, and, unless allowed, for an empty output.
    """
    rows = read_records(path)
    generator = same_name(rows, "generator", path, name_text(path.stem))
    seen: dict[str, int] = {}
    outputs = []
    for number, row in enumerate(rows, 1):
        where = f"{path}: entry {number}"
        instruction, output = content_of(row, where).request, text_of(row, "output", where, empty=True)
        if (first := seen.setdefault(instruction, number)) != number:
            raise InputError(f"{where} has the instruction of entry {first} again: {shorten(instruction)}.")
        reasoning, answer, _ = split_reasoning(output)
        dataset = data_set_of(row, where, name_text(path.stem))
        outputs.append(Output(instruction, answer, generator, dataset, reasoning=reasoning))
    empty = [number for number, o in enumerate(outputs, 1) if not o.output.strip()]
    if empty and not allow_empty:
        raise InputError(
            f"{path}: {len(empty)} of {len(outputs)} outputs are empty{_reasoned(outputs, empty)}, the first in entry "
            f"{empty[0]}. Say --allow-empty to have them judged as they are."
        )
    return outputs


def _reasoned(outputs: list[Output], empty: list[int]) -> str:
    """How many of the empty outputs hold reasoning alone, in brackets; `empty` are their numbers from 1."""
    n = sum(bool(outputs[number - 1].reasoning) for number in empty)
    return f" ({n} hold only reasoning: more --max-tokens would have let them answer)" if n else ""


def pair_outputs(model: Path, reference: Path, allow_empty: bool = False) -> Pairing:
    """Match two files by the text of their requests; the reference may have more, not fewer.

    Raises InputError for what `read_outputs` refuses, and when the reference lacks an instruction.
    """
    ours, theirs = read_outputs(model, allow_empty), read_outputs(reference, allow_empty)
    answers = {o.instruction: o.output for o in theirs}
    missing = [o.instruction for o in ours if o.instruction not in answers]
    if missing:
        raise InputError(
            f"{reference}: lacks {len(missing)} of the {len(ours)} instructions of {model}, "
            f"such as {shorten(missing[0])}. Both must answer the same instructions."
        )
    pairs = tuple(AnswerPair(o.instruction, answers[o.instruction], o.output, o.dataset) for o in ours)
    return Pairing(ours[0].generator, theirs[0].generator, pairs, len(theirs) - len(ours))
