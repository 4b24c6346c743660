"""Find texts for which llama.cpp's pre-tokenizers need a larger stack (long words) or too much time (long runs).

Most byte-level vocabularies are split with patterns in C++'s `std::regex`, which recurses once for each character of a
match. Source: `llm_tokenizer_bpe` and `unicode_regex_split` of llama.cpp; tools/fuzz/words.py compares.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pa_lite.engine.vocabulary_refusals import BYTE_PAIRS

MOST = 200_000  # characters of a word: 400 MB of stack, of which llama.cpp uses 130 MB
# pre-tokenizers that llama.cpp implements with loops (except patterns of a single digit): they need no extra stack
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
_JOINED = re.compile(r"[A-Za-z \x80-\U0010ffff]+")  # letters (or what may be letters) and spaces
_JOINS_WORDS = ("exaone-moe",)  # pre-tokenizers with matches across words of letters with single spaces between
_TOGETHER = 10  # all runs of a text may take this many times the time of the longest allowed run: about 10 s


@dataclass(frozen=True)
class _Slow:
    """A kind of run that takes quadratic time, and its largest allowed length in characters, about a second."""

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
            return f"has a run of {longest} {self.what}, {why}: the limit is {self.most}. Shorten it"
        if work > _TOGETHER * self.most**2:
            return f"has {len(lengths)} runs of {self.what}, of up to {longest} characters, {why}. Shorten it"
        return None


_SLOW: Mapping[str, _Slow] = {
    "superbpe": _Slow(re.compile(r"[0-9]{8,}"), "digits", 4000),
    "deepseek-llm": _Slow(re.compile(r"[^\S\r\n]{8,}"), "white space characters", 3000),
}


@dataclass(frozen=True)
class PreTokenizer:
    """What a vocabulary's pre-tokenizer needs; with `needs_stack`, stack for each character of the longest word."""

    needs_stack: bool = False
    joins_words: bool = False
    slow: _Slow | None = None

    def longest_stretch(self, text: str) -> tuple[int, int]:
        """Return offset and length, in characters, of the longest word with the white space after it.

        If the pre-tokenizer joins words, words of letters with single spaces between them count as one.
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
                    f"has a word of {length} characters at character {offset + 1}; this model's tokenizer accepts at "
                    f"most {MOST}. Shorten it, or insert spaces"
                )
        return None if self.slow is None else self.slow.fault(text)


def pre_tokenizer(tokenizer_model: str, pre: str) -> PreTokenizer:
    """Return what the pre-tokenizer of a GGUF file needs, by `tokenizer.ggml.model` and `tokenizer.ggml.pre`."""
    # gemma4 has its own pre-tokenizer, whatever the file says
    if tokenizer_model not in BYTE_PAIRS or tokenizer_model == "gemma4":
        return PreTokenizer()
    return PreTokenizer(pre not in WITHOUT_STACK, pre in _JOINS_WORDS, _SLOW.get(pre))
