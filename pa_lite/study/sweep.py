"""Runs a planned study into its store: what is finished stays, what is missing is done, chunk by chunk."""

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

from pa_lite.checkpoints.pairs import Pair
from pa_lite.engine.chat_options import ChatOptions, parse_date
from pa_lite.engine.interrupts import stops_when
from pa_lite.engine.model_reference import open_model
from pa_lite.errors import EngineError, InputError, nearest
from pa_lite.progress import Progress
from pa_lite.study.estimate import Estimate, estimate_sweep
from pa_lite.study.judges import describe_judge
from pa_lite.study.plan import PlannedCell, StudyOptions, StudyPlan, environment, plan_study
from pa_lite.study.preferences import plan_judging
from pa_lite.study.results import load_study
from pa_lite.study.staleness import by_reason, differences, settle_plan
from pa_lite.study.store import Store, has_results, open_store, read_store
from pa_lite.study.summary import StudySummary
from pa_lite.study.worker import LocalWorker, Worker, WorkerLostError
from pa_lite.study.workloads import TaskWorkload, chunks

MakeWorker = Callable[[], Worker]
WorkersFor = Callable[[StudyPlan], tuple[MakeWorker, int]]  # what makes workers for a plan, and how many at a time
MOST_LOSSES = 20  # workers that may be lost in one sweep


@dataclass(frozen=True)
class _Todo:
    """A cell's chunks that are missing."""

    planned: PlannedCell
    missing: tuple[range, ...]


class _Sweep:
    """The state that a sweep's threads share."""

    def __init__(self, plan: StudyPlan, store: Store, progress: Progress | None) -> None:
        self.plan, self.store, self.progress = plan, store, progress
        self.lock, self.stop = threading.Lock(), threading.Event()
        self.total = self.done = 0
        self.losses = 0
        self.queue: deque[list[_Todo]] = deque()  # one entry for each (type, lam): whoever takes it builds that once

    def lay_out(self) -> None:
        """Enter the cells and see what is missing of each; a cell of nothing missing is finished at once."""
        by_lam: dict[tuple[str, float], list[_Todo]] = {}
        finished = self.store.finished(self.plan.keys)
        self.store.enter([p.cell for p in self.plan.cells if p.key not in finished], environment())
        begun = self.store.done()
        for planned in self.plan.cells:
            cell = planned.cell
            self.total += cell.n_items
            if planned.key in finished:
                self.done += cell.n_items
                continue
            have = begun.get(cell.key, set())
            self.done += len(have)
            missing = tuple(c for c in chunks(cell.n_items, self.plan.chunk) if not have.issuperset(c))
            by_lam.setdefault((cell.type, cell.lam), []).append(_Todo(planned, missing))
        self.queue.extend(by_lam.values())
        self.tell(0)

    def tell(self, n: int) -> None:
        with self.lock:
            self.done += n
            if self.progress is not None:
                self.progress("sweep", self.done, self.total, "items")

    def work(self, make_worker: MakeWorker) -> None:
        """Take lams until none is left or `stop` is set, on one worker, replaced when it is lost."""
        worker = make_worker()
        try:
            with stops_when(self.stop.is_set):
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
        """Do a cell's missing chunks; return the worker that is there at the end."""
        cell, work = todo.planned.cell, todo.planned.work
        missing = deque(todo.missing)
        while missing and not self.stop.is_set():
            start = time.perf_counter()
            try:
                records = worker.run(cell.type, cell.lam, work, missing[0])
            except (WorkerLostError, EngineError) as e:
                if self.stop.is_set():
                    return worker  # ended in the middle, since it was asked to
                if isinstance(e, EngineError):
                    raise
                worker.close()
                self._count_loss(e)
                worker = make_worker()
                continue
            self.store.add(cell.key, records, time.perf_counter() - start)
            self.tell(len(missing.popleft()))
        if not self.stop.is_set():
            self.store.finish(cell.key, self.plan.works[work].summary(self.store.results(cell.key)))
        return worker

    def _count_loss(self, error: WorkerLostError) -> None:
        with self.lock:
            self.losses += 1
            if self.losses > MOST_LOSSES:
                raise EngineError(
                    f"{MOST_LOSSES + 1} workers were lost, the last one with: {error}. What was finished is kept: fix "
                    "the cluster and run the same command again."
                ) from error


def run_sweep(
    plan: StudyPlan,
    store: Store,
    progress: Progress | None = None,
    make_worker: MakeWorker | None = None,
    n_workers: int | None = None,
) -> None:
    """Do what is missing of the plan's cells, and note the study's facts.

    `make_worker` gives workers of another kind than this process, n_workers at a time. `progress` gets the items done,
    from the workers' threads. Ctrl-C, or an error of one worker, ends the others
    within a step of llama.cpp's graph. Raises what merging, loading, scoring, generating and storing raise; what was
    committed stays.
    """
    _check_pair(plan, store)
    store.note(facts(plan))
    _run(plan, store, progress, make_worker or (lambda: LocalWorker(plan)), n_workers or plan.workers)


