"""Checks that count: words, sentences, paragraphs, lines, letters, words in capitals. Pure Python on strings."""

from __future__ import annotations

from pa_lite.instructions.checks.text import (
    Check,
    CheckTypes,
    compare,
    nonblank_lines,
    paragraphs,
    sentences,
    split_words,
    words,
)


def _word_count(text: str, check: Check) -> bool:
    return compare(len(words(text) if check.get("joined", True) else split_words(text)), check)


def _letter_count(text: str, check: Check) -> bool:
    return compare(text.lower().count(str(check["letter"]).lower()), check)


def _capital_words(text: str, check: Check) -> bool:
    # words separated by white space: "P.S." is one
    return compare(sum(w.isupper() for w in text.split()), check)


CHECK_TYPES: CheckTypes = {
    # without `joined`, hyphens and apostrophes separate words
    "word_count": (("n", "relation?", "joined?"), _word_count),
    "sentence_count": (("n", "relation?"), lambda text, check: compare(len(sentences(text)), check)),
    "paragraph_count": (("n", "relation?"), lambda text, check: compare(len(paragraphs(text)), check)),
    "line_count": (("n", "relation?"), lambda text, check: compare(len(nonblank_lines(text)), check)),
    "letter_count": (("letter", "n", "relation?"), _letter_count),
    "capital_words": (("n", "relation?"), _capital_words),
}
