"""Requests to end: SIGTERM and a lost terminal (SIGHUP) are treated as Ctrl-C is, so that nothing temporary is left."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

INTERRUPTED = 128 + signal.SIGINT
_ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Ending:
    """The signal that asked the process to end, if one did."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def status(self) -> int:
        """The exit status that shells give: 128 and the signal's number; Ctrl-C's where nothing else came."""
        return INTERRUPTED if self.signal is None else 128 + self.signal


@contextlib.contextmanager
def ends_in_order() -> Iterator[Ending]:
    """Raise KeyboardInterrupt for SIGTERM and SIGHUP too while the block runs, when it is due for Ctrl-C.

    A signal that is ignored (`nohup`) or has a handler stays as it is. A second one changes nothing: the process is
    ending. Does nothing outside the main thread.
    """
    ending = Ending()
    if threading.current_thread() is not threading.main_thread():
        yield ending
        return

    # a background job of a shell ignores Ctrl-C; what puts Ctrl-C off then puts off SIGTERM
    base = signal.SIGTERM if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else signal.SIGINT

    def end(number: int, _frame: FrameType | None) -> None:
        if ending.signal is None:
            ending.signal = number
        elif number != base or ending.signal == base:
            return
        if number == base:
            raise KeyboardInterrupt
        signal.raise_signal(base)

    known: dict[int, Any] = {n: signal.getsignal(n) for n in _ENDING if signal.getsignal(n) is signal.SIG_DFL}
    for number in known:
        signal.signal(number, end)
    try:
        yield ending
    finally:
        for number, handler in known.items():
            signal.signal(number, handler)
