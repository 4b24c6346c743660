"""Annotations in AlpacaEval's form: a judge's preferences between the outputs of two models."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from pa_lite.alpaca.content import content_of, data_set_of
from pa_lite.alpaca.records import Record, read_records, same_name, text_of
from pa_lite.engine.reasoning import split_reasoning
from pa_lite.errors import InputError

ROUNDING = 1e-3  # error of probabilities that are sums of others


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """An annotated pair: `preference` from 1 (the reference's output 1 wins) to 2 (the model's wins), or None.

    The other fields are those of a `Verdict`; only annotations by `judge` have them.
    """

    instruction: str
    output_1: str
    output_2: str
    preference: float | None
    reference_first: float | None = None
    model_first: float | None = None
    answer_mass: float | None = None


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """Judgements of one model (generator 2) against one reference (generator 1) by one annotator.

    `datasets` are the data sets that entries name.
    """

    model: str
    reference: str
    annotator: str
    judgements: tuple[Judgement, ...]
    datasets: frozenset[str] = frozenset()


def read_annotations(path: Path) -> Annotations:
    """Read an annotations file, JSON or JSONL. A preference of 0 is a draw, as in old AlpacaEval files.

    Reasoning before an output is removed, so that lengths are those of the answers. Raises InputError, naming file and
    entry, for a missing string or preference, a preference out of range, several models, and a file without any
    preference.
    """
    rows = read_records(path)
    judgements = []
    datasets: set[str | None] = set()
    for number, row in enumerate(rows, 1):
        where = f"{path}: entry {number}"
        judgements.append(read_judgement(row, where))
        datasets.add(data_set_of(row, where, None))
    if all(j.preference is None for j in judgements):
        raise InputError(f"{path}: none of its {len(rows)} entries has a preference.")
    return Annotations(
        model=same_name(rows, "generator_2", path),
        reference=same_name(rows, "generator_1", path),
        annotator=same_name(rows, "annotator", path, "unknown"),
        judgements=tuple(judgements),
        datasets=frozenset(name for name in datasets if name is not None),
    )


def read_judgement(row: Record, where: str) -> Judgement:
    """Return an entry of an annotations file. Raises InputError, naming `where`, as `read_annotations` does."""
    if "preference" not in row:
        raise InputError(f"{where} has no 'preference'. Is this an annotations file?")
    outputs = [split_reasoning(text_of(row, key, where, empty=True)).answer for key in ("output_1", "output_2")]
    return Judgement(
        instruction=content_of(row, where).request,
        output_1=outputs[0],
        output_2=outputs[1],
        preference=_preference(row["preference"], where),
        **{key: _probability(row, key, where) for key in ("reference_first", "model_first", "answer_mass")},
    )


def _probability(row: Record, key: str, where: str) -> float | None:
    """Return a probability that `judge` wrote, None where it is missing or null. Raises InputError for other values."""
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1 + ROUNDING:
        raise InputError(f"{where}: {key!r} is {value!r:.80}, not a probability.")
    return float(value)


def _preference(value: object, where: str) -> float | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{where}: 'preference' is {value!r}, not a number.")
    if value == 0:
        return 1.5
    if not 1 <= value <= 2:
        raise InputError(f"{where}: 'preference' is {value}, outside [1, 2].")
    return float(value)
