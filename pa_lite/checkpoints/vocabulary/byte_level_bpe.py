"""Read byte-level BPE vocabularies (as in GPT-2) from tokenizer.json."""

from __future__ import annotations

from pa_lite.checkpoints.vocabulary.files import TokenizerFiles, is_control, merge_pairs, trained_tokens
from pa_lite.checkpoints.vocabulary.pre_tokenizers import steps_of
from pa_lite.checkpoints.vocabulary.tokens import NORMAL, TokenTable
from pa_lite.ggml.packed import PackedTexts


def is_byte_level_bpe(files: TokenizerFiles) -> bool:
    """Return whether tokenizer.json has a byte-level BPE vocabulary."""
    return files.model.get("type", "BPE") == "BPE" and any(
        step.get("type") == "ByteLevel" for step in steps_of(files.definition.get("pre_tokenizer"), "pretokenizers")
    )


def read_byte_level_bpe(files: TokenizerFiles) -> tuple[TokenTable, PackedTexts]:
    """Return the tokens, and the merges as "left right" in order of rank. Raises CheckpointError for broken ones."""
    trained, added = trained_tokens(files), files.added_tokens()
    table = TokenTable(files.size, files.where, len(trained) + len(added))
    table.put_all(trained.ids, trained.all_encoded(), NORMAL)
    for token in added:
        table.put_added(token.id, token.text, is_control(token))
    table.check()
    return table, merge_pairs(files).spaced
