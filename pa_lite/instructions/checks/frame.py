"""Checks of how a response starts and ends, and of what encloses it. Pure Python on strings."""

from __future__ import annotations

import re

from pa_lite.instructions.checks.text import Check, CheckTypes, paragraphs, words


def _quoted(text: str, check: Check) -> bool:
    inner = text[1:-1]
    return len(text) > 2 and text[0] == text[-1] == '"' and '"' not in inner and bool(inner.strip())


def _wrapped(text: str, check: Check) -> bool:
    left, right = str(check["left"]), str(check["right"])
    inner = text[len(left) : len(text) - len(right)]
    return text.startswith(left) and text.endswith(right) and bool(inner.strip())


def _closes(text: str, check: Check) -> bool:
    return text.strip().strip('"').lower().endswith(str(check["text"]).strip().lower())


def _echoes(text: str, check: Check) -> bool:
    asked = str(check["text"]).strip().lower()
    return text.lower().startswith(asked) and bool(words(text[len(asked) :]))


def _postscript(text: str, check: Check) -> bool:
    marker = re.escape(str(check["marker"])).replace(r"\.", r"\.\s?")
    last = len(text) - 1  # index of the last letter or digit; searched once, not after each marker
    while last >= 0 and not (text[last].isalnum() or text[last] == "_"):
        last -= 1
    return last >= 0 and re.compile(rf"(?:^|\s){marker}", re.IGNORECASE).search(text, 0, last) is not None


def _paragraph_start(text: str, check: Check) -> bool:
    blocks, nth = paragraphs(text), int(check["nth"])
    if len(blocks) != check["n"] or not 1 <= nth <= len(blocks):
        return False
    found = re.match(rf"[\"'“‘]*{re.escape(str(check['word']))}(?![\w-])", blocks[nth - 1], re.IGNORECASE)
    return found is not None


CHECK_TYPES: CheckTypes = {
    "starts_with": (("text",), lambda text, check: text.startswith(str(check["text"]))),
    "ends_with": (("text",), lambda text, check: text.endswith(str(check["text"]))),
    # the same, ignoring letter case and quotation marks around the response
    "closes_with": (("text",), _closes),
    "equals": (("text",), lambda text, check: text == str(check["text"])),
    "quoted": ((), _quoted),
    "wrapped": (("left", "right"), _wrapped),
    # the request first, ignoring letter case, then an answer
    "echoes": (("text",), _echoes),
    "postscript": (("marker",), _postscript),
    # of `n` paragraphs, number `nth`, from 1, starts with the word
    "paragraph_start": (("n", "nth", "word"), _paragraph_start),
}
