"""Matching of two model_outputs files: a model's and a reference's answers to the same instructions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pa_lite.alpaca.content import content_of, data_set_of
from pa_lite.alpaca.outputs import Output
from pa_lite.alpaca.records import read_records, same_name, shorten, text_of
from pa_lite.engine.reasoning import split_reasoning
from pa_lite.errors import InputError
from pa_lite.sanitize import name_text


@dataclass(frozen=True, kw_only=True)
class AnswerPair:
    """One request, the reference's answer (output 1 of an annotation) and the model's (output 2)."""

    instruction: str
    reference: str
    model: str
    dataset: str | None


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Pairs in the order of the model's file; `n_left` counts instructions that only the reference answers."""

    model: str
    reference: str
    pairs: tuple[AnswerPair, ...]
    n_left: int


def read_outputs(path: Path, allow_empty: bool = False) -> list[Output]:
    """Read a model_outputs file, JSON or JSONL. Without `generator` in any entry, the file's name names the generator.

    An output's `instruction` is the whole request: a `system` prompt before it and `input` (or `context`) after it, so
    that two files match by the whole request. Reasoning before an answer (`<think>...</think>` and similar) goes to
    `reasoning`; where it never ended, the output is empty. Raises InputError, naming file and entry, for an entry
    without `instruction` or `output`, content that would be lost (see `content_of`), a duplicate request, several
    generators, and, unless allowed, an empty output.
    """
    rows = read_records(path)
    generator = same_name(rows, "generator", path, name_text(path.stem))
    seen: dict[str, int] = {}
    outputs = []
    for number, row in enumerate(rows, 1):
        where = f"{path}: entry {number}"
        instruction, output = content_of(row, where).request, text_of(row, "output", where, empty=True)
        if (first := seen.setdefault(instruction, number)) != number:
            raise InputError(f"{where} repeats the instruction of entry {first}: {shorten(instruction)}.")
        reasoning, answer, _ = split_reasoning(output)
        dataset = data_set_of(row, where, name_text(path.stem))
        outputs.append(
            Output(instruction=instruction, output=answer, generator=generator, dataset=dataset, reasoning=reasoning)
        )
    empty = [number for number, o in enumerate(outputs, 1) if not o.output.strip()]
    if empty and not allow_empty:
        raise InputError(
            f"{path}: {len(empty)} of {len(outputs)} outputs are empty{_reasoned(outputs, empty)}, the first in entry "
            f"{empty[0]}. Use --allow-empty to judge them anyway."
        )
    return outputs


def _reasoned(outputs: list[Output], empty: list[int]) -> str:
    """Return in brackets how many of the empty outputs hold only reasoning; `empty` are entry numbers from 1."""
    n = sum(bool(outputs[number - 1].reasoning) for number in empty)
    return f" ({n} hold only reasoning: raise --max-tokens so that they can answer)" if n else ""


def pair_outputs(model: Path, reference: Path, allow_empty: bool = False) -> Pairing:
    """Match two files by their requests; the reference may have more, not fewer.

    Raises InputError where `read_outputs` does, and when the reference lacks an instruction.
    """
    ours, theirs = read_outputs(model, allow_empty), read_outputs(reference, allow_empty)
    answers = {o.instruction: o.output for o in theirs}
    missing = [o.instruction for o in ours if o.instruction not in answers]
    if missing:
        raise InputError(
            f"{reference}: lacks {len(missing)} of the {len(ours)} instructions of {model}, "
            f"such as {shorten(missing[0])}. Both must answer the same instructions."
        )
    pairs = tuple(
        AnswerPair(instruction=o.instruction, reference=answers[o.instruction], model=o.output, dataset=o.dataset)
        for o in ours
    )
    return Pairing(model=ours[0].generator, reference=theirs[0].generator, pairs=pairs, n_left=len(theirs) - len(ours))
