"""What a word, a sentence and a paragraph are, and how counts are compared. Pure Python on strings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Check = Mapping[str, Any]
Rule = Callable[[str, Check], bool]
# kind -> (its fields besides `kind`, the rule); a field ending in "?" may be left out
Kinds = dict[str, tuple[tuple[str, ...], Rule]]

RELATIONS: dict[str, Callable[[int, int], bool]] = {
    "exactly": lambda count, n: count == n,
    "at_least": lambda count, n: count >= n,
    "at_most": lambda count, n: count <= n,
    "less_than": lambda count, n: count < n,
}
_WORD = re.compile(r"\w+(?:['-]\w+)*")
_PARTS = re.compile(r"\w+")
# a mark that may end a sentence, what closes behind it, and the blank or the end that must follow
_SENTENCE_END = re.compile(r"(?:[.!?…]+[\"'”’)\]*_]*(?=\s|$))|[。！？।]+")
_TITLES = frozenset({"mr", "mrs", "ms", "dr", "prof", "st"})
_ABBREVIATIONS = frozenset(
    {"e.g", "i.e", "etc", "vs", "cf", "ca", "a.m", "p.m", "u.s", "u.k", "p.s", "p.p.s", "inc", "ltd", "jr", "sr", "al"}
)


def words(text: str) -> list[str]:
    """The words of a text: runs of letters and digits, inner hyphens and apostrophes kept."""
    return _WORD.findall(text)


def lower_words(text: str) -> list[str]:
    """The words in lower case."""
    return [w.lower() for w in words(text)]


def split_words(text: str) -> list[str]:
    """Runs of letters and digits alone: hyphens and apostrophes part words, as IFEval counts them."""
    return _PARTS.findall(text)


def nonblank_lines(text: str) -> list[str]:
    """The lines that hold more than blanks."""
    return [line for line in text.splitlines() if line.strip()]


def paragraphs(text: str) -> list[str]:
    """Blocks with at least one empty line between them, blanks at their ends removed."""
    return [p.strip() for p in re.split(r"\n\s*\n", text) if p.strip()]


def sentences(text: str) -> list[str]:
    """Pieces that end with . ! ? or their kin before a blank, or at the text's end, and hold a letter or digit.

    A dot ends none behind a title (Dr.), an initial, the number of a list item, or, before a small letter, another
    abbreviation (e.g.); nor does an ellipsis before a small letter. Line breaks end none: a heading belongs to the
    sentence behind it.
    """
    out, start = [], 0
    for end in _SENTENCE_END.finditer(text):
        if _goes_on(text, end.start(), end.end()):
            continue
        out.append(text[start : end.end()].strip())
        start = end.end()
    out.append(text[start:].strip())
    return [piece for piece in out if any(c.isalnum() for c in piece)]


def _goes_on(text: str, dot: int, end: int) -> bool:
    """Whether the mark at `dot`, which stops at `end`, ends no sentence: an abbreviation's dot, or a mere pause."""
    behind = text[end : end + 80].lstrip()
    before_small = behind[:1].islower()
    if text[dot:end].startswith(("..", "…")):
        return before_small
    if text[dot:end] != ".":
        return False
    line = text.rfind("\n", 0, dot) + 1
    before = text[max(line, dot - 30) : dot].split()
    last = before[-1].lstrip("(\"'“*_[") if before else ""
    if last.isdigit() and not text[line:dot].replace(last, "", 1).strip():
        return True  # "1." at the start of a line
    if last.lower() in _TITLES or (len(last) == 1 and last.isalpha() and last.isupper() and last != "I"):
        return bool(behind)
    return last.lower() in _ABBREVIATIONS and before_small


def compare(count: int, check: Check) -> bool:
    """Whether a count stands to the check's `n` in its `relation`, `exactly` if it names none."""
    return RELATIONS[str(check.get("relation", "exactly"))](count, int(check["n"]))
