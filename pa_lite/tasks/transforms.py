"""Named transforms for what templates cannot do: each takes a row and returns the columns that it adds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pa_lite.untrusted.rows import Row


def listed(value: Any) -> list[Any]:
    """Return a list of structs that is stored as such or as a struct of parallel lists (`{"a": [1], "b": [2]}`)."""
    if isinstance(value, Mapping):
        return [dict(zip(value, parts, strict=True)) for parts in zip(*value.values(), strict=True)]
    return list(value)


def column(value: Any, name: str) -> list[Any]:
    """Return one field of a list of structs, stored in either form; templates use it for choices and labels."""
    return list(value[name]) if isinstance(value, Mapping) else [entry[name] for entry in value]


def _without_markup(text: str) -> str:
    """Clean HellaSwag's WikiHow rows: ` [title]` becomes `. `, other brackets are removed, double spaces halved."""
    text = text.strip().replace(" [title]", ". ")
    # a regular expression would take quadratic time for a row full of opening brackets
    return "\n".join(_without(line, "[", "]") for line in text.split("\n")).replace("  ", " ")


def _without(text: str, start: str, end: str) -> str:
    """Return the text without parts from `start` to `end` that do not contain the first character of `end`."""
    kept, at = [], 0
    while (first := text.find(start, at)) >= 0 and (last := text.find(end[0], first + len(start))) >= 0:
        is_end = text.startswith(end, last)
        kept.append(text[at : first if is_end else last + 1])
        at = last + (len(end) if is_end else 1)
    return "".join(kept) + text[at:]


def _hellaswag(row: Row) -> dict[str, Any]:
    context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    return {"query": _without_markup(context), "endings": [_without_markup(e) for e in row["endings"]]}


def _gsm8k(row: Row) -> dict[str, Any]:
    """Return the solution in one line without `<<...>>` annotations, and the number after `####` without commas."""
    solution, mark, number = row["answer"].rpartition("####")
    if not mark:
        raise ValueError("the answer has no '####'")
    return {"reasoning": " ".join(_without(solution, "<<", ">>").split()), "number": number.strip().replace(",", "")}


def _drop_answer(answer: Row) -> tuple[str, ...]:
    """Return a gold answer as spans: the number, else the spans, else the date."""
    if answer["number"]:
        return (str(answer["number"]),)
    if len(answer["spans"]):
        return tuple(answer["spans"])
    return (" ".join(answer["date"][part] for part in ("day", "month", "year")).strip(),)


def _drop(row: Row) -> dict[str, Any]:
    """Return `golds`: the distinct answers and validated answers as lists of spans, without empty ones if possible."""
    validated = row["validated_answers"]
    if isinstance(validated, Mapping):
        parts = {key: validated[key] for key in ("number", "date", "spans")}
        if isinstance(parts["date"], Mapping):
            parts["date"] = listed(parts["date"])
        validated = listed(parts)
    golds = dict.fromkeys(_drop_answer(a) for a in (row["answer"], *validated))
    filled = [list(g) for g in golds if any(span.strip() for span in g)]
    return {"golds": filled or [[""]]}


# transform -> the columns that it reads
COLUMNS = {
    "hellaswag": ("activity_label", "ctx_a", "ctx_b", "endings"),
    "gsm8k": ("answer",),
    "drop": ("answer", "validated_answers"),
}
TRANSFORMS: dict[str, Callable[[Row], dict[str, Any]]] = {"hellaswag": _hellaswag, "gsm8k": _gsm8k, "drop": _drop}
