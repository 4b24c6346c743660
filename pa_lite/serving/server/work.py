"""What the server does for one request: answers and scores, until they are complete or the client is gone."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from starlette.types import Receive

from pa_lite.engine.answers import Answer
from pa_lite.engine.generation_options import GenerationOptions
from pa_lite.engine.prompt_scores import ScoringJob
from pa_lite.errors import CancelledError, InputError, PaLiteError
from pa_lite.serving.host import Prompt
from pa_lite.serving.server.errors import ApiError, ClientGone, bad_request, internal
from pa_lite.serving.server.loaded import Loaded
from pa_lite.serving.server.metrics import Metrics
from pa_lite.serving.server.options import PING_SECONDS
from pa_lite.serving.server.wakeups import Wakeups

T = TypeVar("T")


class Works(Protocol):
    """What a request's work uses of the service that has all of them."""

    metrics: Metrics

    @property
    def wakeups(self) -> Wakeups: ...

    def forget(self, work: Work, seconds: float) -> None: ...


class Work:
    """The answers and scores of a request. A context manager: its end cancels what is not complete."""

    def __init__(self, service: Works, loaded: Loaded, receive: Receive) -> None:
        """Start to watch for the end of the connection; the request's body was received."""
        self._service, self.loaded = service, loaded
        self.answers: list[Answer] = []
        self.scores: ScoringJob | None = None
        self._changed = asyncio.Event()
        self._wake = functools.partial(service.wakeups.wake, self._changed)
        self._begin, self._has_text = time.monotonic(), False
        self._end: Exception | None = None
        self._watcher = asyncio.create_task(self._watch(receive))

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.stop(ClientGone())

    def __enter__(self) -> Work:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def has_started(self) -> bool:
        """Whether a model works for this request."""
        return any(job.label for job in self._jobs)

    @property
    def _jobs(self) -> Sequence[Answer | ScoringJob]:
        return self.answers if self.scores is None else [*self.answers, self.scores]

    async def prepare(self, making: Awaitable[T]) -> T:
        """Return what is made in a thread. Raises HTTP errors, and why the request has ended meanwhile."""
        made = await making
        if self._end is not None:
            raise self._end
        return made

    def start(
        self,
        prompt: Prompt,
        options: GenerationOptions,
        *,
        lam: float | None,
        stream: int = 0,
        logprobs: int | None = None,
        streams: bool = True,
    ) -> None:
        """Queue a prompt for an answer; see `Host.start`. Raises the HTTP error 400 for one that cannot be answered."""
        start = functools.partial(
            self.loaded.host.start, prompt, options, stream=stream, logprobs=logprobs, streams=streams
        )
        self.answers.append(_queued(lambda: start(lam=lam, on_change=self._wake)))

    def score(self, prompts: Sequence[Sequence[int]], n_top: int, lam: float | None) -> None:
        """Queue prompts whose tokens are scored. Raises the HTTP error 400 for prompts that are not valid."""
        self.scores = _queued(lambda: self.loaded.host.score(prompts, n_top, lam=lam, on_change=self._wake))

    async def changed(self) -> bool:
        """Wait until something is new; return False if nothing was for `PING_SECONDS`.

        What came before the last return is not new. Raises the error with which the work has ended.
        """
        timed_out = False

        def give_up() -> None:
            nonlocal timed_out
            timed_out = not self._changed.is_set()
            self._changed.set()

        ping = asyncio.get_running_loop().call_later(PING_SECONDS, give_up)
        try:
            await self._changed.wait()
        finally:
            ping.cancel()
        self._changed.clear()
        self.check()
        return not timed_out

    def check(self) -> None:
        """Raise the error with which the work has ended, if any."""
        if self._end is not None:
            raise self._end
        for job in self._jobs:
            if isinstance(job.error, CancelledError):
                raise stopping()
            if job.error is not None:
                raise internal(job.error)

    async def complete(self) -> None:
        """Wait until all is complete. Raises the error with which the work has ended."""
        while not all(job.is_done for job in self._jobs):
            await self.changed()
        self.check()

    def note_text(self) -> None:
        """Note that a stream has its first text."""
        if not self._has_text:
            self._has_text = True
            self._service.metrics.first_token.add(time.monotonic() - self._begin)

    def usage(self, prompts: Sequence[Sequence[int]], n_answer: int | None = None) -> dict[str, object]:
        """Return the tokens of prompts and complete answers, in OpenAI's form; each prompt counts once.

        `n_answer` is the number of generated tokens, by default of all answers.
        """
        cached = {id(a.request.prompt): a.n_reused or 0 for a in reversed(self.answers)}
        n_prompt = sum(map(len, prompts))
        if n_answer is None:
            n_answer = sum(answer.result(0).n_tokens for answer in self.answers)
        return {
            "prompt_tokens": n_prompt, "completion_tokens": n_answer, "total_tokens": n_prompt + n_answer,
            "prompt_tokens_details": {"cached_tokens": sum(cached.values())},
        }  # fmt: skip

    def stop(self, error: Exception) -> None:
        """Cancel everything; who waits gets the error."""
        self._end = self._end or error
        self._cancel()
        self._changed.set()

    def close(self) -> None:
        """Cancel what is not complete, and forget the request. Later calls do nothing."""
        self._watcher.cancel()
        self._cancel()
        self._service.forget(self, time.monotonic() - self._begin)

    def _cancel(self) -> None:
        for job in self._jobs:
            if not job.is_done:
                job.cancel()


def stopping() -> ApiError:
    """Return the error for requests that the end of the server cuts short."""
    return ApiError(503, "the server is stopping.", code="server_stopping")


def _queued(start: Callable[[], T]) -> T:
    try:
        return start()
    except InputError as e:
        raise bad_request(e) from e
    except PaLiteError as e:  # the models were closed
        raise stopping() from e
