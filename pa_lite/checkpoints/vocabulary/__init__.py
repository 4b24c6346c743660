"""Convert a Hugging Face tokenizer to GGUF metadata, from its files only.

Keys, token types and metadata are those that llama.cpp's converter writes. Where the converter would lose what the
tokenizer does, we follow the tokenizer; comments say where.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pa_lite.checkpoints.checkpoint import Vocabulary
from pa_lite.checkpoints.vocabulary.byte_level_bpe import is_byte_level_bpe, read_byte_level_bpe
from pa_lite.checkpoints.vocabulary.chat_templates import chat_templates
from pa_lite.checkpoints.vocabulary.contradictions import settle
from pa_lite.checkpoints.vocabulary.files import DEFINITION, MODEL, Seen, TokenizerFiles, read_files
from pa_lite.checkpoints.vocabulary.pre_tokenizers import pre_tokenizer
from pa_lite.checkpoints.vocabulary.sentencepiece import from_definition, from_model, is_sentencepiece
from pa_lite.checkpoints.vocabulary.space_prefix import prefix_scheme, space_prefix
from pa_lite.checkpoints.vocabulary.special_tokens import special_tokens
from pa_lite.checkpoints.vocabulary.tokens import TokenTable
from pa_lite.errors import CheckpointError
from pa_lite.ggml.gguf_tables import Keys
from pa_lite.ggml.metadata import Metadata, array, boolean, string


def read_vocabulary(folder: Path, config: Mapping[str, Any], seen: Seen | None = None) -> Vocabulary:
    """Return the vocabulary of a checkpoint folder, with `vocab_size` tokens; `config` is its config.json.

    Files with the same content as files in `seen` are not parsed again. Raises CheckpointError for a tokenizer that is
    missing, broken or larger than the embedding, or that llama.cpp would read differently.
    """
    files = read_files(folder, config, seen)
    try:
        files, remarks = settle(files)
        templates, more = chat_templates(files.folder, files.settings)
        vocabulary = _vocabulary(files)
        metadata = {**vocabulary.metadata, **templates}
        return replace(vocabulary, metadata=metadata, remarks=(*remarks, *more))
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise CheckpointError(f"{files.where}: broken tokenizer definition ({type(e).__name__}: {e}).") from e


def _vocabulary(files: TokenizerFiles) -> Vocabulary:
    if is_byte_level_bpe(files):  # a tokenizer.model next to it is tiktoken's
        table, special, own = _byte_level(files)
    elif files.has_model or is_sentencepiece(files):
        table, special, own = _sentencepiece(files)
    elif not files.definition:
        raise CheckpointError(
            f"{files.folder}: has neither {DEFINITION} nor {MODEL}. "
            f"Download the tokenizer's files too.{_older_layout(files.folder)}"
        )
    else:
        model_type = files.model.get("type", "BPE")
        raise CheckpointError(
            f"{files.where}: a {model_type} vocabulary, neither byte-level BPE nor SentencePiece, cannot be converted."
        )
    out = {**own, **special, **files.rules.keys_by_size.get(files.size, {})}
    return Vocabulary(metadata=out, tokens=table.texts, token_types=table.types)


def _older_layout(folder: Path) -> str:
    """Return what to do about the files that tokenizers had before tokenizer.json."""
    if not (folder / "vocab.json").is_file():
        return ""
    return (
        f" If there are only vocab.json and merges.txt, create {DEFINITION} from them: "
        "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) of transformers."
    )


def _token_lists(model: str, pre: str, table: TokenTable) -> Metadata:
    return {
        Keys.Tokenizer.MODEL: string(model),
        Keys.Tokenizer.PRE: string(pre),
        Keys.Tokenizer.LIST: array("STRING", table.texts),
        Keys.Tokenizer.TOKEN_TYPE: array("INT32", table.types),
    }


def _copied_prefix(files: TokenizerFiles) -> bool | None:
    """Return add_prefix_space of tokenizer_config.json if the converter copies it, else None."""
    said = files.settings.get("add_prefix_space")
    return said if files.rules.copies_space_prefix and isinstance(said, bool) else None


def _byte_level(files: TokenizerFiles) -> tuple[TokenTable, Metadata, Metadata]:
    table, merges = files.seen.made("tokens", ("byte-level", *files.known_by), lambda: read_byte_level_bpe(files))
    out = _token_lists("gpt2", pre_tokenizer(files), table)
    out[Keys.Tokenizer.MERGES] = array("STRING", merges)
    prefix = _copied_prefix(files)
    if prefix is not None:
        out[Keys.Tokenizer.ADD_PREFIX] = boolean(prefix)
    return table, special_tokens(files, table.texts, sentencepiece=False), out


def _space_prefix(files: TokenizerFiles, prefixes: bool, scheme: str | None) -> bool | None:
    """Return whether llama.cpp should put a space before a text, as the tokenizer does (`prefixes`); None: its default.

    If it puts one where the tokenizer does not, `space_prefix` records that for pa-lite.
    """
    if files.rules.never_prefixes or scheme == "never":
        return False
    if not files.has_model:
        return prefixes or scheme is not None
    copied = _copied_prefix(files)
    return False if copied is None and not prefixes else copied


def _sentencepiece(files: TokenizerFiles) -> tuple[TokenTable, Metadata, Metadata]:
    if files.has_model:
        table, prefixes = from_model(files)
    else:
        table, prefixes = files.seen.made("tokens", ("sentencepiece", *files.known_by), lambda: from_definition(files))
    out = _token_lists("llama", "default", table)
    out[Keys.Tokenizer.SCORES] = array("FLOAT32", table.scores)
    scheme = prefix_scheme(files)
    prefix = _space_prefix(files, prefixes, scheme)
    if prefix is not None:
        out[Keys.Tokenizer.ADD_PREFIX] = boolean(prefix)
    if prefix is not False:
        out.update(space_prefix(scheme))
    return table, special_tokens(files, table.texts, sentencepiece=True), out
