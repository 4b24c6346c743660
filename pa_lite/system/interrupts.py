"""Ctrl-C put off while something must not be cut in two."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def uninterrupted() -> Iterator[Callable[[], bool]]:
    """Put Ctrl-C off until the block is through, which gets a function that tells whether one is due.

    Where Ctrl-C is ignored, as by a shell's background jobs, this is about SIGTERM. Does nothing outside the main
    thread, which alone is interrupted.
    """
    asks = signal.SIGTERM if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else signal.SIGINT
    handler = signal.getsignal(asks)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came: list[tuple[int, FrameType | None]] = []
    signal.signal(asks, lambda number, frame: came.append((number, frame)))
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(asks, handler)
        if came:
            handler(*came[0])
