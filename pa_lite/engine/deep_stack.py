"""Run a call in a thread with a stack that is large enough for llama.cpp's tokenizer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from pa_lite.errors import TextError
from pa_lite.system.interrupts import uninterrupted

T = TypeVar("T")

DIRECT = 256  # characters of a text that fits any thread's stack: about 170 KB
_BYTES = 1024  # of stack per character; at most 647 were measured, with libstdc++ on x86-64 and all pre-tokenizers
_BASE = 1 << 20  # bytes of stack for everything else
_starting = threading.Lock()  # the stack size of new threads is one setting for the whole process


def with_deep_stack(length: int, call: Callable[[], T]) -> T:
    """Return what `call` returns, in a thread whose stack allows matches of up to `length` characters.

    Raises what `call` raises, and TextError where the system does not grant such a stack.
    """
    results: list[T] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as e:  # noqa: BLE001 - raised again in the calling thread
            failures.append(e)

    size = _BASE + 2 * _BYTES * length  # a match may start in the white space of the word before
    thread = threading.Thread(target=work, name="pa-lite tokenizer")
    with uninterrupted():  # the model must not be freed while the thread uses it
        with _starting:
            before = threading.stack_size(-(-size // 65536) * 65536)
            try:
                thread.start()
            except RuntimeError as e:
                raise TextError(
                    f"has a word of {length} characters, for which the tokenizer needs {size >> 20} MB of stack that "
                    "the system does not grant. Shorten it, or allow this program more memory"
                ) from e
            finally:
                threading.stack_size(before)
        thread.join()
    if failures:
        raise failures[0]
    return results[0]
