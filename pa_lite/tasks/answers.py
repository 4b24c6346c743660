"""Answers in generated text: patterns that find them, and normalisation of both sides of a comparison."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from pa_lite.errors import InputError

NO_ANSWER = "[invalid]"  # lm-eval's value if a pattern finds nothing
# a minus between two terms (5-3, A-4) is not a sign; commas only between groups of three; no decimal point at the end
NUMBER = r"(?:(?<![\w.,)])[-−])?\$?(?:\d{1,3}(?:,\d{3})+(?![\d])|\d+)(?:\.\d+)?|(?<![\w.,)])[-−]?\$?\.\d+"
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def _number_text(text: str) -> str:
    """Remove currency signs and commas, then one final dot: `$1,234.` -> `1234`."""
    text = text.replace("$", "").replace(",", "").replace("−", "-").strip()
    return text[:-1] if text.endswith(".") else text


STEPS: dict[str, Callable[[str], str]] = {
    "lower": str.lower,
    "punctuation": lambda text: text.translate(_PUNCTUATION),  # ASCII only, as in lm-eval's exact_match
    "articles": lambda text: _ARTICLES.sub(" ", text),
    "blanks": lambda text: " ".join(text.split()),
    "number": _number_text,
    "unanswerable": lambda text: "" if text.strip() in ("unanswerable", "unanswerable.") else text,
}


def normalise(text: str, steps: Sequence[str]) -> str:
    """Apply named normalisation steps in order."""
    for step in steps:
        text = STEPS[step](text)
    return text


@dataclass(frozen=True)
class Extract:
    """A named way to find the answer: the first or last match of a pattern, in which `{number}` matches any number.

    The answer is the first group that matched, else the whole match. Source of the idea: lm-eval's `regex` filter.
    """

    name: str
    pattern: str
    pick: str = "first"

    def compiled(self) -> re.Pattern[str]:
        """Compile the pattern. Raises InputError if it is not a valid regular expression."""
        try:
            return re.compile(self.pattern.replace("{number}", f"(?:{NUMBER})"))
        except (re.error, OverflowError, RecursionError) as e:
            raise InputError(f"extract {self.name!r}: {self.pattern!r} is not a valid regular expression: {e}.") from e

    def find(self, text: str) -> str:
        """Return the answer in a generated text, stripped; NO_ANSWER if the pattern does not match."""
        match = None
        for found in self.compiled().finditer(text):
            match = found
            if self.pick == "first":
                break
        if match is None:
            return NO_ANSWER
        return next((g for g in match.groups() if g is not None), match.group()).strip()


def parse_number(text: str) -> Decimal | None:
    """Return the value of a text that is one number (commas, currency sign and final dot allowed), else None."""
    cleaned = _number_text(text)
    if not re.fullmatch(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)", cleaned):
        return None
    try:
        return Decimal(cleaned)
    except InvalidOperation:
        return None
