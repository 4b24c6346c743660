"""Build a response that passes a list of checks that do not contradict each other, for every kind of check."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pa_lite.instructions.checks import passes
from pa_lite.instructions.checks.language import LANGUAGES
from pa_lite.instructions.checks.text import words

Checks = Sequence[Mapping[str, Any]]
_ENGLISH = """
    this and that come here after some time to rest on long day near our old hill with no need of more than one
    calm hour at sea less wind set us free from all fear it did most well first we meet nine men
"""
# a few words of languages that are recognised by their script
_WORDS = {
    "ja": "これ は とても よい 日 です", "ko": "오늘 은 좋은 날 입니다", "zh": "今天 天气 很好",
    "el": "καλή μέρα και νύχτα σε όλους",
    "th": "วันนี้ อากาศ ดี", "he": "יום טוב מאוד", "bn": "আজ ভালো দিন", "gu": "આજે સારો દિવસ", "kn": "ಇಂದು ಒಳ್ಳೆಯ ದಿನ",
    "ml": "ഇന്ന് നല്ല ദിവസം", "pa": "ਅੱਜ ਚੰਗਾ ਦਿਨ", "ta": "இன்று நல்ல நாள்", "te": "ఈరోజు మంచి రోజు",
}  # fmt: skip


def build(checks: Checks) -> str:
    """Return a response that should pass the checks; the caller verifies it."""
    by = {str(c["kind"]): c for c in checks}
    if "equals" in by:
        return str(by["equals"]["text"])
    if "chooses" in by:
        return _cased(_framed([by["chooses"]["options"][-1]], by, "", ""), by)
    vocabulary = _vocabulary(checks, by)
    if "json" in by:
        text = " ".join([*_demanded(by, vocabulary), vocabulary[0]])
        first, *others = by["json"].get("keys", ["text"])
        return json.dumps({first: text, **dict.fromkeys(others, vocabulary[0])}, ensure_ascii=False)
    units = [_unit(vocabulary, i) for i in range(_units(by))]
    units[0][:0] = _demanded(by, vocabulary)
    if "starts_with" in by and "paragraph_start" not in by:
        units[0].insert(0, str(by["starts_with"]["text"]))
    text = _render(units, by, vocabulary)
    for _ in range(_missing(text, by)):
        units[-1].append(vocabulary[len(units[-1]) % len(vocabulary)])
    return _render(units, by, vocabulary)


def _missing(text: str, by: Mapping[str, Mapping[str, Any]]) -> int:
    check = by.get("word_count", {"n": 0, "relation": "at_most"})
    return 0 if check.get("relation") in ("at_most", "less_than") else max(0, check["n"] - len(words(text)))


def _vocabulary(checks: Checks, by: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return filler words that violate none of the checks that forbid or count something."""
    if "language" in by:
        code = by["language"]["code"]
        return (LANGUAGES[code][1] or _WORDS[code]).split()
    barred = [c for c in checks if c["kind"] in ("excludes", "lacks", "lacks_characters")]
    counted = [c for c in checks if c["kind"] in ("repeats", "text_count", "letter_count")]
    barred += [{**c, "n": 0, "relation": "exactly"} for c in counted]
    return [w for w in _ENGLISH.split() if all(passes(w, c) for c in barred)]


def _unit(vocabulary: list[str], i: int) -> list[str]:
    return [vocabulary[(4 * i + j) % len(vocabulary)] for j in range(3)]


def _units(by: Mapping[str, Mapping[str, Any]]) -> int:
    """Return the number of sentences, lines, paragraphs, ... of the response."""
    for kind in ("paragraph_count", "line_count", "bulleted", "numbered", "bullet_count", "section_count", "divided",
                 "paragraph_start"):  # fmt: skip
        if kind in by:
            return max(1, _number(by[kind])) + (kind == "bullet_count")  # one for the line before the list
    if "sentence_count" in by:
        return max(1, _number(by["sentence_count"]) - ("ends_with" in by or "closes_with" in by))
    return 1


def _number(check: Mapping[str, Any]) -> int:
    return int(check["n"]) - (check.get("relation") == "less_than")


def _demanded(by: Mapping[str, Mapping[str, Any]], vocabulary: list[str]) -> list[str]:
    """Return words and phrases that must occur."""
    out: list[str] = [*by.get("includes", {}).get("words", ()), *by.get("contains", {}).get("texts", ())]
    word = vocabulary[-1]
    for kind, text in (
        ("repeats", by.get("repeats", {}).get("word")), ("text_count", by.get("text_count", {}).get("text")),
        ("letter_count", by.get("letter_count", {}).get("letter")), ("highlight_count", f"*{word}*"),
        ("placeholder_count", f"[{word}]"), ("capital_words", word.upper() * 2),
    ):  # fmt: skip
        if kind in by:
            # words with a maximum may be used that often
            out += [str(text)] * _number(by[kind])
    if "title" in by:
        out.append(f"<<{word}>>")
    return out


def _render(units: list[list[str]], by: Mapping[str, Mapping[str, Any]], vocabulary: list[str]) -> str:
    told = [" ".join(u) for u in units]
    end = " ".join(str(by[k]["text"]) for k in ("ends_with", "closes_with") if k in by)
    stop = "" if "language" in by else "."
    if "bulleted" in by:
        text = "\n".join(f"- {t}" for t in told)
    elif "numbered" in by:
        text = "\n".join(f"{i}. {t}" for i, t in enumerate(told, 1))
    elif "bullet_count" in by:
        text = "\n".join([told[0], *(f"- {t}" for t in told[1:]), vocabulary[0]])
    elif "section_count" in by:
        lead = "" if "starts_with" not in by else str(by["starts_with"]["text"]) + "\n"
        bodies = [t.removeprefix(lead.strip()).strip() for t in told][: _number(by["section_count"])]
        text = lead + "\n".join(f"{by['section_count']['header']} {i}\n{t}" for i, t in enumerate(bodies, 1))
    elif "divided" in by:
        text = f"\n{by['divided']['divider']}\n".join(told)
    elif "paragraph_start" in by:
        nth = by["paragraph_start"]["nth"] - 1
        told[nth] = f"{by['paragraph_start']['word']} {told[nth]}"
        text = "\n\n".join(told)
    elif "paragraph_count" in by:
        text = "\n\n".join(told)
    elif "line_count" in by:
        text = "\n".join(told)
    else:
        text = " ".join(t + stop for t in told)
    return _cased(_framed([text], by, end, vocabulary[0]), by)


def _framed(parts: list[str], by: Mapping[str, Mapping[str, Any]], end: str, filler: str) -> str:
    text = " ".join([*parts, end]).strip()
    if "echoes" in by:
        text = f"{by['echoes']['text']}\n{text}"
    if "postscript" in by:
        text = f"{text}\n{by['postscript']['marker']} {filler}"
    if "quoted" in by:
        text = f'"{text}"'
    if "wrapped" in by:
        text = f"{by['wrapped']['left']}{text}{by['wrapped']['right']}"
    return text


def _cased(text: str, by: Mapping[str, Mapping[str, Any]]) -> str:
    if "uppercase" in by:
        return text.upper()
    if "lowercase" in by:
        return text.lower()
    if "capitalised" in by:
        return re.sub(r"(?<![\w'-])\w", lambda m: m[0].upper(), text)
    return text
