"""Split texts with thousands of special tokens before llama.cpp tokenises them: the same ids, in linear time.

llama.cpp splits a text into a list of fragments, and walks the list from its start for every special token found:
40,000 of them take half a minute. Source: `llama_vocab::impl::tokenizer_st_partition` of llama.cpp.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

from pa_lite.errors import TextError

SHORT = 2000  # characters of a text that is never split
_FEW = 2000  # special tokens that llama.cpp finds in 0.1 s
_MOST = 20_000  # special tokens that llama.cpp finds in 8 s
_MOST_COMPARED = 2_000_000_000  # comparisons of a special token with a position in a text: 23 s
_MOST_PASSED = 500_000_000_000  # bytes that llama.cpp scans, as it searches the whole text for each token: 10 s
_SPACES = " \t\n\v\f\r"


class SpecialToken(NamedTuple):
    """A token that is found in a text before pre-tokenisation; it may strip white space on either side."""

    id: int
    text: str
    strips_left: bool = False
    strips_right: bool = False

    @property
    def size(self) -> int:
        """The length in bytes; llama.cpp searches for the longest tokens first."""
        return len(self.text.encode())


class SpecialTokens:
    """The special tokens of a vocabulary."""

    def __init__(self, tokens: Sequence[SpecialToken]) -> None:
        """Take the tokens in any order."""
        self._tokens = sorted((t for t in tokens if t.text), key=lambda t: -t.size)

    @cached_property
    def _starts(self) -> tuple[str, ...]:
        """The first characters of the tokens."""
        return tuple({token.text[0] for token in self._tokens})

    @cached_property
    def _first_bytes(self) -> Counter[int]:
        """The number of tokens by first byte."""
        return Counter(token.text.encode("utf-8", "surrogatepass")[0] for token in self._tokens)

    def _check_search(self, text: str) -> None:
        """Raise TextError if the search takes too long: a token is compared wherever its first byte occurs."""
        raw = text.encode("utf-8", "surrogatepass")
        n = sum(count * raw.count(first) for first, count in self._first_bytes.items())
        if n > _MOST_COMPARED or len(self._tokens) * len(raw) > _MOST_PASSED:
            raise TextError(
                f"has {len(text)} characters, in which this model's tokenizer would search for {len(self._tokens)} "
                "special tokens for minutes. Shorten it"
            )

    def cut(self, text: str) -> list[str | int]:
        """Return the texts between special tokens and the tokens' ids, in order; a text with few of them unsplit.

        Raises TextError for too many tokens of the same length that overlap: llama.cpp does not define which one wins.
        """
        if len(text) <= SHORT:
            return [text]
        self._check_search(text)
        if sum(map(text.count, self._starts)) <= _FEW:
            return [text]
        present = [token for token in self._tokens if token.text in text]
        n = sum(text.count(token.text) for token in present)
        if n <= _FEW:
            return [text]
        if any(_overlap([token.text for token in group]) for _, group in groupby(present, lambda token: token.size)):
            if n > _MOST:
                raise TextError(
                    f"has up to {n} overlapping special tokens, such as {present[0].text[:40]!r}; this model's "
                    f"tokenizer accepts at most {_MOST}. Shorten it"
                )
            return [text]
        fragments: list[str | int] = [text]
        for token in present:
            fragments = [part for fragment in fragments for part in _cut_at(token, fragment)]
        return fragments


def _overlap(words: Sequence[str]) -> bool:
    """Return whether two different words of a list may overlap in a text."""
    prefixes: dict[str, str | None] = {}  # prefix -> its word, None for several words
    for word in words:
        for n in range(1, len(word)):
            prefixes[word[:n]] = word if word[:n] not in prefixes else None
    return any(prefixes.get(word[n:], word) != word for word in words for n in range(1, len(word)))


def _cut_at(token: SpecialToken, fragment: str | int) -> Iterator[str | int]:
    if isinstance(fragment, int):
        yield fragment
        return
    start = 0
    while (found := fragment.find(token.text, start)) >= 0:
        left = fragment[start:found]
        if token.strips_left:
            left = left.rstrip(_SPACES)
        if left:
            yield left
        yield token.id
        start = found + len(token.text)
        while token.strips_right and start < len(fragment) and fragment[start] in _SPACES:
            start += 1
    if start < len(fragment):
        yield fragment[start:]
