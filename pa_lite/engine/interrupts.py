"""Stop a running call into llama.cpp, on Ctrl-C, which Python would only see after it, or when another thread asks.

llama.cpp asks at every graph node whether to stop, a thousand times for a token of a small model. In the main thread
the answer is Python's, because it depends on a signal. In other threads it is a byte in memory that C's `strlen` reads:
Python's answer would have to wait there for the lock of the interpreter while other threads work.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from pa_lite.engine.context import Context
from pa_lite.system.interrupts import uninterrupted

_asked = threading.local()


class StopFlag(threading.Event):
    """An event that llama.cpp reads without Python. It is set once, and not cleared."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ctypes.create_string_buffer(2)  # empty until the flag is set, then one character long

    def set(self) -> None:
        """Set the flag; running calls end at their next graph node."""
        super().set()
        self.text[0] = b"x"


@contextlib.contextmanager
def stops_when(is_due: Callable[[], bool] | StopFlag) -> Iterator[None]:
    """Make calls into llama.cpp from this thread fail with an EngineError once `is_due` is true, during the block.

    For threads other than the main one, which never see Ctrl-C. A function must be quick; a flag costs nothing.
    """
    _asked.is_due = is_due
    try:
        yield
    finally:
        del _asked.is_due


def stop_is_due() -> bool:
    """Return whether this thread was asked to stop, by the condition of `stops_when`."""
    is_due: Callable[[], bool] | StopFlag | None = getattr(_asked, "is_due", None)
    return is_due is not None and (is_due.is_set() if isinstance(is_due, StopFlag) else is_due())


@contextlib.contextmanager
def ends_on_interrupt(context: Context) -> Iterator[None]:
    """Make Ctrl-C stop a running decode at its next graph node, during the block; the signal's handler runs after it.

    Outside the main thread, which never sees Ctrl-C, only a condition of `stops_when` stops it.
    """
    asked, make = getattr(_asked, "is_due", None), context.lib.ggml_abort_callback
    with uninterrupted() as is_due:
        callback, data = None, ctypes.c_void_p(0)
        if isinstance(asked, StopFlag) and threading.current_thread() is not threading.main_thread():
            callback, data = _reads_text(make), ctypes.cast(asked.text, ctypes.c_void_p)
        if callback is None:
            callback = make(lambda _data: is_due() or (asked is not None and stop_is_due()))
        context.lib.llama_set_abort_callback(context.handle, callback, data)
        try:
            yield
        finally:
            context.lib.llama_set_abort_callback(context.handle, make(), ctypes.c_void_p(0))


@functools.cache
def _reads_text(make: Any) -> Any:
    """Return C's `strlen` as a callback of this type: 0 (false) for an empty text, 1 (true) for one character.

    Its length is returned in the register of a bool, on all platforms that llama-cpp-python has. None where the C
    library is not found.
    """
    try:
        strlen = ctypes.cdll.msvcrt.strlen if sys.platform == "win32" else ctypes.pythonapi.strlen
    except (AttributeError, OSError):
        return None
    return ctypes.cast(strlen, make)
