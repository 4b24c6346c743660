"""Who runs cells: something that builds a lam once and does works on it. Here in this process, on llama.cpp."""

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
from pa_lite.study.judges import Judge
from pa_lite.study.plan import StudyPlan
from pa_lite.study.records import Record


class WorkerLostError(Exception):
    """A worker is gone, and with it the chunk that it had; another can do it."""


class Worker(Protocol):
    """Builds the model of one (type, lam) at a time and runs items of a work on it."""

    def run(self, kind: str, lam: float, work: int, items: Sequence[int]) -> dict[int, Record]:
        """Records by item. Raises what merging, loading, scoring and generating raise; WorkerLostError."""
        ...

    def close(self) -> None: ...


class LocalWorker:
    """A worker in this process: one model, moved along the line in memory. A context manager."""

    def __init__(self, plan: StudyPlan, threads: int | None = None, judge: Model | None = None) -> None:
        """`threads` is how many decode; None takes the plan's, and lets a single worker follow the machine's load.

        `judge` is the plan's judge where it is open already: it is used and not closed.
        """
        if threads is None:
            threads = plan.options.engine.threads if plan.workers == 1 else plan.threads
        self.plan, self.threads = plan, threads
        self._moving: InMemoryModel | None = None
        self._at: tuple[str, float, Schedule] | None = None
        self._is_checked = False  # whether the tokenizer, one for all models of a plan, takes every work's texts
        self._judge, self._opened = judge, ExitStack()

    def __enter__(self) -> LocalWorker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def model_at(self, kind: str, lam: float, schedule: Schedule | None = None) -> Model:
        """The model at that type, lam and schedule (by default the plan's), built unless it stands there already."""
        schedule = self.plan.options.schedule if schedule is None else schedule
        wanted = (kind, lam, schedule)
        if self._at != wanted:
            at, self._at = self._at, None
            if self._moving is not None and at is not None and at[0] == kind:
                self._moving.move(lam, schedule)
            else:
                self.close()
                options = replace(self.plan.options.engine, threads=self.threads)
                self._moving = InMemoryModel(self.plan.merges[kind], lam, options, self.plan.pair, schedule)
            self._at = wanted
        assert self._moving is not None
        return self._moving.model

    def run(
        self, kind: str, lam: float, work: int, items: Sequence[int], schedule: Schedule | None = None
    ) -> dict[int, Record]:
        """Records by item, at a lam and a schedule (by default the plan's).

        Those made in less memory than was wanted say so, as `remarks`: it moves their scores by rounding.
        """
        judge = self.plan.works[work].judge
        model = self.model_at(kind, lam, schedule) if judge is None else self._judge_of(judge)
        if not self._is_checked:
            for each in self.plan.works:
                each.check(model)
            self._is_checked = True
        records = self.plan.works[work].run(model, items)
        if not model.remarks:
            return records
        return {i: {**record, "remarks": list(model.remarks)} for i, record in records.items()}

    def _judge_of(self, judge: Judge) -> Model:
        """Return the plan's judge, opened at the first call."""
        if self._judge is None:
            options = replace(self.plan.options.engine, threads=self.threads)
            model = self._opened.enter_context(open_model(judge.reference, options))
            judge.check(model)
            self._judge = model
        return self._judge

    def close(self) -> None:
        """Free the models; more than once does no harm."""
        if self._moving is not None:
            self._moving.close()
        self._moving, self._at = None, None
        self._opened.close()
        self._judge = None
