"""What llama.cpp's pre-tokenizers need for a text: stack for its long words, and time for its long runs.

Most byte-level vocabularies are split by patterns in C++'s `std::regex`, which goes one call deeper for each character
of a match. Source: `llm_tokenizer_bpe` and `unicode_regex_split` of llama.cpp; tools/fuzz/words.py compares.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pa_lite.engine.vocabulary_refusals import BYTE_PAIRS

MOST = 200_000  # characters of a stretch: 400 MB of stack, of which llama.cpp touches 130 MB
# pre-tokenizers whose patterns llama.cpp has loops for, but for one that matches a single digit: they need no stack
WITHOUT_STACK = frozenset((
    "a.x-4.0", "chatglm-bpe", "codeshell", "command-r", "dbrx", "deepseek-r1-qwen", "exaone", "exaone4", "f2llmv2",
    "falcon-h1", "falcon3", "gemma4", "gigachat", "glm4", "glm5", "gpt-2", "granite-docling",
    "granite-embed-multi-311m", "grok-2", "hunyuan", "jais", "jina-de", "jina-es", "jina-v1-en", "jina-v2-code",
    "jina-v2-de", "jina-v2-es", "jina-v5-nano", "kimi-k2", "kormo", "laguna", "lfm2", "llama-bpe", "llama-v3",
    "llama3", "megrez", "mellum", "mellum2", "midm-2.0", "minerva-7b", "modern-bert", "mpt", "olmo", "phi-2",
    "pixtral", "qwen2", "qwen35", "refact", "roberta-bpe", "sarvam-moe", "smaug-bpe", "smollm", "solar-open",
    "stablelm2", "starcoder", "trillion",
))  # fmt: skip
_STRETCH = re.compile(r"[^ \t\n\v\f\r]*\s*")
_JOINED = re.compile(r"[A-Za-z \x80-\U0010ffff]+")  # what can be letters with single spaces between them
_JOINS_WORDS = ("exaone-moe",)  # a match may span words of letters with single spaces between them


_TOGETHER = 10  # times the time for the longest run that all runs of a text may take: some 10 s


@dataclass(frozen=True)
class _Slow:
    """Runs of a kind that take quadratic time, and how many characters one may have: those take about a second."""

    runs: re.Pattern[str]
    what: str
    most: int

    def fault(self, text: str) -> str | None:
        """Return why the runs in a text take too long, as the end of a sentence; None if they do not."""
        if len(text) <= self.most:
            return None
        lengths = [match.end() - match.start() for match in self.runs.finditer(text)]
        longest, work = max(lengths, default=0), sum(n * n for n in lengths)
        why = "and this model's tokenizer takes quadratic time for them"
        if longest > self.most:
            return f"has a run of {longest} {self.what}, {why}: it accepts {self.most}. Shorten it"
        if work > _TOGETHER * self.most**2:
            return f"has {len(lengths)} runs of {self.what}, of up to {longest} characters, {why}. Shorten it"
        return None


_SLOW: Mapping[str, _Slow] = {
    "superbpe": _Slow(re.compile(r"[0-9]{8,}"), "digits", 4000),
    "deepseek-llm": _Slow(re.compile(r"[^\S\r\n]{8,}"), "white space characters", 3000),
}


@dataclass(frozen=True)
class PreTokenizer:
    """What a vocabulary's pre-tokenizer needs; `needs_stack` is for each character of a stretch."""

    needs_stack: bool = False
    joins_words: bool = False
    slow: _Slow | None = None

    def longest_stretch(self, text: str) -> tuple[int, int]:
        """Return offset and length, in characters, of the longest word with the white space after it.

        Where the pre-tokenizer joins words, those of letters with single spaces between them count as one.
        """
        patterns = (_STRETCH, _JOINED) if self.joins_words else (_STRETCH,)
        found: Iterator[re.Match[str]] = (match for pattern in patterns for match in pattern.finditer(text))
        longest = max(found, key=lambda match: match.end() - match.start())
        return longest.start(), longest.end() - longest.start()

    def fault(self, text: str) -> str | None:
        """Return why the pre-tokenizer cannot take a text, as the end of a sentence; None if it can."""
        if self.needs_stack and len(text) > MOST:
            offset, length = self.longest_stretch(text)
            if length > MOST:
                return (
                    f"has a stretch of {length} characters without a break, from character {offset + 1} on; this "
                    f"model's tokenizer takes at most {MOST}. Shorten it, or put spaces in"
                )
        return None if self.slow is None else self.slow.fault(text)


def pre_tokenizer(tokenizer_model: str, pre: str) -> PreTokenizer:
    """Return what the pre-tokenizer of a GGUF file needs, by `tokenizer.ggml.model` and `tokenizer.ggml.pre`."""
    # gemma4 has its own pre-tokenizer, whatever the file says
    if tokenizer_model not in BYTE_PAIRS or tokenizer_model == "gemma4":
        return PreTokenizer()
    return PreTokenizer(pre not in WITHOUT_STACK, pre in _JOINS_WORDS, _SLOW.get(pre))
