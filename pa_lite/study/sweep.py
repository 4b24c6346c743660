"""Runs a planned study into its store: what is finished stays, what is missing is done, chunk by chunk."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from pa_lite.checkpoints.pairs import Pair
from pa_lite.engine.chat_options import parse_date
from pa_lite.engine.interrupts import stops_when
from pa_lite.errors import EngineError, InputError, nearest
from pa_lite.study.estimate import Estimate, estimate_sweep
from pa_lite.study.plan import PlannedCell, StudyOptions, StudyPlan, environment, plan_study
from pa_lite.study.preferences import judge_lams
from pa_lite.study.results import load_study
from pa_lite.study.staleness import by_reason, differences, settle_plan
from pa_lite.study.store import Store, has_results, open_store, read_store
from pa_lite.study.summary import StudySummary
from pa_lite.study.worker import LocalWorker, Worker, WorkerLostError
from pa_lite.study.workloads import chunks

Progress = Callable[[int, int], None]
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
        finished = self.store.finished([p.key for p in self.plan.cells])
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
                self.progress(self.done, self.total)

    def work(self, make_worker: Callable[[], Worker]) -> None:
        """Take lams until none is left or `stop` is set, on one worker, replaced when it is lost."""
        with stops_when(self.stop.is_set):
            self._work(make_worker)

    def _work(self, make_worker: Callable[[], Worker]) -> None:
        worker = make_worker()
        try:
            while not self.stop.is_set():
                with self.lock:
                    todo = self.queue.popleft() if self.queue else None
                if todo is None:
                    return
                for entry in todo:
                    worker = self._do(entry, worker, make_worker)
        finally:
            worker.close()

    def _do(self, todo: _Todo, worker: Worker, make_worker: Callable[[], Worker]) -> Worker:
        cell, work = todo.planned.cell, todo.planned.work
        for chunk in todo.missing:
            while not self.stop.is_set():
                start = time.perf_counter()
                try:
                    records = worker.run(cell.type, cell.lam, work, chunk)
                except (WorkerLostError, EngineError) as e:
                    if self.stop.is_set():
                        return worker  # ended in the middle, since it was asked to
                    if isinstance(e, EngineError):
                        raise
                    worker.close()
                    with self.lock:
                        self.losses += 1
                        losses = self.losses
                    if losses > MOST_LOSSES:
                        raise EngineError(  # several threads may come here, each with a count of its own
                            f"{MOST_LOSSES + 1} workers were lost, the last one with: {e}. What was finished is kept: "
                            "mend the cluster and run the same command again."
                        ) from e
                    worker = make_worker()
                    continue
                self.store.add(cell.key, records, time.perf_counter() - start)
                self.tell(len(chunk))
                break
        if not self.stop.is_set():
            self.store.finish(cell.key, self.plan.works[work].summary(self.store.items(cell.key)))
        return worker


def run_sweep(
    plan: StudyPlan,
    store: Store,
    progress: Progress | None = None,
    make_worker: Callable[[], Worker] | None = None,
    n_workers: int | None = None,
) -> None:
    """Do what is missing of the plan's cells, and note the study's facts.

    `make_worker` gives workers of another kind than this process, n_workers at a time. `progress` gets (items done,
    items in all), one call at a time, from the workers' threads. Ctrl-C, or an error of one worker, ends the others
    within a step of llama.cpp's graph. Raises what merging, loading, scoring, generating and storing raise; what was
    committed stays.
    """
    make = make_worker or (lambda: LocalWorker(plan))
    sweep = _Sweep(plan, store, progress)
    _check_pair(plan, store)
    store.note(facts(plan))
    sweep.lay_out()
    if plan.workers == 1 and make_worker is None:
        sweep.work(make)  # in this thread, so that Ctrl-C reaches llama.cpp
        return
    n_workers = n_workers or plan.workers
    with ThreadPoolExecutor(n_workers) as pool:
        futures = [pool.submit(sweep.work, make) for _ in range(n_workers)]
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
    with open_store(folder) as store:  # first: its results are copied once
        plan = plan_study(pair, with_recorded_date(options, store))
        _check_pair(plan, store)  # before it is told what has changed, or a cluster is started
        plan, settled = settle_plan(plan, store, keep_stale)
        settled.report()
        if backend == "ray":
            from pa_lite.study.cluster import ray_workers

            with ray_workers(pair, plan, address) as (n_workers, make_worker):
                run_sweep(plan, store, progress, make_worker, n_workers)
        else:
            run_sweep(plan, store, progress)
        if options.judge:
            judge_lams(plan, store, progress, keep_stale)
        return load_study(store)


def estimate_pair(pair: str | Pair, options: StudyOptions, folder: Path | None, keep_stale: bool = False) -> Estimate:
    """Return what sweep_pair would take, given the folder's results. Raises what plan_study and read_store raise."""
    if folder is None or not has_results(folder):
        return estimate_sweep(plan_study(pair, options))
    with read_store(folder) as store:
        plan = plan_study(pair, with_recorded_date(options, store))
        _check_pair(plan, store)
        plan, settled = settle_plan(plan, store, keep_stale)
        finished = store.finished([p.key for p in plan.cells])
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


def facts(plan: StudyPlan) -> dict[str, object]:
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
        "tasks": [w.name for w in plan.works if w.kind == "task"],
        "cells": [p.key for p in plan.cells],
        "kept": {p.key: list(differences(p.cell, p.kept)) for p in plan.cells if p.kept is not None},
        "schedule": options.schedule.text,
        "seed": options.score.seed,
        "limit": options.score.limit,
        "parameters": next(iter(plan.merges.values())).n_values,
    }


def _check_pair(plan: StudyPlan, store: Store) -> None:
    """Raise InputError when the folder holds another pair's study."""
    pair = store.facts().get("pair", plan.pair)
    if pair != plan.pair:
        raise InputError(f"{store.path.parent}: holds a study of {pair}, not of {plan.pair}. Name another (--run).")
