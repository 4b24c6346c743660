"""Checks of the words and phrases in a response, and of letter case. Pure Python on strings."""

from __future__ import annotations

import re

from pa_lite.instructions.checks.text import Check, CheckTypes, compare, lower_words, words


def _is_upper(text: str, check: Check) -> bool:
    return any(c.isalpha() for c in text) and text == text.upper()


def _is_lower(text: str, check: Check) -> bool:
    return any(c.isalpha() for c in text) and text == text.lower()


def _is_capitalised(text: str, check: Check) -> bool:
    first = [w[0] for w in words(text) if w[0].isalpha()]
    return bool(first) and not any(c.islower() for c in first)


def _includes(text: str, check: Check) -> bool:
    have = lower_words(text)
    return all(w.lower() in have for w in check["words"])


def _excludes(text: str, check: Check) -> bool:
    have = lower_words(text)
    return not any(w.lower() in have for w in check["words"])


def _repeats(text: str, check: Check) -> bool:
    return compare(lower_words(text).count(str(check["word"]).lower()), check)


def _contains(text: str, check: Check) -> bool:
    found = [t.lower() in text.lower() for t in check["texts"]]
    return any(found) if check.get("any") else all(found)


def _lacks(text: str, check: Check) -> bool:
    return not any(re.search(rf"(?<!\w){re.escape(t)}(?!\w)", text, re.IGNORECASE) for t in check["texts"])


def _text_count(text: str, check: Check) -> bool:
    return compare(text.lower().count(str(check["text"]).lower()), check)


def _chooses(text: str, check: Check) -> bool:
    return text.strip(" .!\"'").lower() in [o.lower() for o in check["options"]]


CHECK_TYPES: CheckTypes = {
    "uppercase": ((), _is_upper),
    "lowercase": ((), _is_lower),
    "capitalised": ((), _is_capitalised),
    # complete words, ignoring letter case
    "includes": (("words",), _includes),
    "excludes": (("words",), _excludes),
    "repeats": (("word", "n", "relation?"), _repeats),
    # strings anywhere, ignoring letter case; with `any`, one of them is enough
    "contains": (("texts", "any?"), _contains),
    "text_count": (("text", "n", "relation?"), _text_count),
    # words and phrases that must not occur as complete words
    "lacks": (("texts",), _lacks),
    "lacks_characters": (("characters",), lambda text, check: not set(text) & set(check["characters"])),
    "chooses": (("options",), _chooses),
}
