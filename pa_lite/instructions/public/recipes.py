"""The public set's constraints: for each check type, how its fields are drawn and how it is phrased.

The phrases are original. They are templates filled with the check's fields; `count` is its number with its relation.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pa_lite.instructions.public.topics import (
    COMMON_WORDS,
    ENDINGS,
    EXACT_TEXTS,
    OPENINGS,
    PARAGRAPH_WORDS,
    PHRASES,
    Question,
    Topic,
)

T = TypeVar("T")
_RELATIONS = {"exactly": "exactly {}", "at_least": "at least {}", "at_most": "at most {}"}
_LANGUAGES = {"de": "German", "fr": "French", "es": "Spanish", "it": "Italian", "ru": "Russian", "el": "Greek",
              "ja": "Japanese", "ko": "Korean"}  # fmt: skip
_WRAPPINGS = (("((", "))"), ("[[", "]]"), ("{{", "}}"), ("~~~", "~~~"))
_CHARACTERS = {",": "commas", "!": "exclamation marks", ";": "semicolons", "?": "question marks"}
_KEYS = (("title", "text"), ("topic", "summary", "source"), ("question", "answer"), ("name", "reasons"))


class Draw:
    """Random draws that are the same in every Python version: they use only `random()`, which is guaranteed to be."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def below(self, n: int) -> int:
        return int(self._random.random() * n)

    def pick(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def between(self, low: int, high: int, step: int = 1) -> int:
        """Return one of low, low + step, ..., high."""
        return low + step * self.below((high - low) // step + 1)

    def sample(self, items: Sequence[T], n: int) -> list[T]:
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in range(n)]

    def counted(self, low: int, high: int, *relations: str) -> dict[str, Any]:
        """Return a number and one of the relations as fields of a check."""
        return {"n": self.between(low, high), "relation": self.pick(relations)}


@dataclass(frozen=True)
class Recipe:
    """How the fields of a check type are drawn for a topic, and templates of the sentence that states it."""

    draw: Callable[[Draw, Topic | Question], dict[str, Any]]
    texts: tuple[str, ...]


def _words(topic: Topic | Question) -> tuple[str, ...]:
    return topic.words if isinstance(topic, Topic) else topic.options


def _word_count(d: Draw, topic: Topic | Question) -> dict[str, Any]:
    return {"n": d.between(30, 90, 5), "relation": d.pick(("exactly", "at_least", "at_most"))}


def _letter_count(d: Draw, topic: Topic | Question) -> dict[str, Any]:
    if d.below(2):
        return {"letter": d.pick("zxqjk"), "n": d.between(3, 8), "relation": "at_least"}
    return {"letter": d.pick("wkvgbz"), "n": d.between(1, 4), "relation": "at_most"}


def _excludes(d: Draw, topic: Topic | Question) -> dict[str, Any]:
    return {"words": d.sample(_words(topic), 1) + d.sample(COMMON_WORDS, d.between(1, 2))}


def _wrapped(d: Draw, topic: Topic | Question) -> dict[str, Any]:
    left, right = d.pick(_WRAPPINGS)
    return {"left": left, "right": right}


def _paragraph_start(d: Draw, topic: Topic | Question) -> dict[str, Any]:
    n = d.between(2, 4)
    return {"n": n, "nth": d.between(1, n), "word": d.pick(PARAGRAPH_WORDS)}


def _options(d: Draw, topic: Topic | Question) -> dict[str, Any]:
    assert isinstance(topic, Question)
    return {"options": d.sample(topic.options, len(topic.options))}


RECIPES: dict[str, Recipe] = {
    "sentence_count": Recipe(lambda d, t: d.counted(2, 6, "exactly", "at_least", "at_most"), (
        "Write {count} sentences.", "Your answer must have {count} sentences.", "Answer in {count} sentences.")),
    "paragraph_count": Recipe(lambda d, t: d.counted(2, 4, "exactly"), (
        "Write {count} paragraphs with an empty line between them.",
        "Your answer must have {count} paragraphs, each parted from the next by a blank line.")),
    "line_count": Recipe(lambda d, t: d.counted(3, 8, "exactly"), (
        "Write it as a poem of {count} lines.", "Your answer must have {count} lines, like a poem.")),
    "bulleted": Recipe(lambda d, t: {"n": d.between(2, 6)}, (
        "Answer with a list of {count} bullet points, each on a line that begins with a dash, and nothing else.",
        "Write {count} bullet points (lines that begin with \"- \") and nothing before or after them.")),
    "numbered": Recipe(lambda d, t: {"n": d.between(2, 6)}, (
        "Answer with a numbered list of {count} items (1. 2. and so on) and nothing else.",
        "Give only a list of {count} lines that are numbered from 1.")),
    "bullet_count": Recipe(lambda d, t: d.counted(2, 5, "exactly", "at_least"), (
        "Somewhere in your answer, use {count} bullet points, on lines that begin with \"- \".",
        "Your answer must contain a list with {count} items, each on a line that begins with \"- \".")),
    "section_count": Recipe(lambda d, t: {"n": d.between(2, 4), "header": d.pick(("Part", "Section", "Step"))}, (
        "Divide your answer into {count} sections; each begins with a line \"{header} X\", where X is its number.",
        "Use {count} sections under the headings {header} 1, {header} 2 and so on.")),
    "divided": Recipe(lambda d, t: {"n": d.between(2, 3), "divider": d.pick(("***", "======", "~~~~~~")),
                                    "distinct": True}, (
        "Give {count} different answers with a line {divider} between one and the next.",
        "Write {count} different versions of your answer and part them by {divider} alone on a line.")),
    "json": Recipe(lambda d, t: {"keys": list(d.pick(_KEYS))}, (
        "Answer with a single JSON object that has the keys {keys}.",
        "Your whole answer must be one JSON object with the keys {keys}.")),
    "paragraph_start": Recipe(_paragraph_start, (
        "Write {count} paragraphs with an empty line between them; paragraph {nth} must begin with the word {word}.",
        "There must be {count} paragraphs, parted by blank lines, and the first word of paragraph {nth} is {word}.")),
    "chooses": Recipe(_options, (
        "Answer with one of these options and nothing else: {options}.",
        "Choose one of the following and write nothing but your choice: {options}.")),
    "equals": Recipe(lambda d, t: {"text": d.pick(EXACT_TEXTS)}, (
        "Reply with exactly the following text and nothing else: {text}",
        "Repeat this sentence as it stands, with no quotation marks and no other words: {text}")),
    "word_count": Recipe(_word_count, (
        "Use {count} words.", "Your answer must have {count} words.", "Write {count} words.")),
    "includes": Recipe(lambda d, t: {"words": d.sample(_words(t), d.between(2, 3))}, (
        "Use the words {words}.", "Your answer must include each of these words: {words}.")),
    "contains": Recipe(lambda d, t: {"texts": d.sample(PHRASES, d.between(1, 2))}, (
        "Use, word for word: {texts}.", "Your answer must contain, word for word: {texts}.")),
    "repeats": Recipe(lambda d, t: {"word": d.pick(_words(t)), **d.counted(2, 4, "exactly", "at_least")}, (
        "Use the word {word} {count} times.", "The word {word} must stand in your answer {count} times.")),
    "text_count": Recipe(lambda d, t: {"text": d.pick(PHRASES), **d.counted(2, 3, "exactly", "at_least")}, (
        "Use the phrase \"{text}\" {count} times.", "The phrase \"{text}\" must occur {count} times.")),
    "excludes": Recipe(_excludes, (
        "Do not use the words {words}.", "None of these words may stand in your answer: {words}.")),
    "lacks": Recipe(lambda d, t: {"texts": d.sample(PHRASES, 1) + d.sample(_words(t), 1)}, (
        "Avoid the following: {texts}.", "Use neither of these: {texts}.")),
    "lacks_characters": Recipe(lambda d, t: {"characters": d.pick(",,,!;?")}, (
        "Do not use any {characters}.", "There must be no {characters} in your answer.")),
    "letter_count": Recipe(_letter_count, (
        "The letter {letter} must occur {count} times, in upper or lower case.",
        "Use the letter {letter} {count} times in all, capital or small.")),
    "uppercase": Recipe(lambda d, t: {}, (
        "Write everything in capital letters.", "Your whole answer must be in upper case.")),
    "lowercase": Recipe(lambda d, t: {}, (
        "Write everything in small letters.", "Do not use a single capital letter.")),
    "capitalised": Recipe(lambda d, t: {}, (
        "Begin every word with a capital letter.", "Every single word must start with a capital letter.")),
    "capital_words": Recipe(lambda d, t: d.counted(2, 5, "exactly", "at_least"), (
        "Write {count} words wholly in capital letters.", "In your answer, {count} words must be in all capitals.")),
    "language": Recipe(lambda d, t: {"code": d.pick(tuple(_LANGUAGES))}, (
        "Answer in {code} only.", "Your whole answer must be in {code}.")),
    "starts_with": Recipe(lambda d, t: {"text": d.pick(OPENINGS)}, (
        "Begin your answer with the words \"{text}\".", "The first words of your answer must be \"{text}\".")),
    "ends_with": Recipe(lambda d, t: {"text": d.pick(ENDINGS)}, (
        "End with this exact sentence: {text}", "The last words of your answer must be: {text}")),
    "quoted": Recipe(lambda d, t: {}, (
        "Put your whole answer in double quotation marks and use no others within it.",
        "Your answer must stand between double quotation marks, with none inside.")),
    "wrapped": Recipe(_wrapped, (
        "Put {left} at the very beginning of your answer and {right} at its very end.",
        "Your answer must start with {left} and end with {right}.")),
    "echoes": Recipe(lambda d, t: {"text": t.request}, (
        "First repeat the request \"{text}\" word for word, without quotation marks, then answer it.",
        "Before your answer, repeat \"{text}\" word for word and without quotation marks.")),
    "postscript": Recipe(lambda d, t: {"marker": d.pick(("P.S.", "P.P.S."))}, (
        "Add a postscript that starts with {marker}", "At the end, write a postscript marked {marker}")),
    "title": Recipe(lambda d, t: {}, (
        "Give your answer a title in double angle brackets, such as <<A title>>.",
        "Include a title, written <<like this>>.")),
    "highlight_count": Recipe(lambda d, t: d.counted(1, 4, "exactly", "at_least"), (
        "Highlight {count} passages with asterisks, *like this*.", "Mark {count} phrases in bold, **like this**.")),
    "placeholder_count": Recipe(lambda d, t: d.counted(1, 4, "at_least", "exactly"), (
        "Use {count} placeholders in square brackets, such as [name].",
        "Your answer must contain {count} placeholders in square brackets, such as [date].")),
}  # fmt: skip


def phrase(check: dict[str, Any], text: str) -> str:
    """Return a recipe's template filled with the check's fields."""
    fields = {k: _list(v) if isinstance(v, list) else v for k, v in check.items()}
    if "n" in check:
        fields["count"] = _RELATIONS[check.get("relation", "exactly")].format(check["n"])
    if check["kind"] == "language":
        fields["code"] = _LANGUAGES[check["code"]]
    if check["kind"] == "lacks_characters":
        fields["characters"] = _CHARACTERS[check["characters"]]
    return _singular(text.format(**fields))


def _list(items: Sequence[str]) -> str:
    quoted = [f'"{item}"' for item in items]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def _singular(text: str) -> str:
    """Use the singular after 1: `at least 1 placeholder`."""
    for plural in ("passages", "phrases", "placeholders", "times"):
        text = text.replace(f" 1 {plural}", f" 1 {plural[:-1]}")
    return text
