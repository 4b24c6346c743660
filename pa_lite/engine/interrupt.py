"""Ctrl-C during a call into llama.cpp, which may last for many seconds: the call is ended, then the signal is heard."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from pa_lite.engine.context import Context


@contextlib.contextmanager
def ends_on_interrupt(context: Context) -> Iterator[None]:
    """Within the block Ctrl-C makes the running decode fail at its next graph node; the handler is called behind it.

    Python sees a signal between its own instructions only: llama.cpp calls back into it often, where a note is taken.
    Outside the main thread, which alone is interrupted, this does nothing.
    """
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []

    def note(number: int, frame: FrameType | None) -> None:
        if came:  # the second time: whatever hangs is not llama.cpp
            handler(number, frame)
        came.append((number, frame))

    callback = context.lib.ggml_abort_callback(lambda _data: bool(came))
    context.lib.llama_set_abort_callback(context.handle, callback, ctypes.c_void_p(0))
    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        context.lib.llama_set_abort_callback(context.handle, context.lib.ggml_abort_callback(), ctypes.c_void_p(0))
        if came:
            handler(*came[0])
