"""Logprobs in OpenAI's forms: of chat completions, and of completions."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pa_lite.engine.answers import TokenLogprob
from pa_lite.serving.server.vocabulary import TokenText

_LEAST = -9999.0  # stands for minus infinity, which JSON lacks

Texts = Mapping[int, TokenText]


def tokens_in(entries: Iterable[TokenLogprob | None]) -> set[int]:
    """Return the tokens of logprobs, those that were not chosen included."""
    known = [entry for entry in entries if entry is not None]
    return {entry.token for entry in known} | {token for entry in known for token, _ in entry.top}


def chat_logprobs(entries: Sequence[TokenLogprob], texts: Texts) -> dict[str, Any]:
    """Return the logprobs of generated tokens as chat completions have them."""
    content = [
        {
            **_entry(texts[entry.token], entry.logprob),
            "top_logprobs": [_entry(texts[token], logprob) for token, logprob in entry.top],
        }
        for entry in entries
    ]
    return {"content": content, "refusal": None}


def _entry(text: TokenText, logprob: float) -> dict[str, Any]:
    return {"token": text.text, "logprob": max(logprob, _LEAST), "bytes": list(text.raw)}


class TextLogprobs:
    """The logprobs of a text as completions have them, part by part: offsets count the characters since the start."""

    def __init__(self, with_top: bool, skipped: int = 0) -> None:
        """Start a text. `skipped` characters of its tokens are not in it, such as a space that a tokenizer adds."""
        self._with_top, self._offset = with_top, -skipped
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def part(self, tokens: Sequence[int], entries: Sequence[TokenLogprob | None], texts: Texts) -> dict[str, Any]:
        """Return the logprobs of the next tokens; None for a token that nothing predicts."""
        out: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token, entry in zip(tokens, entries, strict=True):
            text = texts[token]
            out["tokens"].append(text.text)
            out["token_logprobs"].append(None if entry is None else max(entry.logprob, _LEAST))
            out["top_logprobs"].append(None if entry is None else _top(entry, texts))
            out["text_offset"].append(max(0, self._offset))
            self._offset += len(self._decoder.decode(text.raw))
        if not self._with_top:
            out["top_logprobs"] = None
        return out


def _top(entry: TokenLogprob, texts: Texts) -> dict[str, float]:
    """Return the most likely texts, the chosen one among them; of equal texts the most likely token counts."""
    top: dict[str, float] = {}
    for token, logprob in (*entry.top, (entry.token, entry.logprob)):
        top.setdefault(texts[token].text, max(logprob, _LEAST))
    return top
