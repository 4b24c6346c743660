"""Rules that check whether a response follows an instruction, without a judge. Pure Python on strings.

A check is a table with its type under `kind`, and the fields of that type. An instruction is followed if all its checks
pass. The types cover the constraints introduced by IFEval (Zhou et al. 2023, arXiv 2311.07911).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pa_lite.errors import InputError, nearest
from pa_lite.instructions.checks import counts, frame, language, layout, wording
from pa_lite.instructions.checks.text import RELATIONS, Check, CheckTypes, words

__all__ = ["CHECK_TYPES", "Check", "checkable", "followed", "loose_variants", "passes", "validate", "words"]

CHECK_TYPES: CheckTypes = {
    **counts.CHECK_TYPES,
    **wording.CHECK_TYPES,
    **frame.CHECK_TYPES,
    **layout.CHECK_TYPES,
    **language.CHECK_TYPES,
}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(_is_text, value))


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


_TEXT = (_is_text, "a text")
_TEXTS = (_is_texts, "a list of texts")
_FLAG = (_is_flag, "true or false")
# field -> what its values must be, for every check type
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "n": (lambda v: type(v) is int and v >= 0, "a whole number from 0"),
    "nth": (lambda v: type(v) is int and v >= 1, "a whole number from 1"),
    "relation": (lambda v: isinstance(v, str) and v in RELATIONS, f"one of {', '.join(RELATIONS)}"),
    "letter": (lambda v: _is_text(v) and len(v) == 1, "a single letter"),
    "joined": _FLAG, "any": _FLAG, "same_case": _FLAG, "distinct": _FLAG,
    "words": _TEXTS, "texts": _TEXTS, "options": _TEXTS, "keys": _TEXTS,
    "word": _TEXT, "text": _TEXT, "characters": _TEXT, "marker": _TEXT, "header": _TEXT, "divider": _TEXT,
    "left": _TEXT, "right": _TEXT, "code": _TEXT,
}  # fmt: skip


def validate(check: Check, where: str) -> None:
    """Raise InputError, starting with `where`, unless the check's type is known and its fields are valid."""
    check_type = check.get("kind")
    if not isinstance(check_type, str) or check_type not in CHECK_TYPES:
        raise InputError(f"{where}: unknown check kind {check_type!r}.{nearest(str(check_type), CHECK_TYPES)}")
    fields = {f.rstrip("?"): not f.endswith("?") for f in CHECK_TYPES[check_type][0]}
    missing = [f for f, required in fields.items() if required and f not in check]
    extra = [f for f in check if f != "kind" and f not in fields]
    if missing or extra:
        told = f"lacks {', '.join(missing)}" if missing else f"has unknown {', '.join(extra)}"
        raise InputError(f"{where}: check {check_type!r} {told}. Its fields: {', '.join(fields) or 'none'}.")
    for field in fields:
        right, told = _FIELDS[field]
        if field in check and not right(check[field]):
            raise InputError(f"{where}: check {check_type!r}: {field} {check[field]!r} is not {told}.")


def checkable(check: Check) -> bool:
    """Return whether a valid check can be evaluated: `language` only for known languages."""
    return check["kind"] != "language" or language.base_code(check["code"]) in language.LANGUAGES


def passes(response: str, check: Check) -> bool:
    """Return whether the response, stripped of outer spaces, passes a checkable check; an empty one fails."""
    text = response.strip()
    return bool(text) and CHECK_TYPES[check["kind"]][1](text, check)


def followed(response: str, checks: Sequence[Check]) -> bool:
    """Return whether the response, stripped of outer spaces, passes every check; an empty one fails."""
    return bool(response.strip()) and all(passes(response, check) for check in checks)


def loose_variants(response: str) -> Iterator[str]:
    """Yield the response unchanged, without its first line, last line, and both; each also without asterisks.

    Source: IFEval's loose accuracy (Zhou et al. 2023, section 2.2): a constraint is met loosely if any variant does.
    """
    lines = response.strip().split("\n")
    for variant in (lines, lines[1:], lines[:-1], lines[1:-1]):
        text = "\n".join(variant).strip()
        yield text
        yield text.replace("*", "")
