"""Answer each request with the exact model of the lam that it names, from several models of a pair in memory.

Each model has a scheduler. `pa_lite.engine.lam_queue` decides which request joins which model, and which model moves.
One thread steps all schedulers in turn, because each batch uses all cores; another one moves models, which takes as
long as a merge.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from pa_lite.engine.answers import Answer, GenerationRequest, check_request
from pa_lite.engine.in_memory import InMemoryModel
from pa_lite.engine.lam_queue import LamQueue, ModelState
from pa_lite.engine.model import Model
from pa_lite.engine.options import EngineOptions
from pa_lite.engine.prompt_scores import ScoringJob, check_prompts
from pa_lite.engine.resident_memory import ResidentPlan, check_weights, plan_residents
from pa_lite.engine.scheduler import Scheduler, SchedulerOptions, Step
from pa_lite.errors import EngineError, InputError, PaLiteError
from pa_lite.merging.lams import read_lam
from pa_lite.merging.plan import MergePlan

_log = logging.getLogger(__name__)
_LOOK = 0.2  # seconds to wait for a move before looking at the requests again


@dataclass(frozen=True, kw_only=True)
class ResidentOptions:
    """How many models stay in memory, and how long requests wait. Raises InputError for values out of range.

    `max_memory` bounds the bytes of all models with their contexts (0: half of the memory that is free at the start).
    `models` bounds their number (0: as many as fit). Requests for the lam of a model that is about to move may join it
    for `max_wait` seconds. `extrapolate` allows lams outside [0, 1]. `scheduler` is for each model.
    """

    max_memory: int = 0
    models: int = 0
    max_wait: float = 2.0
    extrapolate: bool = False
    scheduler: SchedulerOptions = field(default_factory=SchedulerOptions)

    def __post_init__(self) -> None:
        for name in ("max_memory", "models", "max_wait"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 0.")


@dataclass(kw_only=True, eq=False)
class _Resident:
    """A place for a model in memory: empty (lam None), at a lam, or being moved."""

    model: InMemoryModel | None = None
    scheduler: Scheduler | None = None
    lam: float | None = None
    moving_to: float | None = None
    move: Future[None] | None = None
    used: float = 0.0
    since: float = 0.0

    @property
    def state(self) -> ModelState:
        is_idle = self.scheduler is None or not self.scheduler.is_busy
        return ModelState(lam=self.lam, is_idle=is_idle, used=self.used, since=self.since, moving_to=self.moving_to)

    def close(self) -> None:
        """Free the context, then the model."""
        scheduler, model = self.scheduler, self.model
        self.scheduler = self.model = self.lam = None
        if scheduler is not None:
            scheduler.close()
        if model is not None:
            model.close()


class ResidentModels:
    """Several models of one pair in memory, each at its own lam and bit-equal to the file merged at that lam.

    A context manager. `submit`, and everything of an `Answer`, may be called from any thread; one thread at a time
    steps (see `Runner`).
    """

    def __init__(
        self,
        plan: MergePlan,
        lam: float,
        options: ResidentOptions | None = None,
        engine: EngineOptions | None = None,
        name: str = "",
    ) -> None:
        """Open the first model at `lam`, and plan how many fit; the others are opened when requests name their lams.

        `name` names the pair in answers and errors. Raises InputError when `max_memory` is not enough for one model,
        and what opening a model and its context raise.
        """
        self._plan, self._engine, self.name = plan, engine or EngineOptions(), name or plan.instruct.name
        self.options = options or ResidentOptions()
        self.wake: Callable[[], None] | None = None  # for a runner that sleeps
        self._queue: LamQueue[Answer | ScoringJob] = LamQueue(self.options.max_wait)
        self._lock, self._stepping = threading.Lock(), threading.RLock()
        self._reloading = threading.RLock()
        self._changed = threading.Event()  # since the last decisions
        self._is_closed = False
        self.n_moves = 0  # of models from one lam to another
        self._mover = ThreadPoolExecutor(1, "pa-lite mover")
        self.default_lam = self.rounded(lam)
        first = _Resident()
        self._residents = [first]
        limit = check_weights(plan, self.options.max_memory, self._engine)
        try:
            self._bring(first, self.default_lam, limit.for_contexts)
            assert first.scheduler is not None
            context = first.scheduler.context.planned_bytes
            self.memory: ResidentPlan = plan_residents(limit, context, self.options.models)
        except BaseException:
            self.close()
            raise
        first.lam, first.used = self.default_lam, time.monotonic()
        self.length = first.scheduler.length
        self._residents += [_Resident() for _ in range(self.memory.n_models - 1)]

    def __enter__(self) -> ResidentModels:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel all answers and free all models. Later calls do nothing."""
        with self._stepping:
            with self._lock:
                self._is_closed = True
                waiting = self._queue.items
            for answer in waiting:
                answer.cancel()
            self._mover.shutdown()
            for resident in self._residents:
                resident.close()

    def rounded(self, lam: float | str) -> float:
        """Return a lam as models have it: with two decimals. Raises InputError for a lam that is not allowed."""
        return round(read_lam(lam, self.options.extrapolate), 2) + 0.0  # -0.0 becomes 0.0

    @property
    def moves_reload(self) -> bool:
        """Whether weights are on a GPU, so that a move loads the whole model again."""
        return any(r.model is not None and r.model.model.is_offloaded for r in self._residents)

    @property
    def lams(self) -> list[float]:
        """The lams of the models that are in memory, the last used one first."""
        present = [r for r in self._residents if r.lam is not None and r.moving_to is None]
        return [r.lam for r in sorted(present, key=lambda r: -r.used) if r.lam is not None]

    @property
    def lams_to_come(self) -> list[float]:
        """The lams to which models are being moved now."""
        return [lam for r in self._residents if (lam := r.moving_to) is not None]

    @property
    def n_models(self) -> int:
        """The largest number of models in memory at a time."""
        return len(self._residents)

    @property
    def n_waiting(self) -> int:
        """The number of requests that wait for a model or a sequence."""
        return len(self._queue) + sum(s.n_waiting for s in self._schedulers)

    @property
    def n_running(self) -> int:
        """The number of answers that have a sequence."""
        return sum(s.n_running for s in self._schedulers)

    @property
    def n_decoded(self) -> int:
        """The number of tokens decoded so far by the contexts that are open."""
        return sum(s.n_decoded for s in self._schedulers)

    @property
    def is_busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(len(self._queue)) or any(r.move is not None or not r.state.is_idle for r in self._residents)

    @property
    def _schedulers(self) -> list[Scheduler]:
        return [s for r in self._residents if (s := r.scheduler) is not None]

    @contextlib.contextmanager
    def vocabulary(self) -> Iterator[Model]:
        """Lend a model to tokenise and to render chat templates; its weights must not be used.

        Where a move loads a model again, no move does so during the block: keep it short.
        """
        with self._reloading:
            model = next((r.model for r in self._residents if r.model is not None), None)
            if model is None:
                raise EngineError(f"{self.name}: no model is in memory.")
            yield model.model

    def submit(
        self,
        request: GenerationRequest,
        lam: float | str | None = None,
        on_change: Callable[[], None] | None = None,
        streams: bool = True,
    ) -> Answer:
        """Add a request for the model at `lam`, rounded to two decimals, and return its answer at once.

        Without a lam, it is that of the first model. Raises InputError for a lam outside [0, 1] (unless the options
        allow it), for a prompt without tokens, and for one that with its limit exceeds `length`; EngineError after
        `close`.
        """
        check_request(request, self.length, self.name)
        answer = Answer(request, on_change, streams)
        self._enqueue(answer, lam)
        return answer

    def score(
        self,
        prompts: Sequence[Sequence[int]],
        n_top: int = 0,
        lam: float | str | None = None,
        on_change: Callable[[], None] | None = None,
    ) -> ScoringJob:
        """Add prompts (token ids) whose tokens the model at `lam` is to score, and return the job at once.

        Raises as `submit` does; a prompt may have up to `length` tokens.
        """
        check_prompts(prompts, self.length, self.name)
        job = ScoringJob(prompts, n_top, on_change)
        self._enqueue(job, lam)
        return job

    def _enqueue(self, work: Answer | ScoringJob, lam: float | str | None) -> None:
        work.lam = chosen = self.default_lam if lam is None else self.rounded(lam)
        with self._lock:
            if self._is_closed:
                raise EngineError(f"{self.name}: the models were closed.")
            self._queue.add(work, chosen)
        work.watch(self._note)
        self._note()

    def _note(self) -> None:
        self._changed.set()
        if self.wake is not None:
            self.wake()

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Do nothing: a step makes each of its batches interruptible itself."""
        yield

    def step(self) -> Step:
        """Assign requests to models, start moves, and let each model with work decode one batch.

        Waits a little where all requests wait for a move. Raises what `Scheduler.step` raises. A model that cannot be
        moved or opened fails the requests for its lam.
        """
        with self._stepping:
            ended = self._finish_moves()
            if self._changed.is_set():
                self._changed.clear()
                ended += self._assign()
            busy = [s for s in self._schedulers if s.is_busy]
            n_tokens = 0
            for scheduler in busy:
                with scheduler.interruptible():
                    step = scheduler.step()
                ended += step.ended
                n_tokens += step.n_tokens
                if step.ended or step.scored:
                    self._note_ended(scheduler)
            if not busy and any(r.move is not None for r in self._residents):
                self._changed.wait(_LOOK)
            return Step(ended, n_tokens)

    def _note_ended(self, scheduler: Scheduler) -> None:
        for resident in self._residents:
            if resident.scheduler is scheduler:
                resident.used = time.monotonic()
        self._changed.set()

    def _assign(self) -> list[Answer]:
        """Let requests join models, and start moves; return the requests that were cancelled."""
        with self._lock:
            gone = self._queue.remove(lambda answer: answer.is_done)
            decisions = self._queue.decide([r.state for r in self._residents])
        for answer, i in decisions.joins:
            scheduler = self._residents[i].scheduler
            assert scheduler is not None
            scheduler.add(answer)
            self._residents[i].used = time.monotonic()
        for i, lam in decisions.moves:
            resident = self._residents[i]
            resident.moving_to = lam
            resident.move = self._mover.submit(self._bring, resident, lam)
            resident.move.add_done_callback(lambda _: self._note())
        return [work for work in gone if isinstance(work, Answer)]

    def _bring(self, resident: _Resident, lam: float, max_memory: int = 0) -> None:
        """Bring a model to a lam: open it, move it, or load it again on a GPU."""
        options = self.options.scheduler
        if resident.model is None:
            resident.model = InMemoryModel(self._plan, lam, self._engine, self.name)
        elif resident.model.model.is_offloaded:
            with self._reloading:
                assert resident.scheduler is not None
                resident.scheduler.close()
                resident.scheduler = None
                resident.model.move(lam)
        else:
            resident.model.move(lam)
        if resident.scheduler is None:
            limit = max_memory or self.memory.context
            resident.scheduler = Scheduler(resident.model.model, options, lam, limit)
            resident.scheduler.wake = self._note
        else:
            resident.scheduler.forget()
            resident.scheduler.lam = lam

    def _finish_moves(self) -> list[Answer]:
        """Note the moves that are complete; return the requests that failed with a move."""
        failed: list[Answer] = []
        for resident in list(self._residents):
            if resident.move is None or not resident.move.done():
                continue
            lam, error = resident.moving_to, resident.move.exception()
            resident.move = resident.moving_to = None
            resident.used = time.monotonic()
            if error is None:
                self.n_moves += resident.lam is not None
                resident.lam, resident.since = lam, resident.used
            else:
                assert lam is not None
                failed += self._failed(resident, lam, error)
            self._changed.set()
        return failed

    def _failed(self, resident: _Resident, lam: float, error: BaseException) -> list[Answer]:
        """Close a model that could not be moved. Return the requests for its lam, which fail.

        If a further model could not be opened for lack of memory, there are fewer models from now on, and no request
        fails.
        """
        opened = resident.lam is not None
        resident.close()
        if not opened and isinstance(error, EngineError) and any(r.lam is not None for r in self._residents):
            _log.warning("%s: %d models in memory, not more: %s", self.name, len(self._residents) - 1, error)
            self._residents.remove(resident)
            return []
        if not isinstance(error, PaLiteError):
            _log.error("a move failed", exc_info=error)
            error = EngineError(f"internal error (a bug in pa-lite): {type(error).__name__}: {error}")
        with self._lock:
            failed = self._queue.remove_lam(lam)
        for answer in failed:
            answer.fail(error)
        return [work for work in failed if isinstance(work, Answer)]

    def abandon(self, error: EngineError) -> None:
        """Fail all answers and drop all tokens, after an error that may have left them in an unknown state."""
        with self._stepping:
            with self._lock:
                waiting = self._queue.remove(lambda _: True)
            for answer in waiting:
                answer.fail(error)
            for scheduler in self._schedulers:
                scheduler.abandon(error)
