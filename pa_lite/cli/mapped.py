"""An end with a sentence where the system would end the process without one: mapped files that cannot be read.

llama.cpp maps a model file into memory. When the file is cut or its disk fails, reading there is no error of a call but
the signal SIGBUS, from within llama.cpp's threads; nothing can be mended then, only told.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

_TOLD = (
    b"error: a file that was mapped into memory, mostly the model's, cannot be read any more: its disk fails, or "
    b"another program cut it. Look at the file, then run the command again.\n"
)


@contextlib.contextmanager
def unreadable_maps_are_told() -> Iterator[None]:
    """Within the block SIGBUS ends the process with one line of error and status 1. Does nothing where there is none.

    A handler in Python would never be called: the thread that reads tries again for ever. But Python writes each
    signal's number to a pipe at once, from whatever thread, and another thread reads it here.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not hasattr(signal, "SIGBUS") or not is_main or signal.getsignal(signal.SIGBUS) is None:
        yield  # None: somebody else has it, as Python's faulthandler does
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    threading.Thread(target=_watch, args=(read,), daemon=True).start()
    handler = signal.signal(signal.SIGBUS, lambda _number, _frame: None)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        signal.signal(signal.SIGBUS, handler)
        os.close(write)


def _watch(pipe: int) -> None:
    with open(pipe, "rb", buffering=0) as signals:
        while numbers := signals.read(1):
            if numbers[0] == signal.SIGBUS:
                os.write(2, _TOLD)
                os._exit(1)
