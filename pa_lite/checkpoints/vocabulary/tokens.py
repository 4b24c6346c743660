"""Tokens of a vocabulary as llama.cpp expects them: texts, types and scores by id. Reads no files."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pa_lite.checkpoints.checkpoint import Vocabulary
from pa_lite.checkpoints.families.table import ARCHITECTURES
from pa_lite.errors import CheckpointError
from pa_lite.ggml.gguf_tables import TOKEN_TYPES, Keys
from pa_lite.ggml.metadata import string
from pa_lite.ggml.packed import PackedNumbers, PackedTexts, pack_texts

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = (
    TOKEN_TYPES[name] for name in ("NORMAL", "UNKNOWN", "CONTROL", "USER_DEFINED", "UNUSED", "BYTE")
)
MAX_TOKENS = 1 << 22  # sixteen times the largest known vocabulary, to bound memory
_SPARE = 1 << 15  # ids without a token that every vocabulary may have; limits the memory for a false vocab_size
ADDED_SCORE, _PADDING_SCORE = -1000.0, -10000.0  # as in llama.cpp's converter
_LOOKS_SPECIAL = re.compile(r"<\|.*\|>|<｜.*｜>|<unused.*>|<(pad|mask|2mass)>|\[@BOS@\]", re.DOTALL)

Ids = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.floating[Any]]
# texts that llama.cpp may confuse with others: with a zero byte, or like a padding token
_ODD = re.compile(rb"\0|\[PAD|\[EMPTY_")


def looks_special(text: str) -> bool:
    """Return whether an unmarked added token is special by its text (the rule of llama.cpp's converter)."""
    return _LOOKS_SPECIAL.fullmatch(text) is not None


class TokenTable:
    """Texts, types and scores of `size` tokens; an id without a token stays an unused `[PAD<id>]`."""

    def __init__(self, size: int, where: Path, n_named: int) -> None:
        """Make room for `size` ids, of which `n_named` have tokens. Raises CheckpointError if these do not fit."""
        if size > _SPARE + 4 * n_named:
            raise CheckpointError(
                f"{where}: has {n_named} tokens, but config.json's vocab_size is {size}. Use the tokenizer and the "
                "configuration of one checkpoint."
            )
        self.where = where
        self._texts: list[bytes | None] = [None] * size
        self._types = np.full(size, UNUSED, np.int32)
        self._scores = np.full(size, _PADDING_SCORE, np.float32)

    def __len__(self) -> int:
        return len(self._texts)

    @functools.cached_property
    def texts(self) -> PackedTexts:
        """Return the texts in order of the ids, once all tokens are set."""
        if None in self._texts:
            return pack_texts(b"[PAD%d]" % i if text is None else text for i, text in enumerate(self._texts))
        return pack_texts(self._texts)  # type: ignore[arg-type]

    @property
    def types(self) -> PackedNumbers:
        """Return the types, int32."""
        return PackedNumbers(self._types)

    @property
    def scores(self) -> PackedNumbers:
        """Return the scores, float32."""
        return PackedNumbers(self._scores)

    def put(self, i: int, text: str, token_type: int, score: float = 0.0) -> None:
        """Set token i. Raises CheckpointError unless i is below the size of the table."""
        if not 0 <= i < len(self._texts):
            raise CheckpointError(
                f"{self.where}: has token id {i}, but config.json's vocab_size is {len(self._texts)}. "
                "Use the tokenizer and the configuration of one checkpoint."
            )
        self._texts[i], self._types[i], self._scores[i] = text.encode("utf-8"), token_type, score

    def put_all(self, ids: Ids, texts: Iterable[bytes], token_types: Ids | int, scores: Floats | float = 0.0) -> None:
        """Set tokens `ids`, int [n], to UTF-8 texts with types and scores, each [n] or one for all."""
        outside = np.flatnonzero((ids < 0) | (ids >= len(self._texts)))
        if len(outside):
            self.put(int(ids[outside[0]]), "", NORMAL)  # raises the error
        for i, text in zip(ids.tolist(), texts, strict=True):
            self._texts[i] = text
        self._types[ids], self._scores[ids] = token_types, scores

    def put_added(self, i: int, text: str, special: bool) -> None:
        """Set an added token: a control token, or one that is matched literally."""
        if special:
            self.put(i, text, CONTROL, ADDED_SCORE)
        else:
            self.put(i, text.replace("▁", " "), USER_DEFINED, ADDED_SCORE)

    def check(self) -> None:
        """Raise CheckpointError for duplicate texts, on which llama.cpp aborts."""
        named = [text for text in self._texts if text is not None]
        if len(set(named)) == len(named) and all(named) and not _ODD.search(b"".join(named)):
            return
        places: dict[bytes, int] = {}
        for i, text in enumerate(self.texts.all_encoded()):
            seen = text.partition(b"\0")[0] or b"[EMPTY_%d]" % i  # the part that llama.cpp reads
            if places.setdefault(seen, i) != i:
                raise CheckpointError(
                    f"{self.where}: token ids {places[seen]} and {i} have the same text {seen.decode()!r}; llama.cpp "
                    "cannot load this vocabulary."
                )


def name_for_llama_cpp(name: str, architecture: str, vocabulary: Vocabulary) -> str:
    """Return a model's name such that llama.cpp derives the right tokenizer behaviour from it.

    llama.cpp infers behaviour from some names (NameRule). Models with that behaviour get such a name; in the names of
    others the two parts are separated.
    """
    tokenizer_model = vocabulary.metadata.get(Keys.Tokenizer.MODEL)
    for owner, facts in ARCHITECTURES.items():
        rule = facts.name_rule
        if rule is None:
            continue
        if architecture == owner and tokenizer_model == string("llama") and rule.tokens <= set(vocabulary.tokens):
            name = name if rule.pattern.search(name) else f"{name} ({rule.mark})"
        else:
            name = rule.pattern.sub(r"\1 \2", name)
    return name
