"""A model of a fixed lam, such as a GGUF file, with the interface of `ResidentModels`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from pa_lite.engine.answers import Answer, GenerationRequest
from pa_lite.engine.model import Model
from pa_lite.engine.prompt_scores import ScoringJob
from pa_lite.engine.resident_memory import ResidentPlan
from pa_lite.engine.scheduler import Scheduler, SchedulerOptions, Step
from pa_lite.errors import EngineError, InputError


class FixedModel:
    """One model and its scheduler. A context manager; close it before the model."""

    moves_reload = False
    n_models = 1
    n_moves = 0
    default_lam = None

    def __init__(self, model: Model, options: SchedulerOptions | None = None, name: str = "") -> None:
        """Open a context. `name` names the model in errors. Raises EngineError when there is no memory for it."""
        self.name = name or model.label
        self._model, self._scheduler = model, Scheduler(model, options)
        self.length = self._scheduler.length
        context = self._scheduler.context.planned_bytes
        self.memory = ResidentPlan(n_models=1, weights=model.weight_bytes, context=context, moving=0, limit=0)

    def __enter__(self) -> FixedModel:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel all answers and free the context. Raises InputChangedError if the model's file has changed."""
        self._scheduler.close()

    @property
    def wake(self) -> Callable[[], None] | None:
        """What is called when a request comes or is cancelled."""
        return self._scheduler.wake

    @wake.setter
    def wake(self, wake: Callable[[], None] | None) -> None:
        self._scheduler.wake = wake

    @property
    def lams(self) -> list[float]:
        """No lams: the model cannot move."""
        return []

    def rounded(self, lam: float | str) -> float:
        """Raise InputError: the model cannot move."""
        raise self._fixed(lam)

    def _fixed(self, lam: float | str) -> InputError:
        return InputError(f"{self.name}: the lam of a GGUF file is fixed. Leave lam {lam} out.")

    @property
    def lams_to_come(self) -> list[float]:
        """No lams, either."""
        return []

    @property
    def n_waiting(self) -> int:
        """The number of requests that wait for a free sequence."""
        return self._scheduler.n_waiting

    @property
    def n_running(self) -> int:
        """The number of answers that have a sequence."""
        return self._scheduler.n_running

    @property
    def n_decoded(self) -> int:
        """The number of tokens decoded so far."""
        return self._scheduler.n_decoded

    @property
    def is_busy(self) -> bool:
        """Whether there is anything to do."""
        return self._scheduler.is_busy

    @contextlib.contextmanager
    def vocabulary(self) -> Iterator[Model]:
        """Lend the model to tokenise and to render chat templates."""
        yield self._model

    def submit(
        self,
        request: GenerationRequest,
        lam: float | str | None = None,
        on_change: Callable[[], None] | None = None,
        streams: bool = True,
    ) -> Answer:
        """Add a request; see `Scheduler.submit`. Raises InputError for a lam as well."""
        self._refuse(lam)
        return self._scheduler.submit(request, on_change, streams)

    def score(
        self,
        prompts: Sequence[Sequence[int]],
        n_top: int = 0,
        lam: float | str | None = None,
        on_change: Callable[[], None] | None = None,
    ) -> ScoringJob:
        """Add prompts to score; see `Scheduler.score`. Raises InputError for a lam as well."""
        self._refuse(lam)
        return self._scheduler.score(prompts, n_top, on_change)

    def _refuse(self, lam: float | str | None) -> None:
        if lam is not None:
            raise self._fixed(lam)

    def interruptible(self) -> contextlib.AbstractContextManager[None]:
        """Let an interrupt stop a running batch; see `Scheduler.interruptible`."""
        return self._scheduler.interruptible()

    def step(self) -> Step:
        """Decode one batch; see `Scheduler.step`."""
        return self._scheduler.step()

    def abandon(self, error: EngineError) -> None:
        """Fail all answers; see `Scheduler.abandon`."""
        self._scheduler.abandon(error)
