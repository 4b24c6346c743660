"""Report memory-mapped files that can no longer be read, where the system would kill the process silently.

llama.cpp maps a model file into memory. If the file is truncated or its disk fails, reading raises the signal SIGBUS in
one of llama.cpp's threads. The process cannot continue then, only report the error.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

_MESSAGE = (
    b"error: a memory-mapped file, most likely the model, can no longer be read: its disk failed, or another program "
    b"truncated it. Check the file, then run the command again.\n"
)


@contextlib.contextmanager
def report_unreadable_maps() -> Iterator[None]:
    """Exit with one error line and status 1 on SIGBUS in the block. Does nothing on systems without SIGBUS.

    A Python handler would never run: the reading thread repeats its access forever. But Python's C handler writes the
    signal's number to a pipe at once, from any thread, and a watching thread reads it here.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not hasattr(signal, "SIGBUS") or not is_main or signal.getsignal(signal.SIGBUS) is None:
        yield  # None: not set by Python, but by faulthandler, for example
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
                os.write(2, _MESSAGE)
                os._exit(1)
