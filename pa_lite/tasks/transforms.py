"""Named transforms for what templates cannot do: each takes a row and returns the columns that it adds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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


_NONE = "none"  # the answer of a text without entries


def tagged_spans(tokens: Sequence[str], tags: Sequence[str]) -> list[tuple[str, str]]:
    """Return (type, text) of each tagged span in order, its tokens joined by spaces.

    `B-x` starts a span; `I-x`, or `x` alone (IO tagging), extends a span of type x that ends at the previous token, or
    starts one, as in the evaluation of CoNLL (Tjong Kim Sang and De Meulder 2003). `O` is outside. Raises ValueError if
    there are not as many tags as tokens.
    """
    spans: list[tuple[str, list[str]]] = []
    previous = ""
    for token, tag in zip(tokens, tags, strict=True):
        name = "" if tag == "O" else tag[2:] if tag[:2] in ("B-", "I-") else tag
        if name and name == previous and not tag.startswith("B-"):
            spans[-1][1].append(token)
        elif name:
            spans.append((name, [token]))
        previous = name
    return [(name, " ".join(part)) for name, part in spans]


def _entries(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Return the distinct pairs as `name: value`, each on one line; `none` if there are none."""
    return list(dict.fromkeys(" ".join(f"{name}: {value}".split()) for name, value in pairs)) or [_NONE]


def _entities(row: Row, names: Sequence[str]) -> dict[str, Any]:
    """Return `text`, the tokens joined by spaces, and `entries`, its entities; `names[i]` is the name of tag i."""
    for tag in row["ner_tags"]:
        if not 0 <= tag < len(names):
            raise ValueError(f"ner_tags contains {tag}, but the known tags are 0 to {len(names) - 1}")
    spans = tagged_spans(row["tokens"], [names[tag] for tag in row["ner_tags"]])
    return {"text": " ".join(row["tokens"]), "entries": _entries(spans)}


def _bracketed(text: str) -> list[tuple[str, str]]:
    """Return each part in brackets and the text before it, after the previous one. Raises ValueError if one is open."""
    parts, at = [], 0
    while (start := text.find("[", at)) >= 0:
        if (end := text.find("]", start)) < 0:
            raise ValueError("a '[' is not closed")
        parts.append((text[at:start], text[start + 1 : end]))
        at = end + 1
    return parts


def _massive(row: Row) -> dict[str, Any]:
    """Return `entries`, the slots of `annot_utt`: `wake me at [time : nine am]` -> `time: nine am`."""
    slots = []
    for _, inside in _bracketed(row["annot_utt"]):
        name, colon, value = inside.partition(":")
        if not colon:
            raise ValueError(f"the slot {inside!r:.80} has no colon")
        slots.append((name.strip(), value))
    return {"entries": _entries(slots)}


def _e2e(row: Row) -> dict[str, Any]:
    """Return `entries`, the attributes of `meaning_representation`: `name[Alimentum], food[Thai]`."""
    pairs = [(before.strip(" ,"), value) for before, value in _bracketed(row["meaning_representation"])]
    if not pairs or not all(name for name, _ in pairs):
        raise ValueError("meaning_representation is not a list of name[value]")
    return {"entries": _entries(pairs)}


_FEW_NERD = ("O", "art", "building", "event", "location", "organization", "other", "person", "product")
_WIKINEURAL = ("O", *(f"{b}-{n}" for n in ("person", "organization", "location", "misc") for b in "BI"))

# transform -> the columns that it reads
COLUMNS = {
    "hellaswag": ("activity_label", "ctx_a", "ctx_b", "endings"),
    "gsm8k": ("answer",),
    "drop": ("answer", "validated_answers"),
    "few_nerd": ("tokens", "ner_tags"),
    "wikineural": ("tokens", "ner_tags"),
    "massive": ("annot_utt",),
    "e2e": ("meaning_representation",),
}
TRANSFORMS: dict[str, Callable[[Row], dict[str, Any]]] = {
    "hellaswag": _hellaswag,
    "gsm8k": _gsm8k,
    "drop": _drop,
    "few_nerd": lambda row: _entities(row, _FEW_NERD),
    "wikineural": lambda row: _entities(row, _WIKINEURAL),
    "massive": _massive,
    "e2e": _e2e,
}
