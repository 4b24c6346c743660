"""Typed records of finished items, and the validation rules for their fields.

Run folders are shared between people, so everything that is read is validated before use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar

from pa_lite.alpaca.annotations import ROUNDING
from pa_lite.study.rows import (
    Rules,
    are_tokens,
    is_share,
    is_text,
    is_texts,
    is_true_or_false,
    is_whole,
    lies_within,
    or_none,
    read_table,
)

Record = dict[str, Any]
_MOST_NATS, _MOST_TOKENS = 1e9, 1 << 28  # of an item


@dataclass(frozen=True, kw_only=True)
class FinishedItem:
    """One item of a cell: the model's output, and remarks on how its context was reduced for lack of memory."""

    output: str = ""
    remarks: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class ScoredItem(FinishedItem):
    """A few-shot item: `metrics` by name, each in [0, 1]; `metric` names the task's main metric."""

    metric: str
    metrics: Mapping[str, float]
    truncated: bool = False


@dataclass(frozen=True, kw_only=True)
class AnsweredItem(FinishedItem):
    """An answered instruction; `ended` is whether the model ended the answer, rather than the token limit."""

    instruction: str
    ended: bool


@dataclass(frozen=True, kw_only=True)
class FollowedItem(AnsweredItem):
    """A checked answer; `followed` is None where it could not be checked."""

    followed: bool | None


@dataclass(frozen=True, kw_only=True)
class JudgedItem(FinishedItem):
    """A judged pair: `preference` from 1 (the reference's answer) to 2 (the model's), None where not judged.

    The other fields are as in `Verdict`; None where a record lacks them.
    """

    preference: float | None
    reference_first: float | None = None
    model_first: float | None = None
    answer_mass: float | None = None


@dataclass(frozen=True, kw_only=True)
class InstructAnswer(AnsweredItem):
    """An answer that instruct gave, as token ids: `tokens` with the end token, after the prompt `context`."""

    context: Sequence[int]
    tokens: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class AgreedItem(FinishedItem):
    """An answer of instruct's as scored by a model: -ln p in nats, its tokens, and those that were the most likely."""

    nats: float
    n_tokens: int
    n_agreed: int


@dataclass(frozen=True, kw_only=True)
class TextItem(FinishedItem):
    """A passage as scored by a model: -ln p in nats, and the passage's tokens and bytes."""

    nats: float
    n_tokens: int
    n_bytes: int


_R = TypeVar("_R", bound=FinishedItem)
_FIELDS: Rules = {
    "output": (is_text, "a string"),
    "remarks": (is_texts, "a list of strings"),
    "metric": (is_text, "a string"),
    "metrics": (
        lambda value: isinstance(value, dict) and all(map(is_share, value.values())),
        "an object of numbers in [0, 1]",
    ),
    "truncated": (is_true_or_false, "true or false"),
    "instruction": (is_text, "a string"),
    "ended": (is_true_or_false, "true or false"),
    "followed": (or_none(is_true_or_false), "true, false or null"),
    "preference": (or_none(lies_within(1, 2)), "a number from 1 to 2, or null"),
    "reference_first": (or_none(is_share), "a number in [0, 1], or null"),
    "model_first": (or_none(is_share), "a number in [0, 1], or null"),
    "context": (are_tokens, "a list of token ids"),
    "tokens": (are_tokens, "a list of token ids"),
    "nats": (lies_within(0, _MOST_NATS), "a number from 0"),
    "n_tokens": (lies_within(0, _MOST_TOKENS, is_whole), "a number from 0"),
    "n_bytes": (lies_within(1, _MOST_TOKENS, is_whole), "a number from 1"),
    "n_agreed": (lies_within(0, _MOST_TOKENS, is_whole), "a number from 0"),
    "answer_mass": (or_none(lies_within(0, 1 + ROUNDING)), "a number in [0, 1], or null"),
}


def read_result(record_type: type[_R], record: Any) -> _R:
    """Return a record as an instance of `kind`. Raises ValueError for a missing or invalid field."""
    wanted = fields(record_type)
    table = read_table("record", record, {f.name: _FIELDS[f.name] for f in wanted})
    for field in wanted:
        if field.name not in table and field.default is MISSING:
            raise ValueError(f"record has no {field.name!r}")
    return record_type(**{f.name: table[f.name] for f in wanted if f.name in table})
