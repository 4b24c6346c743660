"""Ctrl-C during a call into llama.cpp, which may last for many seconds: the call is ended, then the signal is heard."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

from pa_lite.engine.context import Context
from pa_lite.files import uninterrupted


@contextlib.contextmanager
def ends_on_interrupt(context: Context) -> Iterator[None]:
    """Within the block Ctrl-C makes the running decode fail at its next graph node; the handler is called behind it.

    Python sees a signal between its own instructions only: llama.cpp calls back into it often, where a note is taken.
    Outside the main thread, which alone is interrupted, this does nothing.
    """
    with uninterrupted() as is_due:
        callback = context.lib.ggml_abort_callback(lambda _data: is_due())
        context.lib.llama_set_abort_callback(context.handle, callback, ctypes.c_void_p(0))
        try:
            yield
        finally:
            none = context.lib.ggml_abort_callback()
            context.lib.llama_set_abort_callback(context.handle, none, ctypes.c_void_p(0))
