"""Search for the best lam, or a coarse schedule around it, by evaluating models."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pa_lite.errors import InputError
from pa_lite.merging.groups import GROUPS
from pa_lite.merging.schedule import Schedule, parse_schedule
from pa_lite.progress import Progress
from pa_lite.study.curves import Values
from pa_lite.study.goal import Goal
from pa_lite.study.plan import StudyPlan
from pa_lite.study.search.halving import (
    Arms,
    Found,
    SearchOptions,
    planned_share,
    race_arms,
    remark_on_size,
    search_lam,
)
from pa_lite.study.worker import LocalWorker
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

    def __init__(self, plan: StudyPlan, limit: int, progress: Progress | None, phase: str) -> None:
        self.plan, self.limit, self.progress, self.done = plan, limit, progress, 0
        self.phase, self.worker = phase, LocalWorker(plan)

    def __call__(self, lam: float, index: int, items: Sequence[int], schedule: Schedule | None = None) -> Values:
        weight_type = self.plan.options.types[0]
        records = self.worker.run(weight_type, lam, index, items, schedule)
        self.done += len(items)
        if self.progress is not None:
            self.progress(self.phase, min(self.done, self.limit), self.limit, "items")
        workload = self.plan.workloads[index]
        return np.array([workload.value(workload.decode(records[i])) for i in items])


def _sizes(plan: StudyPlan, goal: Goal) -> tuple[tuple[int, ...], bool]:
    """Return the number of items of each workload, and whether the last is instruction following.

    Raises InputError when the goal requires following and there is none, for several types, and for AlpacaEval answers.
    """
    if len(plan.merges) > 1 or plan.options.alpaca:
        raise InputError("a search uses tasks and instructions (not --alpaca), with a single weight type.")
    if plan.options.score.seeds > 1:
        raise InputError("a search draws exemplars once: omit --seeds. To average over draws, use a sweep.")
    has_follow = isinstance(plan.workloads[-1], FollowWorkload)
    if goal.needs_follow and not has_follow:
        raise InputError(f"{goal.told()}: this goal requires an instruction set (--follow).")
    return tuple(w.n_items for w in plan.workloads), has_follow


def _planned(sizes: Sequence[int], has_follow: bool, goal: Goal, options: SearchOptions, name: str) -> float:
    """Return the share of the grid that will be spent, and log what a user should know of it before the work."""
    if remark := remark_on_size(sizes, has_follow, goal, options, name):
        _log.warning("%s", remark)
    return planned_share(sizes, has_follow, goal, options)


def find_lam(
    plan: StudyPlan, goal: Goal, options: SearchOptions | None = None, progress: Progress | None = None
) -> Found:
    """Search the plan's lams. `progress` counts evaluated items, out of those planned. Raises what a sweep raises."""
    options = options or SearchOptions()
    sizes, has_follow = _sizes(plan, goal)
    lams = plan.options.lams
    share = _planned(sizes, has_follow, goal, options, "lam")
    evaluator = _Evaluator(plan, int(share * len(lams) * sum(sizes)), progress, "search")
    with evaluator.worker:
        arms = Arms(
            lams=lams, sizes=sizes, has_follow=has_follow, evaluate=lambda lam, w, items: evaluator(lams[lam], w, items)
        )
        return search_lam(arms, goal, options)


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
    plan: StudyPlan, lam: float, goal: Goal, options: SearchOptions | None = None, progress: Progress | None = None
) -> Schedules:
    """Race coarse schedules around a lam: the lam itself, each group moved, and lam 1 if the goal compares with it.

    `progress` counts evaluated items, out of those planned. Raises InputError for a plan with a schedule, and what
    running cells raises.
    """
    options = options or SearchOptions()
    check_no_schedule(plan)
    sizes, has_follow = _sizes(plan, goal)
    arms = [(lam, Schedule()), *((lam, s) for s in candidate_schedules(plan, lam))]
    if goal.keep_follow is not None and lam != 1:
        arms.append((1.0, Schedule()))
    share = _planned(sizes, has_follow, goal, options, "schedule")
    evaluator = _Evaluator(plan, int(share * len(arms) * sum(sizes)), progress, "race schedules")

    def evaluate(arm: int, series: int, items: Sequence[int]) -> Values:
        return evaluator(arms[arm][0], series, items, arms[arm][1])

    with evaluator.worker:
        raced = race_arms(
            Arms(lams=tuple(at for at, _ in arms), sizes=sizes, has_follow=has_follow, evaluate=evaluate), goal, options
        )
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
