"""Every error that a user can cause, and how text of strangers is told in one. Imports nothing of pa_lite."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_LONGEST = 2000  # characters of a message: names in a file can be of any length
_LONGEST_NAME = 200  # beyond which none is like it
# control characters but for line ends and tabs, those that turn the direction of writing, and halves of characters
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    """The text with each character that steers a terminal written out, as in `\\x1b[31m`."""
    return STEERING.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def one_line(text: str) -> str:
    """The text plain and on one line, its middle left out where it is too long to be read."""
    return _shortened(plain(" ".join(part.strip() for part in _shortened(text).splitlines())))


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 505]} ... {text[-500:]}"


class PaLiteError(Exception):
    """Something that the user, their files or their machine must mend; the message says what, where and what to do.

    It is one plain line, whatever the names and values in it are.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class InputError(PaLiteError):
    """An argument, option or data file is wrong."""


class CheckpointError(PaLiteError):
    """A checkpoint is incomplete, broken, or of a kind that pa-lite does not know."""


class HubError(CheckpointError):
    """The Hub does not give a file or model; `is_passing` where it may later: out of reach, busy, out of order."""

    def __init__(self, message: str, is_passing: bool = False) -> None:
        super().__init__(message)
        self.is_passing = is_passing


class MismatchError(PaLiteError):
    """Base and instruct cannot be interpolated with each other; `details` holds every mismatch found, a line each."""

    def __init__(self, *details: str) -> None:
        more = f" ({len(details) - 1} more: --dry-run shows all)" if len(details) > 1 else ""
        super().__init__(details[0] + more)
        self.details = details


class OutputError(PaLiteError):
    """The result cannot be written: it exists, the disk is full, the folder is not there."""


class EngineError(PaLiteError):
    """llama.cpp could not load a model or run it."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence, with a blank before it, that suggests the names nearest to an unknown one."""
    names = sorted(known)
    if len(name) > _LONGEST_NAME:
        return ""
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f" Did you mean {' or '.join(close)}?"
    return f" Known: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}." if names else ""
