"""A tuning, step by step: plan, first pass at every lam, search of some lams, choice, final check of the file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pa_lite.alpaca.journal import digest
from pa_lite.checkpoints.pairs import Pair
from pa_lite.engine.model_reference import open_model
from pa_lite.errors import InputError
from pa_lite.merging.plan import MergePlan, PlanOptions, plan_merge
from pa_lite.progress import Progress, part_of
from pa_lite.statistics import mean_interval, score_interval, spread_of_average, spread_of_mean
from pa_lite.study.curves import Values
from pa_lite.study.estimate import Estimate, estimate_sweep
from pa_lite.study.goal import Goal
from pa_lite.study.measures import TEXT
from pa_lite.study.plan import StudyOptions, StudyPlan, context_length, plan_study, text_workload, with_workloads
from pa_lite.study.results import load_study
from pa_lite.study.staleness import settle_plan
from pa_lite.study.store import Store, has_results, open_store, read_store
from pa_lite.study.summary import StudySummary
from pa_lite.study.sweep import answer_by_instruct, check_pair, run_sweep, with_recorded_date
from pa_lite.study.tune.choice import Choice, Measurements, choose_lam, next_lam
from pa_lite.study.tune.first_pass import first_lams, first_text, number_to_measure, window_of
from pa_lite.study.tune.own_items import LikelyTask, likelihoods, split_task, split_text
from pa_lite.study.unlabelled import AgreementWorkload, TextWorkload
from pa_lite.study.workload import Workload
from pa_lite.study.workloads import FollowWorkload, TaskWorkload

KEPT = 0.95  # of instruct's following that is kept, where it is measured and no goal is given
_LARGE = 1_000_000_000  # parameters from which on the file is Q4_K_M by default
FIRST, SEARCH = "first-pass", "study"  # run folders


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What a tuning does. `plan` measures every lam on the items that choose; a tuning measures some of them.

    `first` is the text of the first pass, None without any; `held` are the workloads of items held out; `target` is the
    plan of the file that is written.
    """

    plan: StudyPlan
    first: TextWorkload | None
    held: tuple[TaskWorkload | TextWorkload, ...]
    goal: Goal
    target: MergePlan

    @property
    def type(self) -> str:
        """The weight type of the file."""
        return self.target.type

    @property
    def needs_base(self) -> bool:
        """Whether the goal is about the agreement beyond base's."""
        return self.goal.needs_follow and any(isinstance(w, AgreementWorkload) for w in self.plan.workloads)

    @property
    def n_measured(self) -> int:
        """The number of lams that the search measures."""
        return number_to_measure(len(self.plan.options.lams))

    @property
    def first_share(self) -> float:
        """The tokens of the first pass as a share of those of a sweep of every lam, about."""
        return 0.0 if self.first is None else _tokens([self.first]) / max(1.0, _tokens(self.plan.workloads))


def _tokens(workloads: Sequence[Workload[Any]]) -> float:
    return sum(w.tokens_of_item * w.n_items for w in workloads)


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The average over tasks of the written file on items that had no part in the choice, with its 95% interval.

    `name` is the measure's; `n` is the number of items. `low` and `high` are NaN where a task has a single item.
    """

    name: str
    unit: str
    n: int
    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What the first pass and the search found: the choice, bits per byte by lam, the lams measured, and the study."""

    choice: Choice
    bits: tuple[float, ...]
    measured: tuple[float, ...]
    study: StudySummary
    keys: tuple[str, ...]


