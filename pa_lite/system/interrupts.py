"""Delay Ctrl-C while something must not be interrupted."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def uninterrupted() -> Iterator[Callable[[], bool]]:
    """Delay Ctrl-C until the end of the block, which gets a function that returns whether Ctrl-C is pending.

    Where Ctrl-C is ignored, as in a shell's background jobs, SIGTERM is delayed instead. Does nothing outside the main
    thread, as only that one is interrupted.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asks = signal.SIGTERM if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else signal.SIGINT
    handler = signal.getsignal(asks)
    if not callable(handler):
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
