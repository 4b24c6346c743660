"""Split texts into words, sentences and paragraphs, and compare counts. Pure Python on strings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Check = Mapping[str, Any]
Rule = Callable[[str, Check], bool]
# check type -> (its fields besides `kind`, the rule); a field ending in "?" is optional
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
# marks that may end a sentence, with closing quotes and brackets. Whether white space or the end of the text follows is
# checked separately: within the pattern, that would take quadratic time on long rows of marks
_MARKS = re.compile(r"[.!?…]+[\"'”’)\]*_]*|[。！？।]+")
_WIDE_MARKS = "。！？।"  # these end a sentence whatever follows
_LONGEST_WORD = 30  # characters before a dot that are searched for an abbreviation or a list number
_TITLES = frozenset({"mr", "mrs", "ms", "dr", "prof", "st"})
_ABBREVIATIONS = frozenset(
    {"e.g", "i.e", "etc", "vs", "cf", "ca", "a.m", "p.m", "u.s", "u.k", "p.s", "p.p.s", "inc", "ltd", "jr", "sr", "al"}
)


def words(text: str) -> list[str]:
    """Return the words of a text: runs of letters and digits, including inner hyphens and apostrophes."""
    return _WORD.findall(text)


def lower_words(text: str) -> list[str]:
    """Return the words in lower case."""
    return [w.lower() for w in words(text)]


def split_words(text: str) -> list[str]:
    """Return runs of letters and digits; hyphens and apostrophes separate words, as in IFEval."""
    return _PARTS.findall(text)


def nonblank_lines(text: str) -> list[str]:
    """Return the lines that contain more than white space."""
    return [line for line in text.splitlines() if line.strip()]


def paragraphs(text: str) -> list[str]:
    """Return the blocks separated by empty lines, stripped of outer spaces."""
    return [p.strip() for p in re.split(r"\n\s*\n", text) if p.strip()]


def sentences(text: str) -> list[str]:
    """Return the sentences of a text: pieces with a letter or digit that end with . ! ? or similar before a space.

    A dot does not end a sentence after a title (Dr.), an initial or the number of a list item, nor, before a lower case
    letter, after another abbreviation (e.g.) or as an ellipsis. Line breaks end no sentence: a heading belongs to the
    sentence that follows.
    """
    out, start = [], 0
    line, first = 0, _skip_spaces(text, 0)  # start of the mark's line, and of its first word
    searched = 0
    for mark in _MARKS.finditer(text):
        dot, end = mark.span()
        if text[dot] not in _WIDE_MARKS and end < len(text) and not text[end].isspace():
            continue
        newest = text.rfind("\n", searched, dot) + 1
        searched = dot
        if newest:
            line, first = newest, _skip_spaces(text, newest)
        if _continues(text, dot, end, line, first):
            continue
        out.append(text[start:end].strip())
        start = end
    out.append(text[start:].strip())
    return [piece for piece in out if any(c.isalnum() for c in piece)]


def _skip_spaces(text: str, at: int) -> int:
    found = _NOT_SPACE.search(text, at)
    return found.start() if found else len(text)


def _continues(text: str, dot: int, end: int, line: int, first: int) -> bool:
    """Return whether the sentence continues after the mark from `dot` to `end`: an abbreviation or a pause.

    The line starts at `line`, its first character that is not a space is at `first`. Takes constant time.
    """
    after = text[end : end + 80].lstrip()
    before_small = after[:1].islower()
    if text[dot:end].startswith(("..", "…")):
        return before_small
    if text[dot:end] != ".":
        return False
    before = text[max(line, dot - _LONGEST_WORD) : dot].split()
    last = before[-1].lstrip("(\"'“*_[") if before else ""
    if last.isdigit() and first >= dot - _LONGEST_WORD and text[first:dot].rstrip() == last:
        return True  # "1." at the start of a line
    if last.lower() in _TITLES or (len(last) == 1 and last.isalpha() and last.isupper() and last != "I"):
        return bool(after)
    return last.lower() in _ABBREVIATIONS and before_small


def compare(count: int, check: Check) -> bool:
    """Return whether a count is in the check's `relation` (by default `exactly`) to its `n`."""
    return RELATIONS[str(check.get("relation", "exactly"))](count, int(check["n"]))
