"""Ids of a text where the tokenizer puts its leading space elsewhere than llama.cpp does.

llama.cpp puts a space before each text at the start and after a special token. Tokenizers with a Metaspace of scheme
`first` (Mistral's since version 2) put it at the start of the input alone: the template's `[INST] ` brings its own.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from pa_lite.checkpoints.vocabulary.space_prefix import SPACE_PREFIX_KEY, SPACE_PREFIX_SCHEMES
from pa_lite.checkpoints.vocabulary.tokens import CONTROL, UNKNOWN, USER_DEFINED
from pa_lite.errors import EngineError
from pa_lite.ggml.metadata import Metadata

# (text, whether BOS and EOS are added, whether control tokens are read) -> ids
Tokenize = Callable[[str, bool, bool], list[int]]

_GUARDS = range(0xE000, 0xF900)  # private characters: no vocabulary that is known has them all


def space_prefix_scheme(metadata: Metadata) -> str | None:
    """Return the scheme of a GGUF file's tokenizer, None where it is llama.cpp's own.

    Files of pa-lite say it. A file of llama.cpp's converter cannot: Mistral's SentencePiece vocabularies that have
    `[INST]` as a control token are known to be of scheme `first`.
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
    """Turns texts into ids as a Metaspace of scheme `first` or `always` would have llama.cpp do it."""

    def __init__(self, scheme: str, metadata: Metadata, tokenize: Tokenize) -> None:
        """`metadata` is that of the GGUF file, `tokenize` llama.cpp's tokenizer of it."""
        self._everywhere = scheme == "always"
        self._metadata = metadata
        self._tokenize = tokenize

    def tokenize(self, text: str, add_special: bool, parse_special: bool, is_start: bool) -> list[int]:
        """Return the ids of a text, which is the start of the input unless `is_start` is False."""
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
            raise EngineError(f"the vocabulary joins {guard!r}, which it does not have, to {text[:60]!r}")
        return whole[len(ids) :]

    @functools.cached_property
    def _guard(self) -> tuple[str, list[int]]:
        """A character that is in no token, and its ids with llama.cpp's space: what follows it gets no space."""
        used = set().union(*self._metadata["tokenizer.ggml.tokens"].value)
        guard = next((c for c in map(chr, _GUARDS) if c not in used), None)
        if guard is None:
            raise EngineError("the vocabulary has a token for each private character")
        return guard, self._tokenize(guard, False, False)

    @functools.cached_property
    def _special(self) -> tuple[LongestTokens, LongestTokens]:
        """The tokens that are matched as they stand: without control tokens, and with them."""
        tokens, types = (self._metadata.get(f"tokenizer.ggml.{key}") for key in ("tokens", "token_type"))
        pairs = [] if tokens is None or types is None else list(zip(tokens.value, types.value, strict=False))

        def of(*wanted: int) -> LongestTokens:
            return LongestTokens({text: i for i, (text, held) in enumerate(pairs) if held in wanted and text})

        return of(USER_DEFINED), of(USER_DEFINED, CONTROL, UNKNOWN)


class LongestTokens:
    """Finds tokens that are matched as they stand; of several in one place the longest, as `tokenizers` does.

    Takes time in proportion to the text and the different lengths of tokens, however many there are: a pattern of all
    of them would take it to each.
    """

    def __init__(self, ids: Mapping[str, int]) -> None:
        """`ids` has the id of each token, by its text."""
        self._ids = ids
        lengths: dict[str, set[int]] = {}
        for text in ids:
            lengths.setdefault(text[0], set()).add(len(text))
        self._lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}
        self._first = re.compile(f"[{''.join(map(re.escape, sorted(lengths)))}]" if lengths else "(?!)")

    def find(self, text: str) -> Iterator[tuple[int, int, int]]:
        """Yield start, end and id of each token in a text, from left to right, none over another."""
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
