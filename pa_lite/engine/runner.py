"""Step a scheduler in a thread, for servers: requests come from other threads, and their answers are read there."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from pa_lite.engine.interrupts import StopFlag, stops_when
from pa_lite.errors import EngineError, StoppedError

_log = logging.getLogger(__name__)
_LOOK = 0.05  # seconds between two looks at work that is to be completed


class Steps(Protocol):
    """What a runner can run: a `Scheduler` or `ResidentModels`."""

    wake: Callable[[], None] | None

    @property
    def is_busy(self) -> bool: ...

    def interruptible(self) -> contextlib.AbstractContextManager[None]: ...

    def step(self) -> object: ...

    def abandon(self, error: EngineError) -> None: ...

    def close(self) -> None: ...


W = TypeVar("W", bound=Steps)


class Runner(Generic[W]):
    """A thread that steps while there is work, and sleeps otherwise. A context manager.

    llama.cpp computes one batch at a time, also for several models: each batch uses all cores.
    """

    def __init__(self, work: W) -> None:
        """Start the thread. `close` also closes `work`."""
        self.work = work
        self._woken, self._stopping = threading.Event(), StopFlag()
        work.wake = self._woken.set
        self._thread = threading.Thread(target=self._run, name="pa-lite scheduler", daemon=True)
        self._thread.start()

    def __enter__(self) -> Runner[W]:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def close(self, wait: float = 0.0) -> None:
        """Stop the thread, cancel all answers and free the contexts. Later calls do nothing.

        Answers have `wait` seconds to become complete. A running batch is stopped.
        """
        end = time.monotonic() + wait
        while self.work.is_busy and self.is_alive and time.monotonic() < end:
            time.sleep(_LOOK)
        self._stopping.set()
        self._woken.set()
        self._thread.join()
        self.work.close()

    def _run(self) -> None:
        with stops_when(self._stopping):
            while not self._stopping.is_set():
                self._woken.clear()  # before the look: what comes after it wakes
                if not self.work.is_busy:
                    self._woken.wait()
                    continue
                self._step()

    def _step(self) -> None:
        try:
            with self.work.interruptible():
                self.work.step()
        except StoppedError:
            return
        except Exception as e:  # noqa: BLE001 - a bug: the answers fail, and the thread continues with new requests
            _log.exception("a step of the scheduler failed")
            self.work.abandon(EngineError(f"internal error (a bug in pa-lite): {type(e).__name__}: {e}"))
