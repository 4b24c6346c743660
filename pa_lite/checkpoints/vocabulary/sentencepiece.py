"""Convert SentencePiece vocabularies (Llama-2, Mistral, Gemma, Phi-3) to llama.cpp's tokenizer `llama`, with scores.

Tokens come from tokenizer.model and the added tokens, or, if there is only tokenizer.json, from its merges.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence

import numpy as np

from pa_lite.checkpoints.vocabulary.files import (
    MODEL,
    AddedToken,
    TokenizerFiles,
    is_control,
    merge_pairs,
    trained_tokens,
)
from pa_lite.checkpoints.vocabulary.pre_tokenizers import steps_of
from pa_lite.checkpoints.vocabulary.sentencepiece_model import SentencePieceModel
from pa_lite.checkpoints.vocabulary.tokens import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Floats, TokenTable
from pa_lite.checkpoints.vocabulary.trained import Merges
from pa_lite.errors import CheckpointError

_BYTE_TEXT = re.compile(rb"<0x[0-9A-Fa-f]{2}>")
_BYTE_LENGTH = 6
_PREPEND = {"type": "Prepend", "prepend": "▁"}
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}


def is_sentencepiece(files: TokenizerFiles) -> bool:
    """Return whether tokenizer.json has a SentencePiece vocabulary: BPE with byte fallback."""
    return files.model.get("type", "BPE") == "BPE" and files.model.get("byte_fallback") is True


def from_model(files: TokenizerFiles) -> tuple[TokenTable, bool]:
    """Return the tokens of tokenizer.model with the added ones, and whether texts start with a space.

    Added tokens are added_tokens_decoder of tokenizer_config.json, else (or also, by the family's rules) added_tokens
    of tokenizer.json with those of added_tokens.json. A special piece that these only repeat keeps its type and score
    (`<unk>` stays UNKNOWN). Added ids beyond the embedding are dropped, as the model cannot use them.
    Raises CheckpointError for a broken file.
    """
    path = files.folder / MODEL
    model = files.seen.model(path)
    table = TokenTable(files.size, path, len(model.texts))
    # the converter writes user-defined pieces as normal ones, which llama.cpp would not match literally
    texts = list(model.texts)
    for i in np.flatnonzero(model.types == USER_DEFINED).tolist():
        texts[i] = texts[i].replace("▁".encode(), b" ")
    table.put_all(np.arange(len(texts)), texts, model.types, model.scores)
    decoder = files.decoder_tokens()
    # a special piece stays special, whatever a decoder says: user text must not be able to spell it
    kept = [t for t in decoder or [] if is_control(t) or not _repeats(t, model)]
    _put_added(table, files, kept)
    if decoder is None or files.rules.adds_both_lists:  # else the converter drops tokens not in a decoder
        added = files.added_tokens()
        if decoder is None:
            added = [t for t in added if not _repeats(t, model)]
        _put_added(table, files, added)
    table.check()
    return table, model.add_dummy_prefix


def _repeats(token: AddedToken, model: SentencePieceModel) -> bool:
    """Return whether an added token only repeats the special piece of tokenizer.model with its id."""
    if token.id >= len(model.texts) or model.types[token.id] not in (CONTROL, UNKNOWN):
        return False
    return model.texts[token.id] == token.text.encode("utf-8")


def _put_added(table: TokenTable, files: TokenizerFiles, tokens: Iterable[AddedToken]) -> None:
    for token in tokens:
        if token.id >= files.size:
            continue
        table.put_added(token.id, token.text, token.special if files.rules.trusts_flags else is_control(token))


def from_definition(files: TokenizerFiles) -> tuple[TokenTable, bool]:
    """Return the tokens of a tokenizer.json converted from a tokenizer.model, and whether texts start with a space.

    The score of a piece is minus the rank of the first merge that creates it, so llama.cpp merges in BPE order. (The
    converter gives every piece one score, so most texts would get other ids.)
    """
    trained = trained_tokens(files)
    table = TokenTable(files.size, files.where, len(trained))
    texts = list(trained.all_encoded())
    token_types = np.full(len(texts), NORMAL, np.int32)
    merges = merge_pairs(files)
    scores = merge_scores(texts, merges)
    for i, text in enumerate(texts):
        if len(text) == _BYTE_LENGTH and _BYTE_TEXT.fullmatch(text):
            token_types[i], scores[i] = BYTE, 0.0
    unknown = files.model.get("unk_token")
    if isinstance(unknown, str) and (raw := unknown.encode()) in texts and token_types[texts.index(raw)] == NORMAL:
        token_types[texts.index(raw)], scores[texts.index(raw)] = UNKNOWN, 0.0
    table.put_all(trained.ids, texts, token_types, scores)
    _put_added(table, files, [t for t in files.added_tokens() if t.text != unknown or trained.get(t.text) != t.id])
    table.check()
    return table, _prefixes(files)


def merge_scores(texts: Sequence[bytes], merges: Merges) -> Floats:
    """Return for each text [n] minus the rank of the first merge that creates it; lower values if none does."""
    places = {text: i for i, text in enumerate(texts)}
    ranks = np.full(len(texts), -1, np.int64)
    elsewhere: set[bytes] = set()  # results of merges that are not tokens
    first = 0
    for made, _ in merges.batches():
        found = np.fromiter(map(places.get, made, itertools.repeat(-1)), np.int64, len(made))
        if (found < 0).any():
            elsewhere.update(made[i] for i in np.flatnonzero(found < 0).tolist())
        new = np.flatnonzero((found >= 0) & (ranks[found] < 0))[::-1]  # reversed, so that the first of several counts
        ranks[found[new]] = first + new
        first += len(made)
    never = int((ranks >= 0).sum()) + len(elsewhere) + 1
    return -np.where(ranks < 0, never, ranks).astype(np.float32)


def _prefixes(files: TokenizerFiles) -> bool:
    """Return whether the definition puts a space before a text. Raises CheckpointError for unsupported steps."""
    steps = steps_of(files.definition.get("normalizer"), "normalizers")
    for step in steps:
        if step not in (_PREPEND, _REPLACE):
            raise CheckpointError(f"{files.where}: llama.cpp does not support its normalizer ({step.get('type')}).")
    cuts = steps_of(files.definition.get("pre_tokenizer"), "pretokenizers")
    scheme = next((step.get("prepend_scheme", "always") for step in cuts if step.get("type") == "Metaspace"), "never")
    return scheme != "never" or _PREPEND in steps
