"""Wake coroutines from the scheduler's thread."""

from __future__ import annotations

import asyncio
import threading
from collections import deque


class Wakeups:
    """Sets events of an event loop from other threads, with one call into the loop for all that come together."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._events: deque[asyncio.Event] = deque()
        self._lock, self._is_due = threading.Lock(), False

    def wake(self, event: asyncio.Event) -> None:
        """Set an event soon. Raises RuntimeError once the loop is closed."""
        self._events.append(event)
        with self._lock:
            if self._is_due:
                return
            self._loop.call_soon_threadsafe(self._set_all)
            self._is_due = True

    def _set_all(self) -> None:
        with self._lock:
            self._is_due = False
        while self._events:
            self._events.popleft().set()
