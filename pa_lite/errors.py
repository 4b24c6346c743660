"""Errors that a user can cause."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pa_lite.sanitize import short_line

_LONGEST_NAME = 200  # characters; no known name resembles a longer one


class PaLiteError(Exception):
    """An error that the user can fix; its message says what is wrong, where, and what to do.

    The message is one line without control characters, whatever names and values it quotes.
    """

    def __init__(self, message: str) -> None:
        super().__init__(short_line(message))


class InputError(PaLiteError):
    """An argument, option or data file is wrong."""


class TextError(InputError):
    """A string that a model's tokenizer cannot encode. `where` names the string, `fault` completes the sentence."""

    def __init__(self, fault: str, where: str = "a text") -> None:
        super().__init__(f"{where} {fault}.")
        self.fault, self.where = fault, where

    def __reduce__(self) -> tuple[type[TextError], tuple[str, str]]:
        """Keep both arguments when the error is pickled."""
        return TextError, (self.fault, self.where)


class CheckpointError(PaLiteError):
    """A checkpoint is incomplete, broken, or of a format or architecture that pa-lite does not support."""


class InputChangedError(CheckpointError):
    """A checkpoint file changed while it was being read; results derived from it must be discarded."""


class HubError(CheckpointError):
    """A file or model cannot be had from the Hub; `is_passing` if a retry may help (offline, busy, server error)."""

    def __init__(self, message: str, is_passing: bool = False) -> None:
        super().__init__(message)
        self.is_passing = is_passing


class MismatchError(PaLiteError):
    """Base and instruct cannot be interpolated; `details` lists every mismatch found, one line each."""

    def __init__(self, *details: str) -> None:
        more = f" ({len(details) - 1} more: --dry-run shows all)" if len(details) > 1 else ""
        super().__init__(details[0] + more)
        self.details = details


class OutputError(PaLiteError):
    """The output cannot be written: it exists, the disk is full, or its folder is missing."""


class EngineError(PaLiteError):
    """llama.cpp could not load a model or run it."""


class CancelledError(EngineError):
    """An answer was cancelled before it was complete."""


class StoppedError(EngineError):
    """A running batch of llama.cpp was stopped, by Ctrl-C or because its work is no longer wanted."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a sentence, with a leading space, that suggests the known names nearest to an unknown one."""
    names = sorted(known)
    if len(name) > _LONGEST_NAME:
        return ""
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f" Did you mean {' or '.join(close)}?"
    return f" Known: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}." if names else ""
