"""A vocabulary's tokens as llama.cpp takes them: texts, types and scores by id. Reads no files."""

from __future__ import annotations

import re
from pathlib import Path

from pa_lite.checkpoints.source import Vocabulary, string
from pa_lite.errors import CheckpointError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # enum llama_token_type
MAX_TOKENS = 1 << 22  # sixteen times the largest vocabulary known; config.json is not to choose our memory
_SPARE = 1 << 15  # ids without a token that an embedding may have besides: a claim of more is not made room for
ADDED_SCORE, _PADDING_SCORE = -1000.0, -10000.0  # as llama.cpp's converter writes them
_LOOKS_SPECIAL = re.compile(r"<\|.*\|>|<｜.*｜>|<unused.*>|<(pad|mask|2mass)>|\[@BOS@\]", re.DOTALL)


def looks_special(text: str) -> bool:
    """Whether an added token that is not marked as special is one by its text (Source: the converter's rule)."""
    return _LOOKS_SPECIAL.fullmatch(text) is not None


class TokenTable:
    """Texts, types and scores of `size` tokens; an id that no file names stays an unused `[PAD<id>]`."""

    def __init__(self, size: int, where: Path, n_named: int) -> None:
        """`n_named` tokens are to be put in. Raises CheckpointError when `size` is that of another vocabulary."""
        if size > _SPARE + 4 * n_named:
            raise CheckpointError(
                f"{where}: has {n_named} tokens, but config.json's vocab_size is {size}. Take the tokenizer and the "
                "configuration from one checkpoint."
            )
        self.where = where
        self.texts = [f"[PAD{i}]" for i in range(size)]
        self.types = [UNUSED] * size
        self.scores = [_PADDING_SCORE] * size

    def __len__(self) -> int:
        return len(self.texts)

    def put(self, i: int, text: str, kind: int, score: float = 0.0) -> None:
        """Set the token with id i. Raises CheckpointError when i is not below the table's size."""
        if not 0 <= i < len(self.texts):
            raise CheckpointError(
                f"{self.where}: has token id {i}, but config.json's vocab_size is {len(self.texts)}. "
                "Take the tokenizer and the configuration from one checkpoint."
            )
        self.texts[i], self.types[i], self.scores[i] = text, kind, score

    def put_added(self, i: int, text: str, special: bool) -> None:
        """Set a token that was added to the trained ones: a control token, or a text that is matched as it stands."""
        if special:
            self.put(i, text, CONTROL, ADDED_SCORE)
        else:
            self.put(i, text.replace("▁", " "), USER_DEFINED, ADDED_SCORE)

    def check(self) -> None:
        """Raise CheckpointError for texts on which llama.cpp aborts: two that are the same."""
        places: dict[str, int] = {}
        for i, text in enumerate(self.texts):
            seen = text.partition("\0")[0] or f"[EMPTY_{i}]"  # what llama.cpp reads of it
            if places.setdefault(seen, i) != i:
                raise CheckpointError(
                    f"{self.where}: token ids {places[seen]} and {i} have the same text {seen!r}; llama.cpp cannot "
                    "load such a vocabulary."
                )


PHI3_NAME = re.compile(r"(phi)-?(3)", re.IGNORECASE)
_PHI3_TOKENS = ("</s>", "<unk>", "<s>", "<|endoftext|>")


def name_for_llama_cpp(name: str, architecture: str, vocabulary: Vocabulary) -> str:
    """A model's name, so written that llama.cpp reads in it what is true of the tokenizer.

    From "phi-3" or "phi3" in `general.name` llama.cpp concludes that control tokens swallow the white space behind
    them, and it cannot load a model without Phi-3's four tokens. So Phi-3's name has it and no other's may.
    """
    kind = vocabulary.metadata.get("tokenizer.ggml.model")
    if architecture == "phi3" and kind == string("llama") and set(_PHI3_TOKENS) <= set(vocabulary.tokens):
        return name if PHI3_NAME.search(name) else f"{name} (phi-3)"
    return PHI3_NAME.sub(r"\1 \2", name)
