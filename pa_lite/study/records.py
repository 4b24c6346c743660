"""What a finished item's record says, as typed values: each kind of record, and the rules for its fields.

Run folders are shared: whatever is read is checked before it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar

from pa_lite.study.rows import Rules, is_share, is_text, is_texts, is_true_or_false, lies_within, or_none, read_table

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class FinishedItem:
    """One item of a cell: the model's text, and in what its context was made smaller for lack of memory."""

    output: str = ""
    remarks: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class ScoredItem(FinishedItem):
    """A few-shot item: `metrics` by name, each in [0, 1]; `metric` is the name of the task's own."""

    metric: str
    metrics: Mapping[str, float]
    truncated: bool = False


@dataclass(frozen=True, kw_only=True)
class AnsweredItem(FinishedItem):
    """An answered instruction; `ended` is whether the model ended the answer itself."""

    instruction: str
    ended: bool


@dataclass(frozen=True, kw_only=True)
class FollowedItem(AnsweredItem):
    """An answer that was checked; `followed` is None where it could not be."""

    followed: bool | None


@dataclass(frozen=True, kw_only=True)
class JudgedItem(FinishedItem):
    """A judged pair: `preference` from 1 (the reference's answer) to 2 (the model's), None where it was not judged."""

    preference: float | None


_R = TypeVar("_R", bound=FinishedItem)
_FIELDS: Rules = {
    "output": (is_text, "a text"),
    "remarks": (is_texts, "a list of texts"),
    "metric": (is_text, "a text"),
    "metrics": (
        lambda value: isinstance(value, dict) and all(map(is_share, value.values())),
        "an object of numbers in [0, 1]",
    ),
    "truncated": (is_true_or_false, "true or false"),
    "instruction": (is_text, "a text"),
    "ended": (is_true_or_false, "true or false"),
    "followed": (or_none(is_true_or_false), "true, false or null"),
    "preference": (or_none(lies_within(1, 2)), "a number from 1 to 2, or null"),
}


def read_result(kind: type[_R], record: Any) -> _R:
    """Return what a record says. Raises ValueError for a field that is missing or holds something else."""
    wanted = fields(kind)
    table = read_table("record", record, {f.name: _FIELDS[f.name] for f in wanted})
    for field in wanted:
        if field.name not in table and field.default is MISSING:
            raise ValueError(f"record has no {field.name!r}")
    return kind(**{f.name: table[f.name] for f in wanted if f.name in table})
