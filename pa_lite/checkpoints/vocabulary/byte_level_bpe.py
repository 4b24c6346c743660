"""Byte-level BPE vocabularies (GPT-2's kind) from tokenizer.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pa_lite.checkpoints.vocabulary.files import TokenizerFiles, is_control
from pa_lite.checkpoints.vocabulary.pre_tokenizers import steps_of
from pa_lite.checkpoints.vocabulary.tokens import NORMAL, TokenTable
from pa_lite.errors import CheckpointError


def is_byte_level_bpe(files: TokenizerFiles) -> bool:
    """Whether tokenizer.json holds such a vocabulary."""
    return files.model.get("type", "BPE") == "BPE" and any(
        step.get("type") == "ByteLevel" for step in steps_of(files.definition.get("pre_tokenizer"), "pretokenizers")
    )


def read_byte_level_bpe(files: TokenizerFiles) -> tuple[TokenTable, list[str]]:
    """The tokens and the merges, "left right" in order of rank. Raises CheckpointError for what is broken in them."""
    trained, added = trained_tokens(files), files.added_tokens()
    table = TokenTable(files.size, files.where, len(trained) + len(added))
    for text, i in trained.items():
        table.put(i, text, NORMAL)
    for token in added:
        table.put_added(token.id, token.text, is_control(token))
    table.check()
    return table, [f"{left.replace(' ', 'Ġ')} {right.replace(' ', 'Ġ')}" for left, right in merge_pairs(files)]


def trained_tokens(files: TokenizerFiles) -> Mapping[str, int]:
    """tokenizer.json's `vocab`, text -> id. Raises CheckpointError unless each id is a whole number of one token."""
    vocab = files.model.get("vocab")
    if not isinstance(vocab, dict) or not all(type(i) is int for i in vocab.values()):
        raise CheckpointError(f"{files.where}: broken tokenizer definition: vocab is no table of token ids.")
    if len(set(vocab.values())) != len(vocab):
        raise CheckpointError(f"{files.where}: broken tokenizer definition: two tokens have one id.")
    return vocab


def merge_pairs(files: TokenizerFiles) -> list[tuple[str, str]]:
    """BPE merges in order of rank; older files hold "left right", newer ones pairs."""
    merges = files.model.get("merges")
    if not isinstance(merges, list):
        raise CheckpointError(f"{files.where}: broken tokenizer definition: it has no merges.")
    return [_pair(merge, files) for merge in merges]


def _pair(merge: Any, files: TokenizerFiles) -> tuple[str, str]:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if isinstance(parts, list) and len(parts) == 2:
        left, right = parts
        if left and right and isinstance(left, str) and isinstance(right, str):
            return left, right
    raise CheckpointError(f"{files.where}: broken tokenizer definition: {merge!r:.80} is no merge of two parts.")
