"""Sweeps: run the missing cells of a planned study, chunk by chunk, into its store."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pa_lite.alpaca.known import Known, read_known
from pa_lite.checkpoints.pairs import Pair
from pa_lite.engine.chat_options import ChatOptions, parse_date
from pa_lite.engine.interrupts import StopFlag, stops_when
from pa_lite.engine.model_reference import open_model
from pa_lite.errors import EngineError, InputError, nearest
from pa_lite.progress import Progress
from pa_lite.study.estimate import Estimate, estimate_sweep
from pa_lite.study.judges import describe_judge
from pa_lite.study.plan import PlannedCell, StudyOptions, StudyPlan, environment, plan_study, with_answers
from pa_lite.study.preferences import known_among, plan_judging
from pa_lite.study.records import InstructAnswer
from pa_lite.study.results import load_study, refuse_search
from pa_lite.study.staleness import Stale, by_reason, differences, settle_plan
from pa_lite.study.store import Store, has_results, open_store, read_store
from pa_lite.study.summary import StudySummary
from pa_lite.study.tracker import Tracker
from pa_lite.study.worker import LocalWorker, Worker, WorkerLostError
from pa_lite.study.workload import chunks
from pa_lite.study.workloads import TaskWorkload

MakeWorker = Callable[[], Worker]
WorkersFor = Callable[[StudyPlan], tuple[MakeWorker, int]]  # a plan -> a factory of workers, and how many at a time
MOST_LOSSES = 20  # lost workers that one sweep tolerates


@dataclass(frozen=True)
class _Todo:
    """A cell and its missing chunks."""

    planned: PlannedCell
    missing: tuple[range, ...]


class _Sweep:
    """The state shared by a sweep's threads."""

    def __init__(self, plan: StudyPlan, store: Store, progress: Progress | None, n_workers: int) -> None:
        self.plan, self.store = plan, store
        self.lock, self.stop = threading.Lock(), StopFlag()
        self.losses, self.n_workers = 0, n_workers
        self.tracker = Tracker(plan.workloads, progress, n_workers)
        self.queue: deque[list[_Todo]] = deque()  # one entry per (type, lam), so that each is built once

    def lay_out(self) -> None:
        """Enter the cells in the store, and queue the missing chunks of those that are not finished."""
        by_lam: dict[tuple[str, float], list[_Todo]] = {}
        finished = self.store.finished(self.plan.keys)
        self.store.enter([p.cell for p in self.plan.cells if p.key not in finished], environment())
        started = self.store.done()
        for planned in self.plan.cells:
            cell = planned.cell
            if planned.key in finished:
                self.tracker.enter(cell, planned.workload, cell.n_items)
                continue
            have = started.get(cell.key, set())
            self.tracker.enter(cell, planned.workload, len(have))
            missing = tuple(c for c in chunks(cell.n_items, self.plan.chunk) if not have.issuperset(c))
            by_lam.setdefault((cell.type, cell.lam), []).append(_Todo(planned, missing))
        # two workers start at opposite ends of their lams, so that every workload's cost is known early
        self.queue.extend(lam if i % 2 == 0 else lam[::-1] for i, lam in enumerate(by_lam.values()))
        self._recall()
        self.tracker.report()

    def _recall(self) -> None:
        """Take the costs of workloads from earlier runs in the store."""
        index_of = {(w.kind, w.name): i for i, w in enumerate(self.plan.workloads)}
        for cell in self.store.cells():
            if cell.n_done and (i := index_of.get((cell.kind, cell.name))) is not None:
                self.tracker.time.recall({i: cell.seconds / cell.n_done})

    def work(self, make_worker: MakeWorker) -> None:
        """Run queued lams on one worker until none is left or `stop` is set. A lost worker is replaced."""
        worker = make_worker()
        try:
            with stops_when(self.stop):
                while not self.stop.is_set():
                    with self.lock:
                        todo = self.queue.popleft() if self.queue else []
                    if not todo:
                        return
                    for entry in todo:
                        worker = self._do(entry, worker, make_worker)
        finally:
            worker.close()

    def _do(self, todo: _Todo, worker: Worker, make_worker: MakeWorker) -> Worker:
        """Run a cell's missing chunks; return the worker in use at the end."""
        cell, workload = todo.planned.cell, todo.planned.workload
        missing = deque(todo.missing)
        while missing and not self.stop.is_set():
            start = time.perf_counter()
            try:
                with self.tracker.chunk(cell, workload, missing[0]) as progress:
                    records = worker.run(cell.type, cell.lam, workload, missing[0], progress=progress)
            except (WorkerLostError, EngineError) as e:
                if self.stop.is_set():
                    return worker  # interrupted because it was asked to stop
                if isinstance(e, EngineError):
                    raise
                worker.close()
                self._count_loss(e)
                worker = make_worker()
                continue
            seconds = time.perf_counter() - start
            self.store.add(cell.key, records, seconds)
            self.tracker.finish(cell, workload, len(missing.popleft()), seconds)
        if not self.stop.is_set():
            self.store.finish(cell.key, self.plan.workloads[workload].summary(self.store.results(cell.key)))
        return worker

    def _count_loss(self, error: WorkerLostError) -> None:
        with self.lock:
            self.losses += 1
            if self.losses > MOST_LOSSES:
                raise EngineError(
                    f"{MOST_LOSSES + 1} workers were lost, the last one with: {error}. Finished results are kept: fix "
                    "the cluster and run the same command again."
                ) from error