def plan_tuning(
    pair: str | Pair, options: StudyOptions, goal: Goal | None, weight_type: str, folder: Path | None = None
) -> Tuning:
    """Read the pair's headers and the rows, and return what a tuning does.

    Without a goal, few-shot accuracy is what counts, and where following is measured 95% of it is kept. The weight type
    "" is Q4_K_M from a billion parameters on, else Q8_0. A date recorded in the folder is used again. Raises InputError
    where nothing can be tuned for, and as `plan_study`.
    """
    has_tasks = bool(options.tasks or options.examples)
    if not (has_tasks or options.text):
        raise InputError(
            "nothing to tune for: give rows of your own (--examples my.csv; thirty are enough to start), tasks "
            "(--tasks) or plain text (--text)."
        )
    if options.alpaca or len(options.types) > 1:
        raise InputError("tune measures one weight type, without a judge (--alpaca).")
    if options.score.seeds > 1:
        raise InputError("tune draws exemplars once: omit --seeds.")
    if options.follow and options.prompts:
        raise InputError("tune goes by --follow, or by --prompts in its place: omit one.")
    measures_follow = bool(options.follow or options.prompts)
    goal = goal or (Goal(keep_follow=KEPT) if measures_follow else Goal())
    if goal.needs_follow and not measures_follow:
        raise InputError(f"{goal.told()}: this goal requires --follow, or --prompts in its place.")
    missing = [lam for lam in (1.0, *([0.0] if options.prompts else [])) if lam not in options.lams]
    if goal.needs_follow and missing:
        raise InputError(f"keeping following requires lam {missing[0]:g} among the lams (--lam).")
    if folder is not None and has_results(folder / SEARCH):
        with read_store(folder / SEARCH) as store:
            options = with_recorded_date(options, store)
    plan = plan_study(pair, replace(options, text=()) if has_tasks else options)
    merge = next(iter(plan.merges.values()))
    weight_type = weight_type or ("Q4_K_M" if plan.n_values >= _LARGE else "Q8_0")
    target = plan_merge(merge.base, merge.instruct, PlanOptions(type=weight_type, schedule=options.schedule))
    window = min(context_length(merge, options.engine), 1024)
    text = text_workload(options, window) if options.text and has_tasks else None
    kept: list[Workload[Any]] = []
    held: list[TaskWorkload | TextWorkload] = []
    for workload in plan.workloads:
        if isinstance(workload, TaskWorkload):
            mine, others = split_task(workload.prepared.spec, options.score, options.score.seed)
            kept.append(mine)
            held.append(others)
        elif isinstance(workload, TextWorkload):
            part, rest = split_text(workload, options.score.seed)
            kept.append(part)
            held.append(rest)
            text = part
        else:
            kept.append(workload)
    return Tuning(
        plan=with_workloads(plan, kept, plan.options.lams), first=first_text(kept, text, window), held=tuple(held),
        goal=goal, target=target,
    )  # fmt: skip


def estimate_tuning(tuning: Tuning, measure: bool = True) -> Estimate:
    """Return the cost of the first pass and the search, without `measure` not the time.

    To estimate the time, a few items of the search are measured at one lam.
    """
    done = () if measure else (*tuning.plan.keys, *(tuning.plan.before.keys if tuning.plan.before else ()))
    whole = estimate_sweep(tuning.plan, done)
    share = tuning.n_measured / len(tuning.plan.options.lams)
    items = int(share * whole.items)
    seconds = None if whole.seconds is None else (share + tuning.first_share) * whole.seconds
    return replace(whole, items=items, items_left=items, seconds=seconds)


def search_lams(tuning: Tuning, folder: Path, progress: Progress | None = None) -> Searched:
    """Run the first pass and the search, as far as they are not in the folder, and choose the lam.

    Raises what a sweep raises.
    """
    # 1. A little text at every lam, which says where the best lam may be.
    lams, bits = tuning.plan.options.lams, list[float]()
    if tuning.first is not None:
        first = with_workloads(replace(tuning.plan, before=None, answers=None), [tuning.first], lams)
        with open_store(folder / FIRST) as store:
            _run(first, store, progress)
            bits = [_weighted(first, store, i) for i in range(len(lams))]
    # 2. The items that choose, at some lams of the window there; then at the lams that may be better than the best.
    window = window_of(lams, bits or None, tuning.goal.needs_follow)
    also = [1.0] * tuning.goal.needs_follow + [0.0] * tuning.needs_base
    measured = first_lams(lams, window, also)
    with open_store(folder / SEARCH) as store:
        while True:
            plan = _run(with_workloads(tuning.plan, tuning.plan.workloads, measured), store, progress)
            found = _measurements(tuning, plan, store, window)
            more = next_lam(found, tuning.goal) if len(measured) < tuning.n_measured else None
            if more is None:
                break
            measured = sorted({*measured, more})
        study = load_study(store)
    # 3. The choice.
    choice = choose_lam(found, tuning.goal)
    return Searched(choice=choice, bits=tuple(bits), measured=tuple(measured), study=study, keys=tuple(plan.keys))


