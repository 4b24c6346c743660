"""Which columns of a user's table are the input and the output, by their usual names."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pa_lite.errors import InputError

# names of columns in lower case, the most telling first
INPUTS = (
    "input", "inputs", "question", "query", "prompt", "instruction", "text", "sentence", "review", "content", "comment",
    "message", "utterance", "request", "document", "article", "passage", "tweet", "email", "description", "source",
    "problem", "x",
)  # fmt: skip
OUTPUTS = (
    "output", "outputs", "answer", "label", "target", "completion", "response", "expected", "ideal", "class",
    "category", "sentiment", "intent", "topic", "emotion", "summary", "translation", "reply", "result", "solution",
    "tag", "gold", "y",
)  # fmt: skip
# inputs that belong together, in the order of the prompt
TOGETHER = (
    ("premise", "hypothesis"), ("sentence1", "sentence2"), ("text1", "text2"), ("question1", "question2"),
    ("context", "question"), ("passage", "question"), ("instruction", "input"),
)  # fmt: skip
_BESIDES = ("", "id", "idx", "index", "split", "unnamed: 0")  # columns that are neither
_SHOWN = 8  # names in a message


class Columns(NamedTuple):
    """The columns of the input, in the order of the prompt, and that of the output."""

    inputs: tuple[str, ...]
    output: str


def find_columns(where: Path, names: Sequence[str], inputs: Sequence[str] = (), output: str = "") -> Columns:
    """Return the columns of a table with these names: those given, else those with usual names, in any case.

    Where one side is known and only one other column is left, that is the other side. Raises InputError, naming the
    columns and the options, for unknown ones and where the names do not say it.
    """
    for given in (*inputs, *([output] if output else [])):
        if given not in names:
            raise InputError(f"{where}: has no column {given!r}{_nearest(given, names)}; it has {_listed(names)}.")
    if output and output in inputs:
        raise InputError(f"{where}: the column {output!r} cannot be both the input and the output.")
    by_name = {name.strip().casefold(): name for name in reversed(names)}
    left = {low: name for low, name in by_name.items() if name not in inputs and name != output}
    found_output = output or next((left[low] for low in OUTPUTS if low in left), "")
    left = {low: name for low, name in left.items() if name != found_output}
    found_inputs = tuple(inputs) or _usual_inputs(left)
    others = [name for low, name in left.items() if low not in _BESIDES and name not in found_inputs]
    if found_output and not found_inputs and len(others) == 1:
        found_inputs = (others[0],)
    if found_inputs and not found_output and len(others) == 1:
        found_output = others[0]
    if not found_inputs or not found_output:
        raise _unclear(where, names, found_inputs, found_output)
    return Columns(found_inputs, found_output)


def _usual_inputs(left: Mapping[str, str]) -> tuple[str, ...]:
    for pair in TOGETHER:
        if all(low in left for low in pair):
            return tuple(left[low] for low in pair)
    return tuple(left[low] for low in INPUTS if low in left)[:1]


def _unclear(where: Path, names: Sequence[str], inputs: Sequence[str], output: str) -> InputError:
    if len(names) < 2:
        return InputError(
            f"{where}: has {_listed(names)}, but an input and an output are required, with names in the first line. "
            "Separate the cells with commas, semicolons or tabs."
        )
    options = [] if inputs else ["--input-column NAME"]
    options += [] if output else ["--output-column NAME"]
    what = "input" if output else "output" if inputs else "input or output"
    return InputError(
        f"{where}: no column has a usual name of an {what}; it has {_listed(names)}. Name it with "
        f"{' and '.join(options)}."
    )


def _nearest(given: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(given, names, n=1)
    return f" (did you mean {close[0]!r:.80}?)" if close else ""


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "no columns"
    shown = ", ".join(json.dumps(name, ensure_ascii=False)[:60] for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"the column{'s' if len(names) > 1 else ''} {shown}{more}"
