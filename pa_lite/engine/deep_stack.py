"""A stack of the size that llama.cpp's tokenizer needs for a text, whatever the calling thread's own is.

The patterns of most byte-level vocabularies run in C++'s `std::regex`, which goes one call deeper for each character of
a match: a long word overruns the stack and ends the process.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import TypeVar

from pa_lite.errors import EngineError, InputError
from pa_lite.files import uninterrupted

T = TypeVar("T")

_STRETCH = re.compile(r"[^ \t\n\v\f\r]*\s*")
_JOINED = re.compile(r"[A-Za-z \x80-\U0010ffff]+")  # what can be letters with single spaces between them
_DIRECT = 256  # characters of a text that any thread's stack has room for: about 80 KB
_BYTES = 1024  # of stack for a character; measured with libstdc++ on x86-64: 322
_BASE = 1 << 20  # bytes of stack for all else
MOST = 200_000  # characters of a stretch: 400 MB of stack, of which what is not used takes no memory
_starting = threading.Lock()  # the size of a new thread's stack is one number for the whole process


def longest_stretch(text: str, joins_words: bool = False) -> tuple[int, int]:
    """Return place and length, in characters, of the longest word with the white space behind it.

    With `joins_words` words of letters with single spaces between them count as one.
    """
    patterns = (_STRETCH, _JOINED) if joins_words else (_STRETCH,)
    found = (match for pattern in patterns for match in pattern.finditer(text))
    longest = max(found, key=lambda match: match.end() - match.start())
    return longest.start(), longest.end() - longest.start()


def with_deep_stack(text: str, call: Callable[[], T], joins_words: bool) -> T:
    """Return what `call` returns, which tokenises a text, in a thread whose stack has room for it.

    A match spans a word and the white space around it, with `joins_words` any number of
    them with single spaces between. Raises InputError for
    a stretch of more than `MOST` characters, EngineError where the system gives no such stack.
    """
    if len(text) <= _DIRECT:
        return call()
    place, length = longest_stretch(text, joins_words)
    if length > MOST:
        raise InputError(
            f"the text {text[:40]!r}... has a stretch of {length} characters without a break, from character "
            f"{place + 1} on; this model's tokenizer takes at most {MOST}. Shorten it, or put spaces in."
        )
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
                raise EngineError(
                    f"no room for a stack of {size >> 20} MB to tokenise a word of {length} characters: shorten it."
                ) from e
            finally:
                threading.stack_size(before)
        thread.join()
    if failures:
        raise failures[0]
    return results[0]
