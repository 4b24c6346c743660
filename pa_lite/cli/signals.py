"""Treat SIGTERM and SIGHUP (a lost terminal) like Ctrl-C, so that temporary files are removed."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

INTERRUPTED = 128 + signal.SIGINT
_AGAIN = 0.01  # seconds until a lost interrupt is raised again
_ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class EndSignal:
    """The signal that terminated the command, if any."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def status(self) -> int:
        """The exit status that shells use: 128 + the signal's number; without one, that of Ctrl-C."""
        return INTERRUPTED if self.signal is None else 128 + self.signal


@contextlib.contextmanager
def end_in_order() -> Iterator[EndSignal]:
    """Raise KeyboardInterrupt for SIGTERM and SIGHUP, too, wherever Ctrl-C would raise it.

    Signals that are ignored (`nohup`) or have a handler are left alone. A second signal is ignored: the process is
    already ending. An interrupt in a callback whose exceptions Python drops, such as a weak reference's, is raised
    again a moment later. Does nothing outside the main thread.
    """
    ending = EndSignal()
    if threading.current_thread() is not threading.main_thread():
        yield ending
        return

    # a shell's background job ignores SIGINT; code that delays Ctrl-C then delays SIGTERM
    base = signal.SIGTERM if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else signal.SIGINT

    is_lost, dropped = False, sys.unraisablehook

    def end(number: int, _frame: FrameType | None) -> None:
        nonlocal is_lost
        if ending.signal is None:
            ending.signal = number
        elif number != base or (ending.signal == base and not is_lost):
            return
        is_lost = False
        if number == base:
            raise KeyboardInterrupt
        signal.raise_signal(base)

    def again() -> None:
        nonlocal is_lost
        if sys.unraisablehook is recover:  # not ended meanwhile
            is_lost = True
            signal.raise_signal(base)

    def recover(lost: sys.UnraisableHookArgs) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            dropped(lost)
            return
        later = threading.Timer(_AGAIN, again)
        later.daemon = True
        later.start()

    known: dict[int, Any] = {n: signal.getsignal(n) for n in _ENDING if signal.getsignal(n) is signal.SIG_DFL}
    for number in known:
        signal.signal(number, end)
    sys.unraisablehook = recover
    try:
        yield ending
    finally:
        sys.unraisablehook = dropped
        for number, handler in known.items():
            signal.signal(number, handler)
