"""What a word, a sentence and a paragraph are, and how counts are compared. Pure Python on strings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Check = Mapping[str, Any]
Rule = Callable[[str, Check], bool]
# check type -> (its fields besides `kind`, the rule); a field ending in "?" may be left out
CheckTypes = dict[str, tuple[tuple[str, ...], Rule]]

RELATIONS: dict[str, Callable[[int, int], bool]] = {
    "exactly": lambda count, n: count == n,
    "at_least": lambda count, n: count >= n,
    "at_most": lambda count, n: count <= n,
    "less_than": lambda count, n: count < n,
}
_WORD = re.compile(r"\w+(?:['-]\w+)*")
_PARTS = re.compile(r"\w+")
_NOT_SPACE = re.compile(r"\S")
# marks that may end a sentence and what closes after them; each text is searched once, as no match is given up.
# Whether a space or the end follows is asked afterwards: asked in the pattern, every mark of a long row starts a search
_MARKS = re.compile(r"[.!?…]+[\"'”’)\]*_]*|[。！？।]+")
_WIDE_MARKS = "。！？।"  # end a sentence whatever follows
_LONGEST_WORD = 30  # characters before a dot in which an abbreviation or a list's number is looked for
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
    line, first = 0, _skip_spaces(text, 0)  # where the mark's line starts, and its first character that is not a space
    searched = 0
    for mark in _MARKS.finditer(text):
        dot, end = mark.span()
        if text[dot] not in _WIDE_MARKS and end < len(text) and not text[end].isspace():
            continue
        newest = text.rfind("\n", searched, dot) + 1
        searched = dot
        if newest:
            line, first = newest, _skip_spaces(text, newest)
        if _goes_on(text, dot, end, line, first):
            continue
        out.append(text[start:end].strip())
        start = end
    out.append(text[start:].strip())
    return [piece for piece in out if any(c.isalnum() for c in piece)]


def _skip_spaces(text: str, at: int) -> int:
    found = _NOT_SPACE.search(text, at)
    return found.start() if found else len(text)


def _goes_on(text: str, dot: int, end: int, line: int, first: int) -> bool:
    """Tell whether the sentence continues after the mark at `dot`, which stops at `end`: an abbreviation or a pause.

    The line starts at `line`, its first character that is not a space is at `first`. Takes constant time.
    """
    behind = text[end : end + 80].lstrip()
    before_small = behind[:1].islower()
    if text[dot:end].startswith(("..", "…")):
        return before_small
    if text[dot:end] != ".":
        return False
    before = text[max(line, dot - _LONGEST_WORD) : dot].split()
    last = before[-1].lstrip("(\"'“*_[") if before else ""
    if last.isdigit() and first >= dot - _LONGEST_WORD and text[first:dot].rstrip() == last:
        return True  # "1." at the start of a line
    if last.lower() in _TITLES or (len(last) == 1 and last.isalpha() and last.isupper() and last != "I"):
        return bool(behind)
    return last.lower() in _ABBREVIATIONS and before_small


def compare(count: int, check: Check) -> bool:
    """Whether a count stands to the check's `n` in its `relation`, `exactly` if it names none."""
    return RELATIONS[str(check.get("relation", "exactly"))](count, int(check["n"]))