def _run(plan: StudyPlan, store: Store, progress: Progress | None, make_worker: MakeWorker, n_workers: int) -> None:
    """Run what is missing of the cells. A single worker runs in this thread, so that Ctrl-C reaches llama.cpp."""
    sweep = _Sweep(plan, store, progress)
    sweep.lay_out()
    if n_workers == 1:
        sweep.work(make_worker)
        return
    with ThreadPoolExecutor(n_workers) as pool:
        futures = [pool.submit(sweep.work, make_worker) for _ in range(n_workers)]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            sweep.stop.set()
        for future in futures:
            future.result()


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
    """Plan, run and read back a study in a run folder, going on where an earlier run stopped.

    What the folder has from other inputs is listed with the reason and measured again; with `keep_stale` it is kept
    where the weights and the items are the same, and the study says so. Raises InputError for an unknown backend, and
    what plan_study, open_store and run_sweep raise.
    """
    if backend not in BACKENDS:
        raise InputError(f"unknown backend {backend!r}.{nearest(backend, BACKENDS)}")
    with ExitStack() as stack:
        store = stack.enter_context(open_store(folder))  # first: its results are copied once
        plan = plan_study(pair, with_recorded_date(options, store))
        _check_pair(plan, store)  # before it is told what has changed, or a cluster is started
        plan, settled = settle_plan(plan, store, keep_stale)
        settled.report()
        workers_for: WorkersFor | None = None
        if backend == "ray":
            from pa_lite.study.cluster import ray_workers

            workers_for = stack.enter_context(ray_workers(pair, address))
        run_sweep(plan, store, progress, *(workers_for(plan) if workers_for else ()))
        if options.judge:
            _judge_answers(plan, store, progress, workers_for, keep_stale)
        return load_study(store)


def _judge_answers(
    plan: StudyPlan, store: Store, progress: Progress | None, workers_for: WorkersFor | None, keep_stale: bool
) -> None:
    """Have the plan's judge compare the answers of every lam, and note the cells after the study's others.

    Preferences from other inputs are judged again, or kept with `keep_stale` where judge and answers are the same.
    """
    with ExitStack() as stack:
        model = stack.enter_context(open_model(plan.options.judge, plan.options.engine))
        # its own prompts have the study's date; system prompt and arguments are the measured models'
        judge = describe_judge(model, plan.options.judge, ChatOptions(date=plan.options.chat.date))
        judged, settled = settle_plan(plan_judging(plan, store, judge), store, keep_stale)
        settled.report()
        if is_elsewhere := workers_for is not None or judged.workers > 1:
            stack.close()  # each worker opens the judge for itself
        local = (lambda: LocalWorker(judged, judge=None if is_elsewhere else model)), judged.workers
        _run(judged, store, progress, *(workers_for(judged) if workers_for else local))
    found = {c.key: c for c in store.cells()}
    for planned in judged.cells:  # what an older pa-lite finished has no length-controlled win rate yet
        if "length_controlled" not in (found[planned.key].summary or {}):
            store.finish(planned.key, judged.works[planned.work].summary(store.results(planned.key)))
    known = store.facts()
    store.note({"cells": [*known["cells"], *judged.keys], "kept": {**known["kept"], **facts(judged)["kept"]}})


def estimate_pair(pair: str | Pair, options: StudyOptions, folder: Path | None, keep_stale: bool = False) -> Estimate:
    """Return what sweep_pair would take, given the folder's results. Raises what plan_study and read_store raise."""
    if folder is None or not has_results(folder):
        return estimate_sweep(plan_study(pair, options))
    with read_store(folder) as store:
        plan = plan_study(pair, with_recorded_date(options, store))
        _check_pair(plan, store)
        plan, settled = settle_plan(plan, store, keep_stale)
        finished = store.finished(plan.keys)
    estimate = estimate_sweep(plan, tuple(finished))
    return replace(estimate, stale=by_reason(settled.again), kept=by_reason(settled.kept))


def with_recorded_date(options: StudyOptions, store: Store) -> StudyOptions:
    """Return the options with the date of the study in a run folder, unless they give one themselves.

    Raises InputError when what is recorded there is not a date.
    """
    if options.chat.date is not None:
        return options
    recorded = store.facts().get("date")
    if recorded is None:
        return options
    return replace(options, chat=replace(options.chat, date=parse_date(str(recorded))))


def facts(plan: StudyPlan) -> dict[str, Any]:
    """What the store knows of the study: the pair, the plan's cells in order, the lams, areas and seeds."""
    options = plan.options
    chat = options.chat
    return {
        **({} if chat.date is None else {"date": chat.date.isoformat()}),
        "system": chat.system,
        "template_args": dict(chat.template_args),
        "pair": plan.pair,
        "lams": options.lams,
        "types": options.types,
        "tasks": [w.name for w in plan.works if isinstance(w, TaskWorkload)],
        "cells": plan.keys,
        "kept": {p.key: list(differences(p.cell, p.kept)) for p in plan.cells if p.kept is not None},
        "schedule": options.schedule.text,
        "seed": options.score.seed,
        "limit": options.score.limit,
        "parameters": plan.n_values,
    }


def _check_pair(plan: StudyPlan, store: Store) -> None:
    """Raise InputError when the folder holds another pair's study."""
    pair = store.facts().get("pair", plan.pair)
    if pair != plan.pair:
        raise InputError(f"{store.path.parent}: holds a study of {pair}, not of {plan.pair}. Name another (--run).")