def run_sweep(
    plan: StudyPlan,
    store: Store,
    progress: Progress | None = None,
    make_worker: MakeWorker | None = None,
    n_workers: int | None = None,
) -> None:
    """Run the missing parts of the plan's cells, and note the study's facts.

    `make_worker` makes workers other than local ones, `n_workers` of which run at a time. `progress` counts items and
    is called from the workers' threads. Ctrl-C, or an error in one worker, stops the others within one graph evaluation
    of llama.cpp. Raises what merging, loading, scoring, generating and storing raise; committed results stay.
    """
    check_pair(plan, store)
    store.note(facts(plan))
    _run(plan, store, progress, make_worker or (lambda: LocalWorker(plan)), n_workers or plan.workers)


def _run(plan: StudyPlan, store: Store, progress: Progress | None, make_worker: MakeWorker, n_workers: int) -> None:
    """Run the missing parts of the cells. A single worker runs in this thread, so that Ctrl-C reaches llama.cpp."""
    sweep = _Sweep(plan, store, progress, n_workers)
    sweep.lay_out()
    if n_workers == 1:
        sweep.work(make_worker)
    else:
        with ThreadPoolExecutor(n_workers) as pool:
            futures = [pool.submit(sweep.work, make_worker) for _ in range(n_workers)]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                sweep.stop.set()
            for future in futures:
                future.result()
    _renew_summaries(plan, store)


def _renew_summaries(plan: StudyPlan, store: Store) -> None:
    """Summarise finished cells again whose summary is of an older pa-lite or other clusters, from their records."""
    found = {c.key: c for c in store.cells()}
    for planned in plan.cells:
        workload, cell = plan.workloads[planned.workload], found.get(planned.key)
        if cell and cell.summary is not None and not workload.is_current(cell.summary):
            store.finish(planned.key, workload.summary(store.results(planned.key)))


BACKENDS = ("local", "ray")


def sweep_pair(
    pair: str | Pair,
    options: StudyOptions,
    folder: Path,
    progress: Progress | None = None,
    backend: str = "local",
    address: str | None = None,
    keep_stale: bool = False,
) -> StudySummary:
    """Plan, run and read back a study in a run folder, continuing an earlier run.

    Results from other inputs are listed with the reason and measured again; with `keep_stale` they are kept where
    weights and items are the same, and the study says so. Raises InputError for an unknown backend, and what
    plan_study, open_store and run_sweep raise.
    """
    if backend not in BACKENDS:
        raise InputError(f"unknown backend {backend!r}.{nearest(backend, BACKENDS)}")
    with ExitStack() as stack:
        store = stack.enter_context(open_store(folder))  # opened once, as opening copies the results
        plan = plan_study(pair, with_recorded_date(options, store))
        known = None if options.calibration is None else read_known(options.calibration)
        check_pair(plan, store)  # before changes are reported or a cluster is started
        refuse_search(store)
        if plan.before is None:
            plan = _settled(plan, store, keep_stale)
        workers_for: WorkersFor | None = None
        if backend == "ray":
            from pa_lite.study.cluster import ray_workers

            workers_for = stack.enter_context(ray_workers(pair, address))
        if plan.before is not None:
            plan = _settled(answer_by_instruct(plan, store, progress, workers_for, keep_stale), store, keep_stale)
        run_sweep(plan, store, progress, *(workers_for(plan) if workers_for else ()))
        if options.judge:
            _judge_answers(plan, store, progress, workers_for, keep_stale, known)
        return load_study(store)


def _settled(plan: StudyPlan, store: Store, keep_stale: bool) -> StudyPlan:
    """Return the plan with kept stale results, and log what happens to all stale results."""
    plan, settled = settle_plan(plan, store, keep_stale)
    settled.report()
    return plan


def answer_by_instruct(
    plan: StudyPlan,
    store: Store,
    progress: Progress | None,
    workers_for: WorkersFor | None = None,
    keep_stale: bool = False,
) -> StudyPlan:
    """Let the instruct model answer the plan's prompts, as far as it has not; return the plan with its answers."""
    assert plan.before is not None
    before = _settled(plan.before, store, keep_stale)
    if not store.facts():
        store.note(facts(before))  # an earlier study stays as it is until this one starts
    workers: tuple[MakeWorker, int] = (lambda: LocalWorker(before)), 1
    if workers_for:  # with as many threads as the workers of the study: a node may not have more cores
        workers = workers_for(replace(before, options=replace(before.options, workers=plan.workers)))
    _run(before, store, progress, *workers)
    return with_answers(replace(plan, before=before), _stored_answers(before, store))


