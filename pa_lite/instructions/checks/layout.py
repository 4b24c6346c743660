"""Checks of form: lists, sections, parts, Markdown, JSON. Pure Python on strings."""

from __future__ import annotations

import json
import re

from pa_lite.instructions.checks.text import Check, CheckTypes, Rule, compare, nonblank_lines

_BULLET = re.compile(r"^[ \t]*[-*][ \t]+\S", re.MULTILINE)
_HIGHLIGHT = re.compile(r"\*\*(?!\s)[^*\n]+(?<!\s)\*\*|\*(?!\s)[^*\n]+(?<!\s)\*")
_PLACEHOLDER = re.compile(r"\[([^\[\]\n]+)\]")
_TITLE = re.compile(r"<<([^<>\n]+)>>")
_NUMBERED = re.compile(r"^([ \t#*_>]*)\d", re.MULTILINE)  # a number in a line, and the characters before it
_FENCE = "```"
_LANGUAGE = re.compile(r"[a-z]*", re.IGNORECASE)  # after the opening fence


def _every_line(pattern: str) -> Rule:
    def check_lines(text: str, check: Check) -> bool:
        lines = nonblank_lines(text)
        return len(lines) == check["n"] and all(
            re.fullmatch(pattern.format(i=i), line.strip()) for i, line in enumerate(lines, 1)
        )

    return check_lines


def _sections(text: str, check: Check) -> bool:
    header = str(check["header"])
    if not header.strip(" \t"):  # the pattern below would take quadratic time on rows of spaces
        before = [found[1] for found in _NUMBERED.finditer(text)]
        return compare(sum(header in marks[len(marks.rstrip(" \t")) :] for marks in before), check)
    pattern = rf"^[ \t#*_>]*{re.escape(header)}[ \t]*\d"
    flags = re.MULTILINE if check.get("same_case") else re.MULTILINE | re.IGNORECASE
    return compare(sum(1 for _ in re.finditer(pattern, text, flags)), check)


def _divided(text: str, check: Check) -> bool:
    parts = [p.strip() for p in text.split(str(check["divider"]))]
    parts = parts[not parts[0] :]
    parts = parts[: len(parts) - (bool(parts) and not parts[-1])]
    distinct = len(set(parts)) == len(parts) or not check.get("distinct")
    return len(parts) == check["n"] and all(parts) and distinct


def _unfenced(text: str) -> str:
    """Return the content of a text that is one fenced code block, without the language; other texts unchanged."""
    if len(text) < 2 * len(_FENCE) or not (text.startswith(_FENCE) and text.endswith(_FENCE)):
        return text
    inner = text[len(_FENCE) : -len(_FENCE)]
    language = _LANGUAGE.match(inner)
    return inner[language.end() if language else 0 :].strip()


def _json(text: str, check: Check) -> bool:
    try:
        value = json.loads(_unfenced(text))
    except (ValueError, RecursionError):
        return False
    keys = check.get("keys")
    return keys is None or (isinstance(value, dict) and all(k in value for k in keys))


def _placeholders(text: str, check: Check) -> bool:
    return compare(sum(bool(inner.strip()) for inner in _PLACEHOLDER.findall(text)), check)


CHECK_TYPES: CheckTypes = {
    # only a list
    "bulleted": (("n",), _every_line(r"[-*] .*\S.*")),
    "numbered": (("n",), _every_line(r"{i}[.)] .*\S.*")),
    # a list somewhere in the response
    "bullet_count": (("n", "relation?"), lambda text, check: compare(len(_BULLET.findall(text)), check)),
    "highlight_count": (("n", "relation?"), lambda text, check: compare(len(_HIGHLIGHT.findall(text)), check)),
    "placeholder_count": (("n", "relation?"), _placeholders),
    "title": ((), lambda text, check: any(t.strip() for t in _TITLE.findall(text))),
    # lines that start with the header and a number, ignoring Markdown and, without `same_case`, letter case
    "section_count": (("n", "header", "relation?", "same_case?"), _sections),
    # parts separated by the divider, none empty; with `distinct`, no two equal
    "divided": (("n", "divider", "distinct?"), _divided),
    # one JSON document, fenced or not; with `keys`, an object that has them
    "json": (("keys?",), _json),
}
