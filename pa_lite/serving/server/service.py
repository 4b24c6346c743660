"""The state of a server: the model once it is loaded, the requests at work, and the bound on their number."""

from __future__ import annotations

import asyncio
import math
import time

from starlette.requests import Request
from starlette.types import Receive

from pa_lite.serving.host import Host
from pa_lite.serving.page.content import PageContent
from pa_lite.serving.server.errors import ApiError
from pa_lite.serving.server.loaded import Loaded as Loaded
from pa_lite.serving.server.metrics import Metrics
from pa_lite.serving.server.options import ServeOptions
from pa_lite.serving.server.wakeups import Wakeups
from pa_lite.serving.server.work import Work, stopping


class Service:
    """What the routes work with. All but `load` is for the event loop's thread."""

    def __init__(self, options: ServeOptions) -> None:
        """Start without a model."""
        self.options, self.metrics, self.began = options, Metrics(), int(time.time())
        self.page = PageContent()
        self._loaded: Loaded | None = None
        self._works: set[Work] = set()
        self._is_stopping = False
        self._wakeups: Wakeups | None = None

    def load(self, host: Host, page: PageContent | None = None) -> None:
        """Use a host, and what the page shows of it, from now on. May be called from any thread."""
        self.page = page or PageContent()
        self._loaded = Loaded.of(host)

    @property
    def wakeups(self) -> Wakeups:
        """How the scheduler's thread wakes this event loop."""
        if self._wakeups is None:
            self._wakeups = Wakeups(asyncio.get_running_loop())
        return self._wakeups

    @property
    def is_loaded(self) -> bool:
        """Whether the model is loaded."""
        return self._loaded is not None

    @property
    def loaded(self) -> Loaded:
        """The model. Raises the HTTP error 503 while it is being loaded."""
        if self._loaded is None:
            raise ApiError(503, "the model is being loaded.", code="model_loading", headers={"Retry-After": "2"})
        return self._loaded

    @property
    def n_waiting(self) -> int:
        """The number of requests for which no model works yet."""
        return sum(not work.has_started for work in self._works)

    @property
    def n_running(self) -> int:
        """The number of requests for which a model works."""
        return len(self._works) - self.n_waiting

    def admit(self, receive: Receive) -> Work:
        """Return the work of a new request. Raises the HTTP errors 429 if too many wait, and 503 if there is no model.

        A model that is free takes requests at once, so they do not count as waiting.
        """
        loaded = self.loaded
        if self._is_stopping or not loaded.host.is_alive:
            raise stopping()
        models = loaded.host.models
        n_models = max(1, len(models.lams) + len(models.lams_to_come))
        free = max(0, self.options.parallel * n_models - models.n_running)
        if (n := self.n_waiting) >= self.options.queue + free:
            wait = min(60, max(1, math.ceil(self.metrics.recent)))
            raise ApiError(
                429, f"{n} requests are waiting, which is the limit. Try again in {wait} s.",
                code="queue_full", headers={"Retry-After": str(wait)},
            )  # fmt: skip
        work = Work(self, loaded, receive)
        self._works.add(work)
        return work

    def forget(self, work: Work, seconds: float) -> None:
        """Count a request that has ended."""
        if work not in self._works:
            return
        self._works.discard(work)
        prompt = cached = generated = 0
        for answer in work.answers:
            if answer.n_reused is not None:
                prompt, cached = prompt + answer.n_prompt, cached + answer.n_reused
            if answer.error is None and answer.is_done:
                generated += answer.result(0).n_tokens
        if work.scores is not None and work.scores.error is None and work.scores.is_done:
            prompt += sum(map(len, work.scores.prompts))
        self.metrics.add_work(seconds, prompt, cached, generated)

    def stop(self) -> None:
        """End all requests, and refuse new ones."""
        self._is_stopping = True
        for work in list(self._works):
            work.stop(stopping())


def service_of(request: Request) -> Service:
    """Return the service of the application that received a request."""
    service: Service = request.app.state.service
    return service
