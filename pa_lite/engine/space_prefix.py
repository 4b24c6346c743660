"""Tokenise for models whose tokenizer puts its leading space elsewhere than llama.cpp does.

llama.cpp puts a space at the start of a text and after each special token. Tokenizers with a Metaspace of scheme
`first` (Mistral's since version 2) put it only at the start of the input, as the template has a space after `[INST]`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from pa_lite.checkpoints.vocabulary.space_prefix import SPACE_PREFIX_KEY, SPACE_PREFIX_SCHEMES
from pa_lite.checkpoints.vocabulary.tokens import CONTROL, UNKNOWN, USER_DEFINED
from pa_lite.errors import EngineError
from pa_lite.ggml.metadata import Metadata

# (text, add_special, parse_special) -> ids
Tokenize = Callable[[str, bool, bool], list[int]]

_GUARDS = range(0xE000, 0xF900)  # private characters; no known vocabulary has them all


def space_prefix_scheme(metadata: Metadata) -> str | None:
    """Return the scheme of a GGUF file's tokenizer, None if it is the same as llama.cpp's.

    pa-lite writes it into its files. Files of llama.cpp's converter cannot have it: Mistral's SentencePiece
    vocabularies with `[INST]` as a control token are known to be of scheme `first`.
    """
    said = metadata.get(SPACE_PREFIX_KEY)
    if said is not None:
        return said.value if said.value in SPACE_PREFIX_SCHEMES else None
    values = {k: e.value for k in ("model", "add_space_prefix", "tokens", "token_type")
              if (e := metadata.get(f"tokenizer.ggml.{k}"))}  # fmt: skip
    if values.get("model") != "llama" or values.get("add_space_prefix") is False or "token_type" not in values:
        return None
    tokens: Sequence[str] = values["tokens"]
    has_inst = any(t == "[INST]" and k == CONTROL for t, k in zip(tokens, values["token_type"], strict=False))
    return "first" if has_inst else None


class SpacePrefix:
    """Tokenises as a Metaspace of scheme `first` or `always` does, by means of llama.cpp's tokenizer."""

    def __init__(self, scheme: str, metadata: Metadata, tokenize: Tokenize) -> None:
        """Use the metadata of a GGUF file and llama.cpp's tokenizer of it."""
        self._everywhere = scheme == "always"
        self._metadata = metadata
        self._tokenize = tokenize

    def tokenize(self, text: str, add_special: bool, parse_special: bool, is_start: bool) -> list[int]:
        """Return the ids of a text; with `is_start`, it is the start of the input."""
        added = self._tokenize("", True, False) if add_special else []
        bos = self._metadata.get("tokenizer.ggml.add_bos_token")
        n_before = int(bos is None or bool(bos.value))
        out, at = added[:n_before], 0
        for start, end, token in self._special[parse_special].find(text):
            out += self._plain(text[at:start], is_start and at == 0)
            out.append(token)
            at = end
        out += self._plain(text[at:], is_start and at == 0)
        return out + added[n_before:]

    def _plain(self, text: str, is_first: bool) -> list[int]:
        """Return the ids of a text without special tokens."""
        if not text:
            return []
        if (self._everywhere or is_first) and not text.startswith((" ", "▁")):
            return self._tokenize(text, False, False)
        guard, ids = self._guard
        whole = self._tokenize(guard + text, False, False)
        if whole[: len(ids)] != ids:
            raise EngineError(f"the tokenizer merges {guard!r}, which is not in the vocabulary, with {text[:60]!r}")
        return whole[len(ids) :]

    @functools.cached_property
    def _guard(self) -> tuple[str, list[int]]:
        """A character that is not in any token, and its ids with llama.cpp's space; text after it gets no space."""
        used = set().union(*self._metadata["tokenizer.ggml.tokens"].value)
        guard = next((c for c in map(chr, _GUARDS) if c not in used), None)
        if guard is None:
            raise EngineError("the vocabulary has a token for each private character")
        return guard, self._tokenize(guard, False, False)

    @functools.cached_property
    def _special(self) -> tuple[LongestTokens, LongestTokens]:
        """The tokens that are matched literally: without control tokens, and with them."""
        tokens, types = (self._metadata.get(f"tokenizer.ggml.{key}") for key in ("tokens", "token_type"))
        pairs = [] if tokens is None or types is None else list(zip(tokens.value, types.value, strict=False))

        def of(*wanted: int) -> LongestTokens:
            return LongestTokens({text: i for i, (text, held) in enumerate(pairs) if held in wanted and text})

        return of(USER_DEFINED), of(USER_DEFINED, CONTROL, UNKNOWN)


class LongestTokens:
    """Finds tokens that are matched literally, the longest of those at one position, as `tokenizers` does.

    The time is proportional to the text and to the number of different token lengths, not to the number of tokens, as
    with one pattern of all tokens.
    """

    def __init__(self, ids: Mapping[str, int]) -> None:
        """Take the ids of the tokens, by text."""
        self._ids = ids
        lengths: dict[str, set[int]] = {}
        for text in ids:
            lengths.setdefault(text[0], set()).add(len(text))
        self._lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}
        self._first = re.compile(f"[{''.join(map(re.escape, sorted(lengths)))}]" if lengths else "(?!)")

    def find(self, text: str) -> Iterator[tuple[int, int, int]]:
        """Yield start, end and id of each token in a text, from left to right, without overlaps."""
        at = 0
        while (found := self._first.search(text, at)) is not None:
            at = found.start()
            for length in self._lengths[text[at]]:
                token = self._ids.get(text[at : at + length]) if at + length <= len(text) else None
                if token is not None:
                    yield at, at + length, token
                    at += length
                    break
            else:
                at += 1
