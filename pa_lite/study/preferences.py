"""The second part of a study's plan: at every lam, a judge compares the answers with those of a reference.

The pairs are known only once all lams have their answers, so these cells are planned from the store. Their keys cover
the judge and both answers of every pair; workers run them like all others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pa_lite.alpaca.judge import PROMPT_ID
from pa_lite.alpaca.pairing import AnswerPair, read_outputs
from pa_lite.errors import InputError
from pa_lite.study.judges import Judge
from pa_lite.study.plan import PlannedCell, StudyPlan
from pa_lite.study.records import AnsweredItem
from pa_lite.study.store import Cell, Store
from pa_lite.study.workloads import AnswersWorkload, WinsWorkload

_Answers = Mapping[tuple[str, float], Sequence[AnsweredItem]]  # by type and lam


def plan_judging(plan: StudyPlan, store: Store, judge: Judge) -> StudyPlan:
    """Return a plan of the cells in which a judge compares the stored answers. Opens no model.

    Raises InputError for a reference that lacks an instruction.
    """
    (workload,) = (each for each in plan.workloads if isinstance(each, AnswersWorkload))
    answers: _Answers = {
        (p.cell.type, p.cell.lam): store.results(p.key) for p in plan.cells if p.cell.kind == workload.kind
    }
    name, reference = _reference(plan, answers)
    datasets = frozenset(p.dataset for p in workload.prompts if p.dataset is not None)
    workloads, cells = list[WinsWorkload](), list[PlannedCell]()
    for i, ((type_, lam), found) in enumerate(answers.items()):
        pairs = (
            AnswerPair(instruction=a.instruction, reference=r, model=a.output, dataset="")
            for a, r in zip(found, reference[type_], strict=True)
        )
        wins = WinsWorkload(
            answers=workload.name, decider=judge, pairs=tuple(pairs), model=f"{plan.pair}@{lam:g}", reference=name,
            datasets=datasets,
        )  # fmt: skip
        inputs = {**judge.inputs, "prompt": PROMPT_ID, "chunk": plan.chunk, **wins.facts}
        workloads.append(wins)
        cells.append(
            PlannedCell(
                Cell(lam=lam, type=type_, kind=wins.kind, name=wins.name, n_items=wins.n_items, inputs=inputs), i
            )
        )
    return replace(
        plan, workloads=tuple(workloads), cells=tuple(cells), n_values=judge.n_values, model_bytes=judge.n_bytes
    )  # fmt: skip


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
