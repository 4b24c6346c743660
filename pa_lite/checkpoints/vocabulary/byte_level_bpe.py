"""Byte-level BPE vocabularies (GPT-2's kind) from tokenizer.json."""

from __future__ import annotations

import numpy as np

from pa_lite.checkpoints.packed import PackedTexts
from pa_lite.checkpoints.vocabulary.files import TokenizerFiles, is_control
from pa_lite.checkpoints.vocabulary.pre_tokenizers import steps_of
from pa_lite.checkpoints.vocabulary.tokens import NORMAL, TokenTable
from pa_lite.checkpoints.vocabulary.trained import Merges, TrainedTokens
from pa_lite.errors import CheckpointError


def is_byte_level_bpe(files: TokenizerFiles) -> bool:
    """Whether tokenizer.json holds such a vocabulary."""
    return files.model.get("type", "BPE") == "BPE" and any(
        step.get("type") == "ByteLevel" for step in steps_of(files.definition.get("pre_tokenizer"), "pretokenizers")
    )


def read_byte_level_bpe(files: TokenizerFiles) -> tuple[TokenTable, PackedTexts]:
    """Return the tokens and the merges, "left right" in order of rank.

    Raises CheckpointError for what is broken in them.
    """
    trained, added = trained_tokens(files), files.added_tokens()
    table = TokenTable(files.size, files.where, len(trained) + len(added))
    table.put_all(trained.ids, trained.all_encoded(), NORMAL)
    for token in added:
        table.put_added(token.id, token.text, is_control(token))
    table.check()
    return table, merge_pairs(files).spaced()


def trained_tokens(files: TokenizerFiles) -> TrainedTokens:
    """Return tokenizer.json's `vocab`, text -> id. Raises CheckpointError unless each id is an integer of one token."""
    vocab = files.model.get("vocab")
    if not isinstance(vocab, TrainedTokens) or vocab.fault:
        raise CheckpointError(f"{files.where}: broken tokenizer definition: vocab is no table of token ids.")
    if len(np.unique(vocab.ids)) != len(vocab):
        raise CheckpointError(f"{files.where}: broken tokenizer definition: two tokens have one id.")
    return vocab


def merge_pairs(files: TokenizerFiles) -> Merges:
    """Return the BPE merges in order of rank. Raises CheckpointError for a merge that has not two parts."""
    merges = files.model.get("merges")
    if not isinstance(merges, Merges):
        raise CheckpointError(f"{files.where}: broken tokenizer definition: it has no merges.")
    if merges.fault is not None:
        raise CheckpointError(f"{files.where}: broken tokenizer definition: {merges.fault} is no merge of two parts.")
    return merges
