"""Rules that tell whether a response obeys an instruction, without a judge. Pure Python on strings.

A check is a table with a `kind` and that kind's own fields; an instruction is followed when every one of its
checks holds. The kinds cover the sort of constraints introduced by IFEval (Zhou et al. 2023, arXiv 2311.07911).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pa_lite.errors import InputError, nearest

Check = Mapping[str, Any]

_WORD = re.compile(r"\w+(?:['-]\w+)*")
_RELATIONS: dict[str, Callable[[int, int], bool]] = {
    "exactly": lambda count, n: count == n,
    "at_least": lambda count, n: count >= n,
    "at_most": lambda count, n: count <= n,
}


def words(text: str) -> list[str]:
    """The words of a text: runs of letters and digits, inner hyphens and apostrophes kept."""
    return _WORD.findall(text)


def _is_upper(text: str, check: Check) -> bool:
    return any(c.isalpha() for c in text) and text == text.upper()


def _is_lower(text: str, check: Check) -> bool:
    return any(c.isalpha() for c in text) and text == text.lower()


def _word_count(text: str, check: Check) -> bool:
    holds = _RELATIONS[str(check.get("relation", "exactly"))]
    return holds(len(words(text)), check["n"])


def _includes(text: str, check: Check) -> bool:
    have = [w.lower() for w in words(text)]
    return all(w.lower() in have for w in check["words"])


def _excludes(text: str, check: Check) -> bool:
    have = [w.lower() for w in words(text)]
    return not any(w.lower() in have for w in check["words"])


def _repeats(text: str, check: Check) -> bool:
    have = [w.lower() for w in words(text)]
    return have.count(str(check["word"]).lower()) == int(check["n"])


def _starts(text: str, check: Check) -> bool:
    return text.startswith(str(check["text"]))


def _ends(text: str, check: Check) -> bool:
    return text.endswith(str(check["text"]))


def _equals(text: str, check: Check) -> bool:
    return text == str(check["text"])


def _quoted(text: str, check: Check) -> bool:
    inner = text[1:-1]
    return len(text) > 2 and text[0] == text[-1] == '"' and '"' not in inner and bool(inner.strip())


def _lines(pattern: str) -> Callable[[str, Check], bool]:
    def check_lines(text: str, check: Check) -> bool:
        lines = [line for line in text.splitlines() if line.strip()]
        return len(lines) == check["n"] and all(
            re.fullmatch(pattern.format(i=i), line.strip()) for i, line in enumerate(lines, 1)
        )

    return check_lines


def _chooses(text: str, check: Check) -> bool:
    return text.strip(" .!\"'").lower() in [o.lower() for o in check["options"]]


# kind -> (its fields besides `kind`, the rule); a field ending in "?" may be left out
KINDS: dict[str, tuple[tuple[str, ...], Callable[[str, Check], bool]]] = {
    "uppercase": ((), _is_upper),
    "lowercase": ((), _is_lower),
    "word_count": (("n", "relation?"), _word_count),
    "includes": (("words",), _includes),
    "excludes": (("words",), _excludes),
    "repeats": (("word", "n"), _repeats),
    "starts_with": (("text",), _starts),
    "ends_with": (("text",), _ends),
    "equals": (("text",), _equals),
    "quoted": ((), _quoted),
    "bulleted": (("n",), _lines(r"[-*] .*\S.*")),
    "numbered": (("n",), _lines(r"{i}[.)] .*\S.*")),
    "chooses": (("options",), _chooses),
}


def validate(check: Check, where: str) -> None:
    """Raise InputError, naming `where`, unless the check's kind is known and its fields are the kind's own."""
    kind = check.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(f"{where}: unknown check kind {kind!r}.{nearest(str(kind), KINDS)}")
    fields = {f.rstrip("?"): not f.endswith("?") for f in KINDS[kind][0]}
    missing = [f for f, required in fields.items() if required and f not in check]
    extra = [f for f in check if f != "kind" and f not in fields]
    if missing or extra:
        told = f"lacks {', '.join(missing)}" if missing else f"has unknown {', '.join(extra)}"
        raise InputError(f"{where}: check {kind!r} {told}. Its fields: {', '.join(fields) or 'none'}.")
    if check.get("relation", "exactly") not in _RELATIONS:
        raise InputError(f"{where}: relation {check['relation']!r} is none of {', '.join(_RELATIONS)}.")


def followed(response: str, checks: Sequence[Check]) -> bool:
    """Whether the response, blanks at its ends removed, passes every check; an empty response follows nothing."""
    text = response.strip()
    return bool(text) and all(KINDS[check["kind"]][1](text, check) for check in checks)
