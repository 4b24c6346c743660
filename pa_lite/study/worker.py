"""Workers: they build the model at one lam and run workloads on it. The local worker runs in this process."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Protocol

from pa_lite.engine.in_memory import InMemoryModel
from pa_lite.engine.model import Model
from pa_lite.engine.model_reference import open_model
from pa_lite.merging.schedule import Schedule
from pa_lite.progress import Progress
from pa_lite.study.judges import Judge
from pa_lite.study.plan import StudyPlan
from pa_lite.study.records import Record


class WorkerLostError(Exception):
    """A worker was lost with its current chunk; another worker can redo the chunk."""


class Worker(Protocol):
    """Builds the model of one (type, lam) at a time and runs items of a workload on it."""

    def run(
        self, weight_type: str, lam: float, workload: int, items: Sequence[int], *, progress: Progress | None = None
    ) -> dict[int, Record]:
        """Return records by item. Raises WorkerLostError and what merging, loading, scoring and generating raise.

        `progress` gets what is done of these items, where the worker can say so.
        """
        ...

    def close(self) -> None: ...


class LocalWorker:
    """A worker in this process: one model, moved along the line in memory. A context manager."""

    def __init__(self, plan: StudyPlan, threads: int | None = None, judge: Model | None = None) -> None:
        """Take the plan; no model is built yet.

        `threads` is the number of decoding threads; None takes the plan's, and for a single worker the engine's default
        for the machine's load. `judge` is the plan's judge if it is already open; it is not closed here.
        """
        if threads is None:
            threads = plan.options.engine.threads if plan.workers == 1 else plan.threads
        self.plan, self.threads = plan, threads
        self._moving: InMemoryModel | None = None
        self._at: tuple[str, float, Schedule] | None = None
        self._is_checked = False  # whether all texts were checked against the tokenizer, which all models share
        self._judge, self._opened = judge, ExitStack()

    def __enter__(self) -> LocalWorker:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def model_at(self, weight_type: str, lam: float, schedule: Schedule | None = None) -> Model:
        """Return the model at that type, lam and schedule (default: the plan's), moved or built if necessary."""
        schedule = self.plan.options.schedule if schedule is None else schedule
        wanted = (weight_type, lam, schedule)
        if self._at != wanted:
            at, self._at = self._at, None
            if self._moving is not None and at is not None and at[0] == weight_type:
                self._moving.move(lam, schedule)
            else:
                self.close()
                options = replace(self.plan.options.engine, threads=self.threads)
                self._moving = InMemoryModel(self.plan.merges[weight_type], lam, options, self.plan.pair, schedule)
            self._at = wanted
        assert self._moving is not None
        return self._moving.model

    def run(
        self, weight_type: str, lam: float, workload: int, items: Sequence[int], schedule: Schedule | None = None,
        *, progress: Progress | None = None,
    ) -> dict[int, Record]:  # fmt: skip
        """Return records by item, at a lam and a schedule (default: the plan's).

        Records made with a context reduced for lack of memory say so in `remarks`, as it changes scores by rounding.
        """
        judge = self.plan.workloads[workload].judge
        model = self.model_at(weight_type, lam, schedule) if judge is None else self._judge_of(judge)
        if not self._is_checked:
            for each in self.plan.workloads:
                each.check(model)
            self._is_checked = True
        records = self.plan.workloads[workload].run(model, items, progress)
        if not model.remarks:
            return records
        return {i: {**record, "remarks": list(model.remarks)} for i, record in records.items()}

    def _judge_of(self, judge: Judge) -> Model:
        """Return the plan's judge, opening it on the first call."""
        if self._judge is None:
            options = replace(self.plan.options.engine, threads=self.threads)
            model = self._opened.enter_context(open_model(judge.reference, options))
            judge.check(model)
            self._judge = model
        return self._judge

    def close(self) -> None:
        """Free the models; may be called more than once."""
        if self._moving is not None:
            self._moving.close()
        self._moving, self._at = None, None
        self._opened.close()
        self._judge = None
