"""A result that one thread computes and others wait for."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from pa_lite.errors import CancelledError, EngineError, PaLiteError

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Pending(Generic[T]):
    """A result that is not there yet. Any thread may wait for it or cancel it; a scheduler completes it.

    `lam` is the lam of the model, and `label` its name; they are known once the work has started (None and "" before).
    """

    what = "the result"  # in errors

    def __init__(self, on_change: Callable[[], None] | None = None) -> None:
        """Prepare without a result. `on_change` is called in the scheduler's thread without locks; it must be quick."""
        self.lam: float | None = None
        self.label = ""
        self._on_change = on_change
        self._on_cancel: Callable[[], None] | None = None
        self._lock = threading.Lock()
        self._changed: threading.Event | None = None  # made by the first reader that waits
        self._result: T | None = None
        self._error: PaLiteError | None = None

    @property
    def is_done(self) -> bool:
        """Whether the work is complete, cancelled or failed."""
        return self._result is not None or self._error is not None

    @property
    def error(self) -> PaLiteError | None:
        """The error of work that was cancelled or failed, else None."""
        return self._error

    def cancel(self) -> None:
        """Stop the work at the next step, unless it is done."""
        self.fail(CancelledError(f"{self.what} was cancelled."))
        if self._on_cancel is not None:
            self._on_cancel()

    def watch(self, on_cancel: Callable[[], None]) -> None:
        """Have `on_cancel` called after a cancellation, at once if it was before. For schedulers."""
        self._on_cancel = on_cancel
        if self.is_done:
            on_cancel()

    def result(self, timeout: float | None = None) -> T:
        """Return the complete result, waiting for another thread to compute it.

        Raises CancelledError if it was cancelled, the error if it failed, EngineError after `timeout` seconds.
        """
        if not self._wait(lambda: self.is_done, timeout):
            raise EngineError(f"{self.what} is not complete after {timeout:g} seconds.")
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def _wait(self, is_ready: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until `is_ready` returns true; return False after `timeout` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        while not is_ready():
            with self._lock:
                if is_ready():
                    break
                changed = self._changed = self._changed or threading.Event()
                changed.clear()
            if not changed.wait(None if end is None else max(0.0, end - time.monotonic())):
                return is_ready()
        return True

    def _note_change(self) -> None:
        """Wake the readers that wait. The lock is held."""
        if self._changed is not None:
            self._changed.set()

    def complete(self, result: T) -> None:
        """Set the result, unless the work is done. For schedulers."""
        with self._lock:
            if self.is_done:
                return
            self._result = result
            self._note_change()
        self._notify()

    def fail(self, error: PaLiteError) -> None:
        """End with an error, unless the work is done. For schedulers."""
        with self._lock:
            if self.is_done:
                return
            self._error = error
            self._note_change()
        self._notify()

    def _notify(self) -> None:
        if self._on_change is None:
            return
        try:
            self._on_change()
        except Exception:  # noqa: BLE001 - the reader is gone, for example its event loop is closed
            _log.debug("a reader of %s failed", self.what, exc_info=True)
            self._on_change = None
            self.cancel()