def _measurements(tuning: Tuning, plan: StudyPlan, store: Store, window: tuple[float, float]) -> Measurements:
    """Return what the store has of a plan that has run."""
    skill, follow = list[tuple[Values, Values]](), None
    for i, workload in enumerate(plan.workloads):
        values = _values_of(plan, store, i)
        if isinstance(workload, (FollowWorkload, AgreementWorkload)):
            follow = values
        else:
            skill.append((values, _likely(plan, store, i) if isinstance(workload, LikelyTask) else values))
    return Measurements(
        lams=tuning.plan.options.lams, measured=plan.options.lams, window=window, follow=follow,
        metric=tuple(metric for metric, _ in skill), likely=tuple(likely for _, likely in skill),
        has_base=tuning.needs_base,
    )  # fmt: skip


def _run(plan: StudyPlan, store: Store, progress: Progress | None) -> StudyPlan:
    """Run what the store lacks of a plan; return the plan with instruct's answers, if it compares with them."""
    check_pair(plan, store)
    if plan.before is not None:
        plan = answer_by_instruct(plan, store, progress)
    plan, settled = settle_plan(plan, store)
    settled.report()
    run_sweep(plan, store, progress)
    return plan


def _weighted(plan: StudyPlan, store: Store, at: int) -> float:
    """Return the average of a text at one lam."""
    results = store.results(plan.cells[at].key)
    (workload,) = plan.workloads
    return float(np.average([workload.value(r) for r in results], weights=[workload.weight(r) for r in results]))


def _values_of(plan: StudyPlan, store: Store, index: int) -> Values:
    """Return the values of a workload's items at every lam of the plan: float64 [lams, items]; higher is better."""
    workload, rows = plan.workloads[index], []
    for planned in (cell for cell in plan.cells if cell.workload == index):
        results = store.results(planned.key)
        sign = -1.0 if workload.measure is TEXT else 1.0
        rows.append([sign * workload.value(r) * workload.weight(r) / workload.mean_weight for r in results])
    return np.array(rows)


def _likely(plan: StudyPlan, store: Store, index: int) -> Values:
    """Return the probabilities of a task's right answers at every lam: float64 [lams, items]."""
    return np.array([likelihoods(store.items(cell.key)) for cell in plan.cells if cell.workload == index])


def held_key(tuning: Tuning, searched: Searched) -> str:
    """Return the digest of everything that the final figure depends on."""
    held = [[w.kind, w.name, dict(w.facts)] for w in tuning.held]
    identity = tuning.target.at(searched.choice.lam, tuning.plan.options.schedule).identity
    return str(digest([list(searched.keys), identity, held]))


def score_held_out(tuning: Tuning, file: Path, progress: Progress | None = None) -> HeldOut:
    """Return what the written file does on the items held out. Raises what opening and scoring a file raise."""
    spreads, values, n, total = [], [], 0, sum(w.n_items for w in tuning.held)
    measure = tuning.held[0].measure
    assert measure is not None
    with open_model(file, tuning.plan.options.engine) as model:
        for part in tuning.held:
            workload: Workload[Any] = part
            workload.check(model)
            own = part_of(progress, "final check", n, total, "items")
            records = workload.run(model, range(workload.n_items), lambda *_report: None)
            results = [workload.decode(records[i]) for i in range(workload.n_items)]
            found, weights = [workload.value(r) for r in results], [workload.weight(r) for r in results]
            values.append(float(np.average(found, weights=weights)))
            spreads.append(spread_of_mean(found, part.clusters, weights if workload.is_weighted else None))
            own("final check", workload.n_items, total, "items")
            n += workload.n_items
    value, spread = float(np.mean(values)), spread_of_average(spreads)
    low, high = (score_interval if measure.is_share else mean_interval)(value, spread)
    low, high = (max(0.0, low), high) if math.isfinite(spread.stderr) else (math.nan, math.nan)
    return HeldOut(name=measure.label, unit=measure.unit, n=n, value=value, low=low, high=high)
