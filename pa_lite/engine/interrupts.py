"""Stop a running call into llama.cpp on Ctrl-C, which Python would only see after the call, many seconds later."""

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
    """Make calls into llama.cpp from this thread fail with an EngineError once `is_due` returns true, during the block.

    For threads other than the main one, which never see Ctrl-C. `is_due` must be quick.
    """
    _asked.is_due = is_due
    try:
        yield
    finally:
        del _asked.is_due


def stop_is_due() -> bool:
    """Return whether this thread was asked to stop, by the condition of `stops_when`."""
    is_due: Callable[[], bool] | None = getattr(_asked, "is_due", None)
    return is_due is not None and is_due()


@contextlib.contextmanager
def ends_on_interrupt(context: Context) -> Iterator[None]:
    """Make Ctrl-C stop a running decode at its next graph node, during the block; the signal's handler runs after it.

    llama.cpp often calls back into Python while it computes, and the callback reports a pending Ctrl-C. Outside the
    main thread, which never sees Ctrl-C, only a condition of `stops_when` stops it.
    """
    with uninterrupted() as is_due:
        callback = context.lib.ggml_abort_callback(lambda _data: is_due() or stop_is_due())
        context.lib.llama_set_abort_callback(context.handle, callback, ctypes.c_void_p(0))
        try:
            yield
        finally:
            none = context.lib.ggml_abort_callback()
            context.lib.llama_set_abort_callback(context.handle, none, ctypes.c_void_p(0))
