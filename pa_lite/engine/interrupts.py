"""Ctrl-C during a call into llama.cpp, which may last for many seconds: the call is ended, then the signal is heard."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator

from pa_lite.engine.context import Context
from pa_lite.system.interrupts import uninterrupted

_asked = threading.local()


@contextlib.contextmanager
def stops_when(is_due: Callable[[], bool]) -> Iterator[None]:
    """Within the block calls into llama.cpp from this thread also end, with an EngineError, once `is_due` is true.

    For threads beside the main one, which never see Ctrl-C themselves. `is_due` must be quick.
    """
    _asked.is_due = is_due
    try:
        yield
    finally:
        del _asked.is_due


def stop_is_due() -> bool:
    """Whether this thread was asked to stop, by the condition of `stops_when`."""
    is_due: Callable[[], bool] | None = getattr(_asked, "is_due", None)
    return is_due is not None and is_due()


@contextlib.contextmanager
def ends_on_interrupt(context: Context) -> Iterator[None]:
    """Within the block Ctrl-C makes the running decode fail at its next graph node; the handler is called behind it.

    Python sees a signal between its own instructions only: llama.cpp calls back into it often, where a note is taken.
    Outside the main thread, which alone is interrupted, only a condition of `stops_when` ends it.
    """
    with uninterrupted() as is_due:
        callback = context.lib.ggml_abort_callback(lambda _data: is_due() or stop_is_due())
        context.lib.llama_set_abort_callback(context.handle, callback, ctypes.c_void_p(0))
        try:
            yield
        finally:
            none = context.lib.ggml_abort_callback()
            context.lib.llama_set_abort_callback(context.handle, none, ctypes.c_void_p(0))
