"""SentencePiece's tokenizer.model: a protobuf of strangers, read without the sentencepiece package.

Format: https://github.com/google/sentencepiece, src/sentencepiece_model.proto.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pa_lite.checkpoints.file_kind import check_text
from pa_lite.checkpoints.vocabulary.tokens import MAX_TOKENS, NORMAL
from pa_lite.errors import CheckpointError
from pa_lite.opening import read_regular

_MAX_BYTES = 1 << 28  # Gemma's, the largest known, has 4 MB
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf wire types
_BPE = 2  # TrainerSpec.ModelType
_KINDS = {1: "Unigram", 3: "word", 4: "character"}


@dataclass(frozen=True)
class Piece:
    """A token: its text with ▁ for blanks, its score, its type in SentencePiece's numbers, which are llama.cpp's."""

    text: str
    score: float
    type: int


@dataclass(frozen=True)
class SentencePieceModel:
    """The pieces in order of their ids, and whether a blank is put before a text."""

    pieces: list[Piece]
    add_dummy_prefix: bool


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("a number is cut off")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _fields(data: memoryview) -> Iterator[tuple[int, int, int, memoryview]]:
    """The fields of a message: (number, wire type, value of a varint, bytes of any other)."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        value, length = 0, 0
        if wire == _VARINT:
            value, at = _varint(data, at)
        elif wire == _BYTES:
            length, at = _varint(data, at)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire} is unknown")
        if length > len(data) - at:
            raise ValueError(f"a field tells of {length} bytes where {len(data) - at} are left")
        yield number, wire, value, data[at : at + length]
        at += length


def _piece(data: memoryview) -> Piece:
    text, score, kind = "", 0.0, NORMAL
    for number, wire, value, raw in _fields(data):
        if (number, wire) == (1, _BYTES):
            text = bytes(raw).decode("utf-8")
        elif (number, wire) == (2, _FIXED32):
            (score,) = struct.unpack("<f", raw)
        elif (number, wire) == (3, _VARINT):
            kind = value
    if not text or not math.isfinite(score) or not 1 <= kind <= 6:
        raise ValueError(f"piece {text!r} has score {score} and type {kind}")
    return Piece(text, score, kind)


def _setting(data: memoryview, field: int, default: int) -> int:
    """A whole number among a specification's fields."""
    for number, wire, value, _ in _fields(data):
        if (number, wire) == (field, _VARINT):
            default = value
    return default


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Read a tokenizer.model.

    Raises CheckpointError for a file that is cut off or no such model, and for one that was not trained as BPE, the
    only kind that llama.cpp's tokenizer gives the same ids for.
    """
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise ValueError(f"{size} bytes are too many")
        raw = read_regular(path)
        check_text(path, raw, size)
        return _model(memoryview(raw))
    except OSError as e:
        raise CheckpointError(f"{path}: cannot be read: {e.strerror}") from e
    except ValueError as e:
        raise CheckpointError(f"{path}: is no SentencePiece model, or is damaged: {e}. Fetch it again.") from e


def _model(data: memoryview) -> SentencePieceModel:
    pieces: list[Piece] = []
    kind, prefix = _BPE, True
    for number, wire, _, raw in _fields(data):
        if wire != _BYTES:
            continue
        if number == 1:
            pieces.append(_piece(raw))
        elif number == 2:  # trainer_spec
            kind = _setting(raw, 3, kind)
        elif number == 3:  # normalizer_spec
            prefix = bool(_setting(raw, 3, int(prefix)))
        if len(pieces) > MAX_TOKENS:
            raise ValueError(f"it has more than {MAX_TOKENS} pieces")
    if not pieces:
        raise ValueError("it has no pieces")
    if kind != _BPE:
        raise ValueError(f"it is a {_KINDS.get(kind, kind)} model, for which llama.cpp would give other ids")
    return SentencePieceModel(pieces, prefix)
