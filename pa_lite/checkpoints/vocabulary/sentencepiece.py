"""SentencePiece vocabularies (Llama-2's, Mistral's, Gemma's, Phi-3's) as llama.cpp's kind `llama`: tokens with scores.

From tokenizer.model and the tokens added to it, or, where a repository has tokenizer.json alone, from its merges.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pa_lite.checkpoints.vocabulary.byte_level_bpe import merge_pairs, trained_tokens
from pa_lite.checkpoints.vocabulary.files import MODEL, AddedToken, TokenizerFiles, is_control
from pa_lite.checkpoints.vocabulary.pre_tokenizers import steps_of
from pa_lite.checkpoints.vocabulary.sentencepiece_model import Piece, read_sentencepiece
from pa_lite.checkpoints.vocabulary.tokens import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, TokenTable
from pa_lite.errors import CheckpointError

_PHI3 = "Phi3ForCausalLM"
_BYTE_TEXT = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_PREPEND = {"type": "Prepend", "prepend": "▁"}
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}


def is_sentencepiece(files: TokenizerFiles) -> bool:
    """Whether tokenizer.json alone holds such a vocabulary: BPE that falls back to bytes."""
    return files.model.get("type", "BPE") == "BPE" and files.model.get("byte_fallback") is True


def from_model(files: TokenizerFiles) -> tuple[TokenTable, bool]:
    """The tokens of tokenizer.model and those added, and whether a blank is put before a text.

    Added are tokenizer_config.json's added_tokens_decoder, else (and for Phi-3 besides) tokenizer.json's added_tokens,
    with those of added_tokens.json. A special piece that is only repeated keeps its type and score: `<unk>` is unknown.
    Added ids beyond the embedding are dropped, as nothing can make use of them.
    Raises CheckpointError for a broken file.
    """
    path = files.folder / MODEL
    model = read_sentencepiece(path)
    table = TokenTable(files.size, path, len(model.pieces))
    for i, piece in enumerate(model.pieces):
        # the converter makes user-defined pieces normal ones, which llama.cpp would not match as they stand
        text = piece.text.replace("▁", " ") if piece.type == USER_DEFINED else piece.text
        table.put(i, text, piece.type, piece.score)
    decoder = files.decoder_tokens()
    # a special piece stays one, whatever a decoder says: a user's text must not be able to spell it
    kept = [t for t in decoder or [] if is_control(t) or not _repeats(t, model.pieces[t.id : t.id + 1])]
    _put_added(table, files, kept)
    if decoder is None or files.architecture == _PHI3:  # for others the converter loses what has no decoder
        added = files.added_tokens()
        if decoder is None:
            added = [t for t in added if not _repeats(t, model.pieces[t.id : t.id + 1])]
        _put_added(table, files, added)
    table.check()
    return table, model.add_dummy_prefix


def _repeats(token: AddedToken, pieces: Sequence[Piece]) -> bool:
    """Whether an added token is the special piece of tokenizer.model, if any, that has its id already."""
    return any(piece.text == token.text and piece.type in (CONTROL, UNKNOWN) for piece in pieces)


def _put_added(table: TokenTable, files: TokenizerFiles, tokens: Iterable[AddedToken]) -> None:
    for token in tokens:
        if token.id >= files.size:
            continue
        if files.architecture == _PHI3:  # its texts do not tell which tokens are control tokens
            table.put_added(token.id, token.text, token.special)
        else:
            table.put_added(token.id, token.text, is_control(token))


def from_definition(files: TokenizerFiles) -> tuple[TokenTable, bool]:
    """The tokens of a tokenizer.json that was made from a tokenizer.model, and whether a blank is put before a text.

    A piece's score is minus the rank of the first merge that makes it, which orders llama.cpp's merging as BPE does
    (the converter gives all one score, and most texts other ids).
    """
    trained = trained_tokens(files)
    table = TokenTable(files.size, files.where, len(trained))
    scores: dict[str, float] = {}
    for rank, (left, right) in enumerate(merge_pairs(files)):
        scores.setdefault(left + right, -float(rank))
    never = -float(len(scores) + 1)
    unknown = files.model.get("unk_token")
    for text, i in trained.items():
        if _BYTE_TEXT.fullmatch(text):
            table.put(i, text, BYTE)
        elif text == unknown:
            table.put(i, text, UNKNOWN)
        else:
            table.put(i, text, NORMAL, scores.get(text, never))
    _put_added(table, files, [t for t in files.added_tokens() if (t.text, trained.get(t.text)) != (unknown, t.id)])
    table.check()
    return table, _prefixes(files)


def _prefixes(files: TokenizerFiles) -> bool:
    """Whether the definition puts a blank before a text. Raises CheckpointError for a step that llama.cpp lacks."""
    steps = steps_of(files.definition.get("normalizer"), "normalizers")
    for step in steps:
        if step not in (_PREPEND, _REPLACE):
            raise CheckpointError(
                f"{files.where}: its normalizer ({step.get('type')}) is not known; llama.cpp has none for this kind."
            )
    cuts = steps_of(files.definition.get("pre_tokenizer"), "pretokenizers")
    scheme = next((step.get("prepend_scheme", "always") for step in cuts if step.get("type") == "Metaspace"), "never")
    return scheme != "never" or _PREPEND in steps
