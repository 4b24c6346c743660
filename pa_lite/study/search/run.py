"""Search for the best lam, or a coarse schedule around it, by evaluating models."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pa_lite.checkpoints.pairs import Pair
from pa_lite.errors import InputError
from pa_lite.merging.groups import GROUPS
from pa_lite.merging.schedule import Schedule, parse_schedule
from pa_lite.progress import Progress, silent
from pa_lite.study.curves import Values
from pa_lite.study.estimate import Estimate, estimate_sweep
from pa_lite.study.goal import Goal
from pa_lite.study.measures import TEXT
from pa_lite.study.plan import StudyOptions, StudyPlan, plan_study, with_answers
from pa_lite.study.records import InstructAnswer, Record
from pa_lite.study.search.halving import (
    Arms,
    Found,
    SearchOptions,
    planned_share,
    race_arms,
    remark_on_size,
    search_lam,
)
from pa_lite.study.search.recorded import Recorded, check_is_search, search_facts
from pa_lite.study.sentences import measures_in_words
from pa_lite.study.store import open_store
from pa_lite.study.sweep import answer_by_instruct, check_pair, facts, with_recorded_date
from pa_lite.study.tracker import labels_of
from pa_lite.study.unlabelled import AgreementWorkload
from pa_lite.study.worker import LocalWorker
from pa_lite.study.workload import Workload, chunks
from pa_lite.study.workloads import FollowWorkload

_log = logging.getLogger(__name__)
_STEPS = (-0.2, 0.2)  # changes of one group's lam


@dataclass(frozen=True, kw_only=True)
class Schedules:
    """The result of racing schedules around one lam; `text` is the best schedule, empty when the single lam is best.

    `differs` says whether any is measurably different from it, `needed` how many items would show 2 points.
    """

    lam: float
    text: str
    confidence: float
    spent: int
    grid: int
    candidates: tuple[str, ...]
    utilities: tuple[float, ...]
    differs: bool = True
    needed: int = 0


class _Evaluator:
    """Evaluates items of a plan's workloads at any lam and schedule, on one model moved in memory, with progress."""

    def __init__(
        self, plan: StudyPlan, limit: int, progress: Progress | None, phase: str, recorded: Recorded | None
    ) -> None:
        self.plan, self.limit, self.done = plan, limit, 0
        self.progress = silent if progress is None else progress
        self.phase, self.worker, self.recorded = phase, LocalWorker(plan), recorded
        self.labels = labels_of(plan.workloads)

    def __call__(self, lam: float, index: int, items: Sequence[int], schedule: Schedule | None = None) -> Values:
        chosen = self.plan.options.schedule if schedule is None else schedule

        def run() -> dict[int, Record]:
            weight_type = self.plan.options.types[0]
            return self.worker.run(weight_type, lam, index, items, chosen, progress=inside)

        def inside(_phase: str, done: int, total: int, _unit: str, /) -> None:
            if total:
                self._report(lam, index, self.done + len(items) * done // total)

        self._report(lam, index, self.done)
        records = run() if self.recorded is None else self.recorded.evaluate(lam, index, items, chosen, run)
        self.done += len(items)
        self._report(lam, index, self.done)
        return _values(self.plan.workloads[index], [records[i] for i in items])

    def _report(self, lam: float, index: int, done: int) -> None:
        phase = f"{self.phase}lam {lam:g} \u00b7 {self.labels[index]}"
        self.progress(phase, min(done, self.limit), self.limit, "items")


def _values(workload: Workload[Any], records: Sequence[Record]) -> Values:
    """Return the values of items that a race averages: higher is better, and each counts the same.

    So bits get a minus sign, and what is averaged by length is multiplied by the length relative to the average one.
    """
    sign = -1.0 if workload.measure is TEXT else 1.0
    results = [workload.decode(record) for record in records]
    values = [sign * workload.value(r) * workload.weight(r) / workload.mean_weight for r in results]
    return np.array(values)


class Sides(NamedTuple):
    """What a search measures: the items of each workload, and what its goal is about."""

    sizes: tuple[int, ...]
    has_follow: bool
    has_text: bool
    has_agreement: bool


def _sides(plan: StudyPlan, goal: Goal) -> Sides:
    """Return the number of items of each workload, and whether the last is instruction following.

    Raises InputError when the goal requires following and there is none, for two measures of one side, for several
    types, and for AlpacaEval answers.
    """
    if len(plan.merges) > 1 or plan.options.alpaca:
        raise InputError("a search uses tasks and instructions (not --alpaca), with a single weight type.")
    if plan.options.score.seeds > 1:
        raise InputError("a search draws exemplars once: omit --seeds. To average over draws, use a sweep.")
    options, last = plan.options, plan.workloads[-1]
    has_tasks = bool(options.tasks or options.examples)
    if has_tasks and options.text:
        raise InputError("a search goes by --tasks, or by --text in their place: omit one. A sweep measures both.")
    if options.follow and options.prompts:
        raise InputError("a search goes by --follow, or by --prompts in its place: omit one. A sweep measures both.")
    if not (has_tasks or options.text):
        raise InputError("a search requires few-shot tasks (--tasks, --examples), or text (--text) in their place.")
    sides = Sides(
        sizes=tuple(w.n_items for w in plan.workloads),
        has_follow=isinstance(last, (FollowWorkload, AgreementWorkload)),
        has_text=bool(options.text),
        has_agreement=isinstance(last, AgreementWorkload),
    )
    if goal.needs_follow and not sides.has_follow:
        told = goal.told(*measures_in_words(sides.has_text, False))
        raise InputError(f"{told}: this goal requires an instruction set (--follow).")
    return sides


def _planned(sizes: Sequence[int], has_follow: bool, goal: Goal, options: SearchOptions, name: str) -> float:
    """Return the share of the grid that will be spent, and log what a user should know of it before the work."""
    if remark := remark_on_size(sizes, has_follow, goal, options, name):
        _log.warning("%s", remark)
    return planned_share(sizes, has_follow, goal, options)


def find_lam(
    plan: StudyPlan,
    goal: Goal,
    options: SearchOptions | None = None,
    progress: Progress | None = None,
    recorded: Recorded | None = None,
) -> Found:
    """Search the plan's lams. `progress` counts evaluated items, out of those planned. Raises what a sweep raises.

    `recorded` has the evaluations of an earlier run, and takes the new ones.
    """
    options = options or SearchOptions()
    sides = _sides(plan, goal)
    sizes, lams = sides.sizes, plan.options.lams
    share = _planned(sizes, sides.has_follow, goal, options, "lam")
    evaluator = _Evaluator(plan, int(share * len(lams) * sum(sizes)), progress, "", recorded)
    with evaluator.worker:
        arms = Arms(lams=lams, evaluate=lambda lam, w, items: evaluator(lams[lam], w, items), **sides._asdict())
        return search_lam(arms, goal, options)


def search_pair(
    pair: str | Pair,
    options: StudyOptions,
    goal: Goal,
    search: SearchOptions,
    schedules: bool,
    folder: Path | None,
    progress: Progress | None = None,
) -> tuple[Found, Schedules | None]:
    """Search a pair's best lam, and then schedules around it if requested.

    With a folder, evaluations are kept there, and the same search continues an interrupted one. Raises InputError for a
    folder with the results of a sweep or of another pair, and what find_lam and find_schedule raise.
    """
    with ExitStack() as stack:
        store = None if folder is None else stack.enter_context(open_store(folder))
        if store is not None:
            check_is_search(store)
            options = with_recorded_date(options, store)
        plan = plan_study(pair, options)
        if schedules:
            check_no_schedule(plan)  # before any work
        recorded = None
        if store is not None:
            check_pair(plan, store)
            store.note({**facts(plan), "cells": []})
        _sides(plan, goal)  # fails before instruct answers
        if plan.before is not None:
            plan = _answered(plan, progress) if store is None else answer_by_instruct(plan, store, progress)
        if store is not None:
            recorded = Recorded(plan, store, search_facts(search, goal))
        found = find_lam(plan, goal, search, progress, recorded)
        return found, find_schedule(plan, found.lam, goal, search, progress, recorded) if schedules else None


def _answered(plan: StudyPlan, progress: Progress | None) -> StudyPlan:
    """Return the plan with instruct's answers, which are not kept."""
    before = plan.before
    assert before is not None
    (workload,), answers = before.workloads, dict[str, list[InstructAnswer]]()
    with LocalWorker(before) as worker:
        for weight_type in before.merges:
            found: dict[int, Record] = {}
            for part in chunks(workload.n_items, before.chunk):
                found |= worker.run(weight_type, 1.0, 0, part, progress=progress)
            answers[weight_type] = [workload.decode(found[i]) for i in range(workload.n_items)]
    return with_answers(plan, answers)


def estimate_search(pair: str | Pair, options: StudyOptions, goal: Goal, search: SearchOptions) -> Estimate:
    """Estimate the cost of a search without schedules: cells are lams by workloads, items the evaluations planned.

    Measures a few items. Raises what plan_study raises.
    """
    plan = plan_study(pair, options)
    sides = _sides(plan, goal)
    share = _planned(sides.sizes, sides.has_follow, goal, search, "lam")
    whole = estimate_sweep(plan)
    items = int(share * whole.items)
    seconds = None if whole.seconds is None else share * whole.seconds * plan.workers
    return replace(
        whole, items=items, items_left=items, seconds=seconds, workers=1, memory=whole.memory // plan.workers
    )


def candidate_schedules(plan: StudyPlan, lam: float) -> list[Schedule]:
    """Return for each tensor group of the model schedules with that group's lam moved up and down, within [0, 1]."""
    merge = next(iter(plan.merges.values()))
    present = {group for group, _ in merge.by_group()}
    return [
        parse_schedule(f"{group}: {moved:g}")
        for group in GROUPS
        for step in _STEPS
        if group in present and 0 <= (moved := round(lam + step, 3)) <= 1
    ]


def check_no_schedule(plan: StudyPlan) -> None:
    """Raise InputError when the plan has a schedule, which the candidate schedules would silently replace."""
    if plan.options.schedule.text:
        raise InputError("--schedules races schedules around a single lam: omit --schedule, or --schedules.")


def find_schedule(
    plan: StudyPlan,
    lam: float,
    goal: Goal,
    options: SearchOptions | None = None,
    progress: Progress | None = None,
    recorded: Recorded | None = None,
) -> Schedules:
    """Race coarse schedules around a lam: the lam itself, each group moved, and lam 1 if the goal compares with it.

    `progress` counts evaluated items, out of those planned. Raises InputError for a plan with a schedule, and what
    running cells raises.
    """
    options = options or SearchOptions()
    check_no_schedule(plan)
    sides = _sides(plan, goal)
    sizes = sides.sizes
    arms = [(lam, Schedule()), *((lam, s) for s in candidate_schedules(plan, lam))]
    if goal.keep_follow is not None and lam != 1:
        arms.append((1.0, Schedule()))
    if goal.needs_follow and sides.has_agreement and lam != 0:
        arms.append((0.0, Schedule()))
    share = _planned(sizes, sides.has_follow, goal, options, "schedule")
    evaluator = _Evaluator(plan, int(share * len(arms) * sum(sizes)), progress, "schedules · ", recorded)

    def evaluate(arm: int, series: int, items: Sequence[int]) -> Values:
        return evaluator(arms[arm][0], series, items, arms[arm][1])

    with evaluator.worker:
        raced = race_arms(Arms(lams=tuple(at for at, _ in arms), evaluate=evaluate, **sides._asdict()), goal, options)
    drawn = raced.utilities[1:]
    won = drawn[:, raced.best] >= drawn.max(axis=1) - 1e-12  # ties count as won
    return Schedules(
        lam=arms[raced.best][0],
        text=arms[raced.best][1].text,
        confidence=float(won.mean()),
        spent=raced.spent,
        grid=raced.grid,
        candidates=tuple(schedule.text or f"lam {at:g}" for at, schedule in arms),
        utilities=tuple(map(float, raced.utilities[0])),
        differs=raced.differs,
        needed=raced.needed,
    )
