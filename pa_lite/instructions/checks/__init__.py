"""Rules that check whether a response follows an instruction, without a judge. Pure Python on strings.

A check is a table with its type under `kind`, and the fields of that type. An instruction is followed if all its checks
pass. The types cover the constraints introduced by IFEval (Zhou et al. 2023, arXiv 2311.07911).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pa_lite.errors import InputError, nearest
from pa_lite.instructions.checks import counts, frame, language, layout, wording
from pa_lite.instructions.checks.text import RELATIONS, Check, CheckTypes, words
from pa_lite.untrusted.tables import BOOLEAN, STRING, TEXT, Form, check_table

__all__ = ["CHECK_TYPES", "Check", "checkable", "followed", "loose_variants", "passes", "validate", "words"]

CHECK_TYPES: CheckTypes = {
    **counts.CHECK_TYPES,
    **wording.CHECK_TYPES,
    **frame.CHECK_TYPES,
    **layout.CHECK_TYPES,
    **language.CHECK_TYPES,
}


def _is_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(TEXT[0], value))


_TEXTS: Form = _is_texts, "a list of strings that are not blank"
# field -> what its values must be, for every check type
_FIELDS: dict[str, Form] = {
    "n": (lambda v: type(v) is int and v >= 0, "an integer from 0"),
    "nth": (lambda v: type(v) is int and v >= 1, "an integer from 1"),
    "relation": (lambda v: isinstance(v, str) and v in RELATIONS, f"one of {', '.join(RELATIONS)}"),
    "letter": (lambda v: TEXT[0](v) and len(v) == 1, "a single letter"),
    "joined": BOOLEAN, "any": BOOLEAN, "same_case": BOOLEAN, "distinct": BOOLEAN,
    "words": _TEXTS, "texts": _TEXTS, "options": _TEXTS, "keys": _TEXTS,
    "word": TEXT, "text": TEXT, "characters": TEXT, "marker": TEXT, "header": TEXT, "divider": TEXT,
    "left": TEXT, "right": TEXT, "code": TEXT,
}  # fmt: skip


def validate(check: Check, where: str) -> None:
    """Raise InputError, starting with `where`, unless the check's type is known and its fields are valid."""
    check_type = check.get("kind")
    if not isinstance(check_type, str) or check_type not in CHECK_TYPES:
        raise InputError(f"{where}: unknown check kind {check_type!r}.{nearest(str(check_type), CHECK_TYPES)}")
    forms = {name.rstrip("?"): _FIELDS[name.rstrip("?")] for name in CHECK_TYPES[check_type][0]}
    required = [name for name in CHECK_TYPES[check_type][0] if not name.endswith("?")]
    check_table(dict(check), f"{where}: check {check_type!r}", {"kind": STRING, **forms}, required)


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
