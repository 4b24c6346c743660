"""A scheduler that the reader of each answer steps, and whose context grows with the conversations."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Generator

from pa_lite.engine.answer_text import Generation
from pa_lite.engine.answers import GenerationRequest, Piece, too_long
from pa_lite.engine.model import Model
from pa_lite.engine.scheduler import Scheduler, SchedulerOptions
from pa_lite.errors import EngineError

_LEAST = 1024  # tokens of the first context
_PARALLEL = 2  # answers at a time, and conversations that are kept


class GrowingScheduler:
    """Streams answers in the caller's thread. The next turn of a conversation decodes only its new tokens.

    A request that exceeds the context opens one of twice its length, and the conversation is decoded again there.
    Several answers may be read in turn, and by several threads.
    """

    def __init__(self, model: Model) -> None:
        """Open no context yet. Close it before the model, and before the model's weights change."""
        self._model = model
        self._current: Scheduler | None = None
        self._readers: Counter[Scheduler] = Counter()
        self._lock = threading.Lock()

    @property
    def n_decoded(self) -> int:
        """The number of tokens decoded in the current context."""
        return 0 if self._current is None else self._current.n_decoded

    def stream(self, request: GenerationRequest) -> Generator[Piece, None, Generation]:
        """Yield pieces of the answer as they are generated, and return the whole. Closing the generator stops it.

        Raises InputError for a prompt that with its limit exceeds `max_length`, EngineError when there is no memory for
        it, InputChangedError if the model's file changed, KeyboardInterrupt on Ctrl-C, even during a batch.
        """
        scheduler = self._join(len(request.prompt), request.options.max_tokens)
        try:
            answer = scheduler.submit(request)
            try:
                while not answer.is_done:
                    with scheduler.interruptible():
                        scheduler.step()
                    if piece := answer.take():
                        yield piece
                if piece := answer.take():  # of a step for another reader
                    yield piece
                self._model.check_file()
                return answer.result()
            finally:
                answer.cancel()
        finally:
            self._leave(scheduler)

    def _join(self, n: int, limit: int) -> Scheduler:
        """Return the scheduler for a prompt of n tokens; open one if there is none of that length."""
        if n + limit > self._model.max_length:
            raise too_long(self._model.name, "the prompt", n, limit, self._model.max_length)
        with self._lock:
            current = self._current
            if current is None or current.length < n + limit:
                if current is not None and not self._readers[current]:
                    current.close()
                self._current = None
                current = self._current = self._open(n + limit)
            self._readers[current] += 1
            return current

    def _open(self, length: int) -> Scheduler:
        """Open a scheduler of twice the length, for turns to come, or of only this length if memory is short."""
        ample = min(self._model.max_length, max(_LEAST, 2 * length))
        try:
            return Scheduler(self._model, SchedulerOptions(parallel=_PARALLEL, length=ample))
        except EngineError:
            if ample == length:
                raise
        return Scheduler(self._model, SchedulerOptions(parallel=1, length=length))

    def _leave(self, scheduler: Scheduler) -> None:
        with self._lock:
            self._readers[scheduler] -= 1
            scheduler.drop_ended()
            if self._readers[scheduler] <= 0:  # below 0 after `close`
                del self._readers[scheduler]
                if scheduler is not self._current:
                    scheduler.close()

    def rest(self) -> None:
        """Free the context unless an answer is being read: other work may need the memory."""
        with self._lock:
            if self._current is not None and not self._readers[self._current]:
                self._current.close()
                self._current = None

    def close(self) -> None:
        """Cancel all answers and free their contexts. The next request opens a new one."""
        with self._lock:
            for scheduler in {*self._readers, *filter(None, [self._current])}:
                scheduler.close()
            self._current = None
            self._readers.clear()
