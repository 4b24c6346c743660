"""Load llama.cpp once for the process, and keep its last log lines to explain failures."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import threading
from collections import deque
from typing import Any

from pa_lite.engine.abi import check_binding
from pa_lite.errors import EngineError

_log = logging.getLogger(__name__)
_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.INFO, 4: logging.INFO}  # ggml_log_level; 5 continues a line
_starting = threading.Lock()
_last_words: deque[str] = deque(maxlen=40)  # llama.cpp has one log for the whole process


def llama() -> Any:
    """Return the module `llama_cpp.llama_cpp` with its backend started, once for all threads.

    Raises EngineError when llama-cpp-python is missing, cannot be loaded, or has a different interface.
    """
    with _starting:
        return _start()


@functools.cache
def _start() -> Any:
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # an abort would start a debugger
    try:
        import llama_cpp.llama_cpp as lib
    except (ImportError, OSError, RuntimeError, AttributeError) as e:  # AttributeError: the library lacks a function
        raise EngineError(
            f"llama-cpp-python cannot be loaded: {e}. Install it again, or a build for this machine."
        ) from e

    check_binding(lib)

    @lib.llama_log_callback  # type: ignore[untyped-decorator,unused-ignore]
    def listen(level: int, text: bytes, _data: object) -> None:
        line = text.decode("utf-8", "replace").rstrip()
        if line:
            _last_words.append(line)
            _log.log(_LEVELS.get(level, logging.DEBUG), "llama.cpp: %s", line)

    lib.pa_lite_listener = listen  # llama.cpp keeps the pointer: the object must live as long as the module
    lib.llama_log_set(listen, ctypes.c_void_p(0))
    lib.llama_backend_init()
    return lib


def fresh_words() -> None:
    """Clear the kept log lines, before a call that may fail."""
    _last_words.clear()


def complaint() -> str:
    """Return the first error in llama.cpp's kept log lines."""
    errors = [line for line in _last_words if "error" in line.lower() or "failed" in line.lower()]
    return (errors[0] if errors else "it gives no reason").split(": ", 1)[-1] + "."
