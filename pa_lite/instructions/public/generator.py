"""Generate the public set: prompts with one to three constraints that do not contradict each other.

A prompt takes at most one check type from each group; some pairs of types are excluded because few texts, or none, pass
both. Strings that a response must contain are checked against those that it must not.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pa_lite.instructions.checks import passes
from pa_lite.instructions.public.recipes import RECIPES, Draw, phrase
from pa_lite.instructions.public.topics import QUESTIONS, TOPICS, Question, Topic

SIZE = 500
SEED = 0
_SIZES = (1, 1, 2, 2, 3)  # numbers of constraints in a prompt, to draw from
_TRIES = 20

_GROUPS: dict[str, tuple[str, ...]] = {
    "shape": ("sentence_count", "paragraph_count", "line_count", "bulleted", "numbered", "bullet_count",
              "section_count", "divided", "json", "paragraph_start", "chooses", "equals"),
    "length": ("word_count",),
    "demand": ("includes", "contains", "repeats", "text_count"),
    "ban": ("excludes", "lacks", "lacks_characters", "letter_count"),
    "case": ("uppercase", "lowercase", "capitalised", "capital_words", "language"),
    "frame": ("starts_with", "ends_with", "quoted", "wrapped", "echoes", "postscript", "title"),
    "marks": ("highlight_count", "placeholder_count"),
}  # fmt: skip
_GROUP_OF = {check_type: group for group, check_types in _GROUPS.items() for check_type in check_types}
# check types that can be combined only with these
_ONLY: dict[str, frozenset[str]] = {
    "equals": frozenset(),
    "chooses": frozenset({"uppercase", "lowercase", "quoted"}),
    "json": frozenset({"includes", "contains", "repeats", "text_count", "excludes", "lacks"}),
    "language": frozenset({"paragraph_count", "line_count", "bulleted", "numbered", "divided", "quoted", "wrapped"}),
}
_FRAMES = frozenset(_GROUPS["frame"])
_OWN_LINES = frozenset({"title", "echoes", "postscript"})  # these add a line or a sentence
_NEVER: dict[str, frozenset[str]] = {
    "bulleted": _FRAMES,
    "numbered": _FRAMES,
    "sentence_count": _OWN_LINES | {"wrapped", "quoted"},
    "line_count": _OWN_LINES,
    "paragraph_count": _OWN_LINES,
    "divided": _OWN_LINES | {"wrapped", "highlight_count"},
    "paragraph_start": _FRAMES - {"ends_with"},
    "section_count": frozenset({"quoted", "wrapped"}),
    "word_count": frozenset({"echoes"}),
    "uppercase": frozenset({"starts_with", "ends_with"}),
    "lowercase": frozenset({"starts_with", "ends_with"}),
    "capitalised": frozenset({"starts_with", "ends_with", "highlight_count", "placeholder_count"}),
    "wrapped": frozenset({"placeholder_count"}),
}
# check types that a required string may violate
_BANS = ("excludes", "lacks", "lacks_characters")
_COUNTS = ("letter_count", "repeats", "text_count", "capital_words")


def public_rows(seed: int = SEED, size: int = SIZE) -> list[dict[str, Any]]:
    """Return the rows (key, instruction, checks) of a set of distinct prompts; the same seed gives the same rows."""
    draw, used, seen = Draw(seed), Counter[str](), set[str]()
    rows: list[dict[str, Any]] = []
    tries = 0
    while len(rows) < size:
        row, tries = _row(draw, used, draw.pick(_SIZES)), tries + 1
        if row["instruction"] in seen and tries < _TRIES:
            continue
        # counted even if it is a duplicate: a type whose texts are used up must not always come first
        used.update(check["kind"] for check in row["checks"])
        tries = 0
        if row["instruction"] not in seen:
            seen.add(row["instruction"])
            rows.append({"key": len(rows), **row})
    return rows


def to_jsonl(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as JSONL."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _row(draw: Draw, used: Counter[str], size: int) -> dict[str, Any]:
    """Return a prompt of `size` constraints, or fewer if no more fit; the least used types come first."""
    # random tie-breaks, so that types with equal counts take turns
    check_types = sorted(RECIPES, key=lambda check_type: (used[check_type], draw.below(1 << 20)))
    topic: Topic | Question = draw.pick(QUESTIONS) if check_types[0] == "chooses" else draw.pick(TOPICS)
    checks: list[dict[str, Any]] = []
    for check_type in check_types:
        if len(checks) == size:
            break
        if check_type == "chooses" and checks:
            continue  # requires a question as the topic
        if all(_types_agree(check_type, other["kind"]) for other in checks):
            for _ in range(_TRIES):
                check = {"kind": check_type, **RECIPES[check_type].draw(draw, topic)}
                if compatible([*checks, check]):
                    checks.append(check)
                    break
    sentences = [phrase(check, draw.pick(RECIPES[check["kind"]].texts)) for check in checks]
    request = [] if checks[0]["kind"] == "equals" else [topic.request]
    return {"instruction": " ".join(request + sentences), "checks": checks}


def _types_agree(one: str, other: str) -> bool:
    if _GROUP_OF[one] == _GROUP_OF[other]:
        return False
    if (one in _ONLY and other not in _ONLY[one]) or (other in _ONLY and one not in _ONLY[other]):
        return False
    return other not in _NEVER.get(one, ()) and one not in _NEVER.get(other, ())


def compatible(checks: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether no check forbids, or counts, a string that another check requires."""
    for check in checks:
        wanted = " . ".join(text for other in checks if other is not check for text in _wanted(other))
        if not wanted:
            continue
        if check["kind"] in _BANS and not passes(wanted, check):
            return False
        if check["kind"] in _COUNTS and not passes(wanted, {**check, "n": 0, "relation": "exactly"}):
            return False
    return True


def _wanted(check: Mapping[str, Any]) -> list[str]:
    """Return the strings that a response must contain to pass."""
    texts: list[str] = [*check.get("keys", ()), *check.get("options", ())]
    if check["kind"] in ("includes", "contains"):
        texts += [*check.get("words", ()), *check.get("texts", ())]
    if check["kind"] not in _BANS and check["kind"] != "letter_count":
        texts += [check[f] for f in ("text", "word", "marker", "header", "divider", "left", "right") if f in check]
    return texts
