"""Checkpoints that say a fixed text: the next token depends only on the last one. For answers that tests must know.

The residual stream keeps the token's one-hot embedding, as attention and feed-forward weights are zero, and the output
matrix maps each token to its successor.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.support import tiny

_END = 2  # <|im_end|>
_N = 267  # tokens of the tiny tokenizer


def write_parrot(folder: Path, parts: Sequence[str], loops: bool = False, context: int = 512, layers: int = 1) -> Path:
    """Write a checkpoint that answers with `parts` and ends its turn, or with `loops` starts again.

    The parts must differ from each other and from the tiny tokenizer's tokens. Those of a pair's two checkpoints differ
    only in their order: the vocabulary has them in sorted order.
    """
    vocab = -(-(_N + len(parts)) // 64) * 64
    config: dict[str, Any] = {
        **tiny.CONFIG, "hidden_size": vocab, "intermediate_size": 64, "num_hidden_layers": layers,
        "num_attention_heads": vocab // 64, "num_key_value_heads": 1, "vocab_size": vocab,
        "max_position_embeddings": context, "tie_word_embeddings": False,
    }  # fmt: skip
    arrays = {name: np.zeros_like(values) for name, values in tiny.weights(1, config).items()}
    for name, values in arrays.items():
        if name.endswith("norm.weight"):
            values[:] = 1
    arrays["model.embed_tokens.weight"][:] = np.eye(vocab, dtype=np.float32)
    ids = {part: _N + i for i, part in enumerate(sorted(parts))}
    order = [ids[part] for part in parts]
    head = np.zeros((vocab, vocab), np.float32)
    head[order[0], :_N] = 1  # after whatever the prompt ends with
    for one, following in zip(order, [*order[1:], order[0] if loops else _END], strict=True):
        head[following, one] = 1
    arrays["lm_head.weight"] = head
    tiny.write_checkpoint(folder, arrays, "F32", config=config)
    _add_tokens(folder / "tokenizer.json", sorted(parts))
    return folder


def _add_tokens(path: Path, parts: Sequence[str]) -> None:
    letters = tiny.byte_letters()
    document = json.loads(path.read_text("utf-8"))
    vocabulary = document["model"]["vocab"]
    for part in parts:
        spelled = "".join(letters[byte] for byte in part.encode("utf-8"))
        assert spelled not in vocabulary, f"{part!r} is a token already"
        vocabulary[spelled] = len(vocabulary)
    path.write_text(json.dumps(document), "utf-8")
