"""The search for the best lam, or for a coarse schedule around it, run on models: what to look at next is evaluated."""

from __future__ import annotations

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
from pa_lite.study.search.halving import Arms, Found, SearchOptions, race_arms, search_lam
from pa_lite.study.worker import LocalWorker
from pa_lite.study.workloads import FollowWorkload

_STEPS = (-0.2, 0.2)  # a group's lam against the others'


@dataclass(frozen=True)
class Schedules:
    """Schedules around one lam, raced: `text` is the best one's, empty when none beats the single lam.

    `differs` and `needed` say whether any is measurably different from it, and how many items would show 2 points.
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
    """Runs items of a plan's works at a lam and schedule, on one model that moves. Reports items done."""

    def __init__(self, plan: StudyPlan, limit: int, progress: Progress | None, phase: str) -> None:
        self.plan, self.limit, self.progress, self.done = plan, limit, progress, 0
        self.phase, self.worker = phase, LocalWorker(plan)

    def __call__(self, lam: float, work: int, items: Sequence[int], schedule: Schedule | None = None) -> Values:
        kind = self.plan.options.types[0]
        records = self.worker.run(kind, lam, work, items, schedule)
        self.done += len(items)
        if self.progress is not None:
            self.progress(self.phase, min(self.done, self.limit), self.limit, "items")
        workload = self.plan.works[work]
        return np.array([workload.value(workload.decode(records[i])) for i in items])


def _sizes(plan: StudyPlan, goal: Goal) -> tuple[tuple[int, ...], bool]:
    """Items of each work, and whether the last is instruction following.

    Raises InputError when the goal lacks it, for several types, and for answers that only a judge could tell apart.
    """
    if len(plan.merges) > 1 or plan.options.alpaca:
        raise InputError("a search measures tasks and instructions, of one type of weights.")
    has_follow = isinstance(plan.works[-1], FollowWorkload)
    if goal.needs_follow and not has_follow:
        raise InputError(f"to find {goal.told()}, name a set of instructions (--follow).")
    return tuple(w.n_items for w in plan.works), has_follow


def find_lam(
    plan: StudyPlan, goal: Goal, options: SearchOptions | None = None, progress: Progress | None = None
) -> Found:
    """Search the plan's lams. `progress` gets the items evaluated, of the most that may be.

    Raises what a sweep raises.
    """
    options = options or SearchOptions()
    sizes, has_follow = _sizes(plan, goal)
    lams = plan.options.lams
    evaluator = _Evaluator(plan, int(options.budget * len(lams) * sum(sizes)), progress, "search")
    with evaluator.worker:
        arms = Arms(lams, sizes, has_follow, lambda lam, w, items: evaluator(lams[lam], w, items))
        return search_lam(arms, goal, options)


def candidate_schedules(plan: StudyPlan, lam: float) -> list[Schedule]:
    """For each tensor group of the model, that group's lam moved up and down, within [0, 1]."""
    merge = next(iter(plan.merges.values()))
    present = {group for group, _ in merge.by_group()}
    return [
        parse_schedule(f"{group}: {moved:g}")
        for group in GROUPS
        for step in _STEPS
        if group in present and 0 <= (moved := round(lam + step, 3)) <= 1
    ]


def check_no_schedule(plan: StudyPlan) -> None:
    """Raise InputError when the plan has a schedule already: those around its lam would replace it silently."""
    if plan.options.schedule.text:
        raise InputError("schedules are raced around a single lam: leave out --schedule, or --schedules.")


def find_schedule(
    plan: StudyPlan, lam: float, goal: Goal, options: SearchOptions | None = None, progress: Progress | None = None
) -> Schedules:
    """Race coarse schedules around a lam: the lam itself, each group moved, and instruct as the goal's yardstick.

    `progress` gets the items evaluated, of the most that may be. Raises InputError for a plan with a schedule of its
    own, and what running cells raises.
    """
    options = options or SearchOptions()
    check_no_schedule(plan)
    sizes, has_follow = _sizes(plan, goal)
    arms = [(lam, Schedule()), *((lam, s) for s in candidate_schedules(plan, lam))]
    if goal.keep_follow is not None and lam != 1:
        arms.append((1.0, Schedule()))
    evaluator = _Evaluator(plan, int(options.budget * len(arms) * sum(sizes)), progress, "race schedules")

    def evaluate(arm: int, work: int, items: Sequence[int]) -> Values:
        return evaluator(arms[arm][0], work, items, arms[arm][1])

    with evaluator.worker:
        raced = race_arms(Arms(tuple(at for at, _ in arms), sizes, has_follow, evaluate), goal, options)
    drawn = raced.utilities[1:]
    won = drawn[:, raced.best] >= drawn.max(axis=1) - 1e-12  # equals are no worse
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
