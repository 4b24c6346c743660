"""A judge's preferences at every lam: whose answer is better, the lam's or a reference's. Cells of their own."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from pa_lite.alpaca.journal import digest
from pa_lite.alpaca.judge import PROMPT_ID, JudgeOptions, Verdict, judge_pairs
from pa_lite.alpaca.outputs import generator_name
from pa_lite.alpaca.pairing import AnswerPair, read_outputs
from pa_lite.engine.chat_options import ChatOptions
from pa_lite.engine.chat_template import chat_facts, measured_options, template_of
from pa_lite.engine.model import Model
from pa_lite.engine.model_reference import open_model
from pa_lite.engine.options import METHOD
from pa_lite.errors import InputError
from pa_lite.statistics import standard_error
from pa_lite.study.plan import StudyPlan, environment
from pa_lite.study.staleness import settle
from pa_lite.study.store import Cell, Store, StoredCell
from pa_lite.study.workloads import chunks

Progress = Callable[[int, int], None]
_Outputs = Mapping[tuple[str, float], Sequence[Mapping[str, Any]]]  # of each type and lam


def judge_lams(plan: StudyPlan, store: Store, progress: Progress | None = None, keep_stale: bool = False) -> None:
    """Have the plan's judge compare the answers of every lam, and note the cells after the study's others.

    The lams' answers must be in the store. Preferences from other inputs are judged again, or kept with `keep_stale`
    where judge and answers are the same. `progress` gets (pairs done, pairs in all). Raises InputError for a
    reference that lacks an instruction, and what opening the judge and judging raise.
    """
    answers = {(c.type, c.lam): c for c in _answers(plan, store)}
    outputs = {at: store.items(cell.key) for at, cell in answers.items()}
    reference = _reference(plan, outputs)
    facts, keys, done, total = store.facts(), list[str](), 0, sum(map(len, outputs.values()))
    with open_model(plan.options.judge, plan.options.engine) as judge:
        # its own prompts have the study's date; system prompt and arguments are the measured models'
        chat = measured_options(template_of(judge), ChatOptions(date=plan.options.chat.date), judge.name)
        asked = []
        for at, found in outputs.items():
            pairs = [
                AnswerPair(a["instruction"], r, a["output"], "") for a, r in zip(found, reference[at[0]], strict=True)
            ]
            asked.append((_cell(plan, answers[at], pairs, judge, chat), pairs))
        settled = settle([cell for cell, _ in asked], store.cells(), keep_stale)
        settled.report()
        kept = settled.stand_ins()
        for cell, pairs in asked:
            for n in _judge(plan, store, cell, pairs, judge, chat) if cell.key not in kept else ():
                if progress is not None:
                    progress(done + n, total)
            done += len(pairs)
            keys.append(kept[cell.key].old.key if cell.key in kept else cell.key)
    why = {s.old.key: list(s.reasons) for s in settled.kept}
    store.note({"cells": [*facts["cells"], *keys], "kept": {**facts["kept"], **why}})


def _answers(plan: StudyPlan, store: Store) -> list[StoredCell]:
    """The plan's cells of answers, in its order."""
    by_key = {c.key: c for c in store.cells()}
    return [by_key[p.key] for p in plan.cells if p.cell.kind == "answers"]


def _reference(
    plan: StudyPlan, outputs: Mapping[tuple[str, float], Sequence[Mapping[str, Any]]]
) -> dict[str, list[str]]:
    """Type -> the reference's answer to each instruction: the file's, else those at lam 1."""
    path = plan.options.reference
    if path is None:
        return {kind: [a["output"] for a in outputs[kind, 1.0]] for kind in plan.options.types}
    held = {o.instruction: o.output for o in read_outputs(path, allow_empty=True)}
    asked = [a["instruction"] for a in next(iter(outputs.values()))]
    for instruction in asked:
        if instruction not in held:
            raise InputError(f"{path}: has no output for the instruction {instruction[:80]!r}.")
    return {kind: [held[i] for i in asked] for kind in plan.options.types}


def _cell(plan: StudyPlan, answers: StoredCell, pairs: Sequence[AnswerPair], judge: Model, chat: ChatOptions) -> Cell:
    inputs = {
        "judge": judge.fingerprint(), "judge_identity": judge.identity(), "judge_header": judge.header_inputs(),
        "prompt": PROMPT_ID, "pairs": digest([asdict(p) for p in pairs]), "options": asdict(JudgeOptions()),
        "context": judge.max_length, "chunk": plan.chunk, "engine": judge.options.inputs, "method": METHOD,
        "llama_cpp_python": importlib.metadata.version("llama-cpp-python"),
        **chat_facts(template_of(judge), chat, judge.name),
    }  # fmt: skip
    name = f"{answers.name}, judged by {generator_name(plan.options.judge)}"
    return Cell(answers.lam, answers.type, "wins", name, len(pairs), inputs)


def _judge(
    plan: StudyPlan, store: Store, cell: Cell, pairs: Sequence[AnswerPair], judge: Model, chat: ChatOptions
) -> Iterator[int]:
    """Judge what is missing of a cell, chunk by chunk; yields how many pairs are done."""
    have = store.begin(cell, environment())
    for chunk in chunks(len(pairs), plan.chunk):
        if not have.issuperset(chunk):
            start, verdicts = time.perf_counter(), dict[int, Verdict]()
            judge_pairs(judge, [pairs[i] for i in chunk], JudgeOptions(), verdicts.__setitem__, chat=chat)
            records = {i: {"instruction": pairs[i].instruction, **asdict(verdicts[k])} for k, i in enumerate(chunk)}
            store.add(cell.key, records, time.perf_counter() - start)
        yield chunk.stop
    if not store.finished([cell.key]):
        values = [r["preference"] - 1 for r in store.items(cell.key) if r["preference"] is not None]
        average = float(np.mean(values)) if values else float("nan")
        unjudged = len(pairs) - len(values)
        store.finish(
            cell.key, {"n": len(values), "value": average, "stderr": standard_error(values), "unjudged": unjudged}
        )
