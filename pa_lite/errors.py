"""Every error that a user can cause. Imports only texts."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pa_lite.sanitize import short_line

_LONGEST_NAME = 200  # characters, beyond which no known name is like it


class PaLiteError(Exception):
    """Something that the user can put right; the message says what is wrong, where, and what to do.

    It is one plain line, whatever the names and values in it are.
    """

    def __init__(self, message: str) -> None:
        super().__init__(short_line(message))


class InputError(PaLiteError):
    """An argument, option or data file is wrong."""


class TextError(InputError):
    """A text that a model's tokenizer cannot take. `fault` is the end of a sentence that begins with the text's name.

    `where` is that name.
    """

    def __init__(self, fault: str, where: str = "a text") -> None:
        super().__init__(f"{where} {fault}.")
        self.fault, self.where = fault, where

    def __reduce__(self) -> tuple[type[TextError], tuple[str, str]]:
        """Keep both parts in a copy."""
        return TextError, (self.fault, self.where)


class CheckpointError(PaLiteError):
    """A checkpoint is incomplete, broken, or of a kind that pa-lite does not know."""


class InputChangedError(CheckpointError):
    """A checkpoint's file became another while it was used; what was made of it so far is of no use."""


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
