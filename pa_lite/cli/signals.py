"""Requests to end: SIGTERM and a lost terminal (SIGHUP) are treated as Ctrl-C is, so that nothing temporary is left."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
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

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        """In place of an ignored SIGINT, as a shell's background jobs have it: Ctrl-C still does nothing."""
        if ending.signal is not None:
            raise KeyboardInterrupt

    def end(number: int, _frame: FrameType | None) -> None:
        if ending.signal is None:
            ending.signal = number
            signal.raise_signal(signal.SIGINT)  # whoever puts Ctrl-C off puts this off

    known: dict[int, Any] = {n: signal.getsignal(n) for n in _ENDING if signal.getsignal(n) is signal.SIG_DFL}
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and known:
        known[signal.SIGINT] = signal.SIG_IGN
        signal.signal(signal.SIGINT, interrupt)
    for number in known:
        if number != signal.SIGINT:
            signal.signal(number, end)
    try:
        yield ending
    finally:
        for number, handler in known.items():
            signal.signal(number, handler)


def drop_streams() -> None:
    """Send what is left of the output nowhere: whoever read it, such as `head`, has gone."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                with contextlib.suppress(OSError, ValueError):
                    os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
