"""Changes to a row that a template cannot make, by name: each takes a row and gives the columns that it adds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pa_lite.untrusted.rows import Row


def listed(value: Any) -> list[Any]:
    """A list of structs, whether stored as one or as a struct of parallel lists (`{"a": [1], "b": [2]}`)."""
    if isinstance(value, Mapping):
        return [dict(zip(value, parts, strict=True)) for parts in zip(*value.values(), strict=True)]
    return list(value)


def column(value: Any, name: str) -> list[Any]:
    """One member of a list of structs, in either form: what templates take choices' texts and labels with."""
    return list(value[name]) if isinstance(value, Mapping) else [entry[name] for entry in value]


def _without_markup(text: str) -> str:
    """For HellaSwag's WikiHow rows: ` [title]` becomes `. `, then other brackets go, then doubled blanks are halved."""
    text = text.strip().replace(" [title]", ". ")
    # a pattern from bracket to bracket would take time squared for a row full of opening ones
    return "\n".join(_without(line, "[", "]") for line in text.split("\n")).replace("  ", " ")


def _without(text: str, begin: str, end: str) -> str:
    """The text without what stands from a `begin` to an `end` that the next of its first characters begins."""
    kept, at = [], 0
    while (first := text.find(begin, at)) >= 0 and (last := text.find(end[0], first + len(begin))) >= 0:
        is_end = text.startswith(end, last)
        kept.append(text[at : first if is_end else last + 1])
        at = last + (len(end) if is_end else 1)
    return "".join(kept) + text[at:]


def _hellaswag(row: Row) -> dict[str, Any]:
    context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    return {"query": _without_markup(context), "endings": [_without_markup(e) for e in row["endings"]]}


def _gsm8k(row: Row) -> dict[str, Any]:
    """The solution in one line without its `<<...>>` sums, and the number behind `####` without commas."""
    solution, mark, number = row["answer"].rpartition("####")
    if not mark:
        raise ValueError("the answer has no '####'")
    return {"reasoning": " ".join(_without(solution, "<<", ">>").split()), "number": number.strip().replace(",", "")}


def _drop_answer(answer: Row) -> tuple[str, ...]:
    """One gold answer as spans: the number, else the spans, else the date."""
    if answer["number"]:
        return (str(answer["number"]),)
    if len(answer["spans"]):
        return tuple(answer["spans"])
    return (" ".join(answer["date"][part] for part in ("day", "month", "year")).strip(),)


def _drop(row: Row) -> dict[str, Any]:
    """`golds`: the answer and each validated answer, each once, each a list of spans; empty ones go if others stay."""
    validated = row["validated_answers"]
    if isinstance(validated, Mapping):
        parts = {key: validated[key] for key in ("number", "date", "spans")}
        if isinstance(parts["date"], Mapping):
            parts["date"] = listed(parts["date"])
        validated = listed(parts)
    golds = dict.fromkeys(_drop_answer(a) for a in (row["answer"], *validated))
    told = [list(g) for g in golds if any(span.strip() for span in g)]
    return {"golds": told or [[""]]}


# transform -> the columns that it reads
COLUMNS = {
    "hellaswag": ("activity_label", "ctx_a", "ctx_b", "endings"),
    "gsm8k": ("answer",),
    "drop": ("answer", "validated_answers"),
}
TRANSFORMS: dict[str, Callable[[Row], dict[str, Any]]] = {"hellaswag": _hellaswag, "gsm8k": _gsm8k, "drop": _drop}
