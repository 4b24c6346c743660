"""From what a model generated to an answer: patterns that find it, and the steps that both sides are normalised by."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from pa_lite.errors import InputError

NO_ANSWER = "[invalid]"  # lm-eval's word for a pattern that found nothing
# a sign counts unless it joins two things (5-3, A-4); commas only between groups of three; a final dot is no decimal
NUMBER = r"(?:(?<![\w.,)])[-−])?\$?(?:\d{1,3}(?:,\d{3})+(?![\d])|\d+)(?:\.\d+)?|(?<![\w.,)])[-−]?\$?\.\d+"
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def _number_text(text: str) -> str:
    """`$1,234.` -> `1234`: currency signs and commas go, then one final dot."""
    text = text.replace("$", "").replace(",", "").replace("−", "-").strip()
    return text[:-1] if text.endswith(".") else text


STEPS: dict[str, Callable[[str], str]] = {
    "lower": str.lower,
    "punctuation": lambda text: text.translate(_PUNCTUATION),  # ASCII's only, as lm-eval's exact_match
    "articles": lambda text: _ARTICLES.sub(" ", text),
    "blanks": lambda text: " ".join(text.split()),
    "number": _number_text,
    "unanswerable": lambda text: "" if text.strip() in ("unanswerable", "unanswerable.") else text,
}


def normalise(text: str, steps: Sequence[str]) -> str:
    """Apply named steps in their order."""
    for step in steps:
        text = STEPS[step](text)
    return text


@dataclass(frozen=True)
class Extract:
    """A named way to find the answer: the first or last match of a pattern, in which `{number}` stands for any number.

    Of a match counts its first group that took part, else the whole. Source of the idea: lm-eval's `regex` filter.
    """

    name: str
    pattern: str
    pick: str = "first"

    def compiled(self) -> re.Pattern[str]:
        """Raises InputError for a pattern that is no regular expression."""
        try:
            return re.compile(self.pattern.replace("{number}", f"(?:{NUMBER})"))
        except (re.error, OverflowError, RecursionError) as e:
            raise InputError(f"extract {self.name!r}: {self.pattern!r} is no regular expression: {e}.") from e

    def find(self, text: str) -> str:
        """The answer in a generated text, stripped; NO_ANSWER when the pattern does not occur."""
        match = None
        for found in self.compiled().finditer(text):
            match = found
            if self.pick == "first":
                break
        if match is None:
            return NO_ANSWER
        return next((g for g in match.groups() if g is not None), match.group()).strip()


def parse_number(text: str) -> Decimal | None:
    """The value of a text that is one number, commas, currency sign and final dot allowed; None for any other."""
    cleaned = _number_text(text)
    if not re.fullmatch(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)", cleaned):
        return None
    try:
        return Decimal(cleaned)
    except InvalidOperation:
        return None