def _stored_answers(before: StudyPlan, store: Store) -> dict[str, list[InstructAnswer]]:
    """Return the stored answers of instruct by weight type."""
    return {p.cell.type: store.results(p.key) for p in before.cells}


def _judge_answers(
    plan: StudyPlan,
    store: Store,
    progress: Progress | None,
    workers_for: WorkersFor | None,
    keep_stale: bool,
    known: Known | None,
) -> None:
    """Judge the answers of every lam with the plan's judge, and append these cells to the study's.

    The `known` preferences of judged pairs are stored too, so that reports can compare the judge. Stale preferences
    are judged again, or kept with `keep_stale` where judge and answers are the same.
    """
    with ExitStack() as stack:
        model = stack.enter_context(open_model(plan.options.judge, plan.options.engine))
        # the judge's prompts get the study's date, but not the system prompt and arguments of the measured models
        judge = describe_judge(model, plan.options.judge, ChatOptions(date=plan.options.chat.date))
        judged, settled = settle_plan(plan_judging(plan, store, judge, known), store, keep_stale)
        settled.report()
        if is_elsewhere := workers_for is not None or judged.workers > 1:
            stack.close()  # each worker opens the judge for itself
        local = (lambda: LocalWorker(judged, judge=None if is_elsewhere else model)), judged.workers
        _run(judged, store, progress, *(workers_for(judged) if workers_for else local))
    noted = store.facts()
    store.note(
        {
            "cells": [*noted["cells"], *judged.keys],
            "kept": {**noted["kept"], **facts(judged)["kept"]},
            "known": {} if known is None else known_among(judged.workloads, known),
        }
    )


def estimate_pair(pair: str | Pair, options: StudyOptions, folder: Path | None, keep_stale: bool = False) -> Estimate:
    """Estimate the cost of sweep_pair, given the folder's results. Raises what plan_study and read_store raise."""
    further = 0 if options.calibration is None else len(read_known(options.calibration).pairs)
    return replace(_estimate(pair, options, folder, keep_stale), calibration=further)


def _estimate(pair: str | Pair, options: StudyOptions, folder: Path | None, keep_stale: bool) -> Estimate:
    if folder is None or not has_results(folder):
        return estimate_sweep(plan_study(pair, options))
    with read_store(folder) as store:
        plan = plan_study(pair, with_recorded_date(options, store))
        check_pair(plan, store)
        refuse_search(store)
        again, kept, finished = list[Stale](), list[Stale](), set[str]()
        if plan.before is not None:
            before, settled = settle_plan(plan.before, store, keep_stale)
            again, kept, finished = [*settled.again], [*settled.kept], store.finished(before.keys)
            plan = replace(plan, before=before)
            if finished.issuperset(before.keys):
                plan = with_answers(plan, _stored_answers(before, store))
        plan, settled = settle_plan(plan, store, keep_stale)
        finished |= store.finished(plan.keys)
    estimate = estimate_sweep(plan, tuple(finished))
    return replace(estimate, stale=by_reason([*again, *settled.again]), kept=by_reason([*kept, *settled.kept]))


def with_recorded_date(options: StudyOptions, store: Store) -> StudyOptions:
    """Return the options with the recorded date of the study in a run folder, unless they set a date.

    Raises InputError when the recorded value is not a date.
    """
    if options.chat.date is not None:
        return options
    recorded = store.facts().get("date")
    if recorded is None:
        return options
    return replace(options, chat=replace(options.chat, date=parse_date(str(recorded))))


def facts(plan: StudyPlan) -> dict[str, Any]:
    """Return the study's facts for the store: pair, lams, types, tasks, the keys of the cells in order, seed, ..."""
    options = plan.options
    chat = options.chat
    planned = (*plan.cells, *(plan.before.cells if plan.before is not None else ()))
    return {
        **({} if chat.date is None else {"date": chat.date.isoformat()}),
        "system": chat.system,
        "template_args": dict(chat.template_args),
        "pair": plan.pair,
        "lams": options.lams,
        "types": options.types,
        "tasks": [w.name for w in plan.workloads if isinstance(w, TaskWorkload)],
        "cells": [p.key for p in planned],
        "kept": {p.key: list(differences(p.cell, p.kept)) for p in planned if p.kept is not None},
        "schedule": options.schedule.text,
        "seed": options.score.seed,
        **({"seeds": options.score.seeds} if options.score.seeds > 1 else {}),
        "limit": options.score.limit,
        "parameters": plan.n_values,
    }


def check_pair(plan: StudyPlan, store: Store) -> None:
    """Raise InputError when the folder holds another pair's study."""
    pair = store.facts().get("pair", plan.pair)
    if pair != plan.pair:
        raise InputError(
            f"{store.path.parent}: contains a study of {pair}, not of {plan.pair}. Name another folder (--run)."
        )
