"""The second part of a study's plan: at every lam, a judge compares the answers with those of a reference.

The pairs are known only once all lams have their answers, so these cells are planned from the store. Their keys cover
the judge and both answers of every pair; workers run them like all others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pa_lite.alpaca.calibration import LEAST_PAIRS
from pa_lite.alpaca.judge import PROMPT_ID
from pa_lite.alpaca.known import Known
from pa_lite.alpaca.outputs import generator_name
from pa_lite.alpaca.pairing import AnswerPair, read_outputs
from pa_lite.errors import InputError
from pa_lite.sanitize import name_text
from pa_lite.study.judged_workloads import CalibrationWorkload, WinsWorkload
from pa_lite.study.judges import Judge
from pa_lite.study.plan import PlannedCell, StudyPlan
from pa_lite.study.records import AnsweredItem
from pa_lite.study.store import Cell, Store
from pa_lite.study.workload import Workload
from pa_lite.study.workloads import AnswersWorkload

_Answers = Mapping[tuple[str, float], Sequence[AnsweredItem]]  # by type and lam


def plan_judging(plan: StudyPlan, store: Store, judge: Judge, known: Known | None = None) -> StudyPlan:
    """Return a plan of the cells in which a judge compares the stored answers. Opens no model.

    Unless LEAST_PAIRS of these pairs have `known` preferences, the judge also judges the pairs of `known`, in one more
    cell. Raises InputError for a reference that lacks an instruction, and for preferences that cannot be used.
    """
    (workload,) = (each for each in plan.workloads if isinstance(each, AnswersWorkload))
    answers: _Answers = {
        (p.cell.type, p.cell.lam): store.results(p.key) for p in plan.cells if p.cell.kind == workload.kind
    }
    name, reference = _reference(plan, answers)
    datasets = frozenset(p.dataset for p in workload.prompts if p.dataset is not None)
    workloads, at = list[WinsWorkload | CalibrationWorkload](), list[tuple[str, float]]()
    for (type_, lam), found in answers.items():
        pairs = (
            AnswerPair(instruction=a.instruction, reference=r, model=a.output, dataset="")
            for a, r in zip(found, reference[type_], strict=True)
        )
        wins = WinsWorkload(
            answers=workload.name, decider=judge, pairs=tuple(pairs), model=f"{plan.pair}@{lam:g}", reference=name,
            datasets=datasets,
        )  # fmt: skip
        workloads.append(wins)
        at.append((type_, lam))
        if known is not None:
            known.check_names(wins.pair_keys, wins.reference, wins.model)
    if known is not None:
        known.check_annotator(generator_name(judge.reference))
        if len(known_among(workloads, known)) < LEAST_PAIRS:
            name = name_text(Path(known.source).stem)
            workloads.append(CalibrationWorkload(answers=name, decider=judge, pairs=known.pairs))
            at.append(at[0])  # it depends on neither, but every cell has a type and a lam
    cells = tuple(_cell(plan, judge, *where, w, i) for i, (where, w) in enumerate(zip(at, workloads, strict=True)))
    return replace(plan, workloads=tuple(workloads), cells=cells, n_values=judge.n_values, model_bytes=judge.n_bytes)


def _cell(
    plan: StudyPlan, judge: Judge, type_: str, lam: float, workload: WinsWorkload | CalibrationWorkload, index: int
) -> PlannedCell:
    inputs = {**judge.inputs, "prompt": PROMPT_ID, "chunk": plan.chunk, **workload.facts}
    cell = Cell(
        lam=lam, type=type_, kind=workload.kind, name=workload.name, n_items=workload.n_items, inputs=inputs
    )  # fmt: skip
    return PlannedCell(cell, index)


def known_among(workloads: Iterable[Workload[Any]], known: Known) -> dict[str, tuple[float, float]]:
    """Return the known preferences of the pairs that a judge compares, by `pair_key`; each pair in one order."""
    judged = (w for w in workloads if isinstance(w, (WinsWorkload, CalibrationWorkload)))
    return known.among(key for w in judged for key in w.pair_keys)


def _reference(plan: StudyPlan, answers: _Answers) -> tuple[str, dict[str, list[str]]]:
    """Return the reference's name, and by type its answer to each instruction: from the file, or those at lam 1."""
    path = plan.options.reference
    if path is None:
        return f"{plan.pair}@1", {type_: [a.output for a in answers[type_, 1.0]] for type_ in plan.options.types}
    outputs = read_outputs(path, allow_empty=True)
    output_of = {o.instruction: o.output for o in outputs}
    instructions = [a.instruction for a in next(iter(answers.values()))]
    for instruction in instructions:
        if instruction not in output_of:
            raise InputError(f"{path}: has no output for the instruction {instruction[:80]!r}.")
    return outputs[0].generator, {type_: [output_of[i] for i in instructions] for type_ in plan.options.types}
