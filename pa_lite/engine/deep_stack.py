"""A call in a thread whose stack has the size that llama.cpp's tokenizer needs, whatever the calling thread's is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from pa_lite.errors import TextError
from pa_lite.system.interrupts import uninterrupted

T = TypeVar("T")

DIRECT = 256  # characters of a text that any thread's stack has room for: about 170 KB
_BYTES = 1024  # of stack for a character; measured with libstdc++ on x86-64: 647 at most, for all pre-tokenizers
_BASE = 1 << 20  # bytes of stack for everything else
_starting = threading.Lock()  # the size of a new thread's stack is one number for the whole process


def with_deep_stack(length: int, call: Callable[[], T]) -> T:
    """Return what `call` returns, in a thread with stack for matches of up to `length` characters.

    Raises what `call` raises, and TextError where the system gives no such stack.
    """
    results: list[T] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as e:  # noqa: BLE001 - raised again where it was asked
            failures.append(e)

    size = _BASE + 2 * _BYTES * length  # a match may begin in the white space of the stretch before
    thread = threading.Thread(target=work, name="pa-lite tokenizer")
    with uninterrupted():  # the model must not be freed under the thread
        with _starting:
            before = threading.stack_size(-(-size // 65536) * 65536)
            try:
                thread.start()
            except RuntimeError as e:
                raise TextError(
                    f"has a word of {length} characters, for which the tokenizer needs {size >> 20} MB of stack, and "
                    "the system does not give them. Shorten it, or allow this program more memory"
                ) from e
            finally:
                threading.stack_size(before)
        thread.join()
    if failures:
        raise failures[0]
    return results[0]
