"""Read SentencePiece's tokenizer.model, an untrusted protobuf, without the sentencepiece package.

Format: https://github.com/google/sentencepiece, src/sentencepiece_model.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pa_lite.checkpoints.vocabulary.tokens import MAX_TOKENS, NORMAL
from pa_lite.errors import CheckpointError
from pa_lite.ggml.packed import offsets
from pa_lite.system.opening import read_regular
from pa_lite.untrusted.file_kind import check_text

_MAX_BYTES = 1 << 26  # the largest known, Gemma's, has 4 MB
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf wire types
_BATCH = 1 << 14  # texts decoded at a time
_BPE = 2  # TrainerSpec.ModelType
_MODEL_TYPES = {1: "Unigram", 3: "word", 4: "character"}


@dataclass(frozen=True, kw_only=True)
class SentencePieceModel:
    """The pieces in order of their ids, and whether texts start with a space.

    `texts` are UTF-8 with ▁ for spaces, `scores` float32 [n], `types` int32 [n], numbered as in
    SentencePiece and llama.cpp.
    """

    texts: list[bytes]
    scores: npt.NDArray[np.float32]
    types: npt.NDArray[np.int32]
    add_dummy_prefix: bool


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= end or shift > 63:
            raise ValueError("a number is truncated")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _field(data: bytes, at: int, end: int) -> tuple[int, int, int, int, int]:
    """Read one field of a message: (number, wire type, value of a varint, start and end of its bytes).

    The next field starts at the end.
    """
    tag, at = _varint(data, at, end)
    number, wire = tag >> 3, tag & 7
    value, length = 0, 0
    if wire == _VARINT:
        value, at = _varint(data, at, end)
    elif wire == _BYTES:
        length, at = _varint(data, at, end)
    elif wire in (_FIXED32, _FIXED64):
        length = 4 if wire == _FIXED32 else 8
    else:
        raise ValueError(f"wire type {wire} is unknown")
    if length > end - at:
        raise ValueError(f"a field claims {length} bytes, but only {end - at} are left")
    return number, wire, value, at, at + length


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Read all fields of a message; see `_field`."""
    while at < end:
        found = _field(data, at, end)
        yield found
        at = found[4]


class _Pieces:
    """Collects pieces; for the usual layout only offsets are stored, which is fast."""

    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self._types: list[int] = []
        self._scores: list[int] = []  # offsets in the file, -1 for no score

    def read_plain(self, data: bytes, at: int) -> int:
        """Read pieces in the usual layout (text, score, maybe a one-byte type); return the offset where that ends.

        Does what `read` does, without its calls: a vocabulary can have 262,144 pieces.
        """
        texts, scores, types = self.texts.append, self._scores.append, self._types.append
        end = len(data) - 8
        while at < end and data[at] == 0x0A and data[at + 2] == 0x0A:
            size, length = data[at + 1], data[at + 3]
            score = at + 4 + length
            rest = size - 2 - length  # bytes after the text
            stop = at + 2 + size
            if size >= 0x80 or not 0 < length < 0x80 or rest < 5 or stop > end or data[score] != 0x15:
                break
            if rest == 5:
                types(NORMAL)
            elif rest == 7 and data[score + 5] == 0x18 and data[score + 6] < 0x80:
                types(data[score + 6])
            else:
                break
            texts(data[at + 4 : score])
            scores(score + 1)
            at = stop
        return at

    def read(self, data: bytes, at: int, end: int) -> None:
        """Read one piece of any layout."""
        text, score, token_type = b"", -1, NORMAL
        for number, wire, value, start, stop in _fields(data, at, end):
            if (number, wire) == (1, _BYTES):
                text = data[start:stop]
            elif (number, wire) == (2, _FIXED32):
                score = start
            elif (number, wire) == (3, _VARINT):
                token_type = value
        self.texts.append(text)
        self._scores.append(score)
        self._types.append(min(token_type, 127))

    def finish(self, data: bytes, prefix: bool) -> SentencePieceModel:
        """Return the pieces. Raises ValueError for one with an invalid text, score or type."""
        _check_utf8(self.texts)
        places, types = np.array(self._scores, np.int64), np.array(self._types, np.int32)
        scores = np.zeros(len(places), np.float32)
        raw = np.frombuffer(data, np.uint8)[places[places >= 0][:, None] + np.arange(4)]
        scores[places >= 0] = raw.view("<f4")[:, 0]
        empty = np.fromiter(map(len, self.texts), np.int64, len(self.texts)) == 0
        broken = np.flatnonzero(empty | ~np.isfinite(scores) | (types < 1) | (types > 6))
        if len(broken):
            i = broken[0]
            raise ValueError(f"piece {self.texts[i].decode()!r} has score {scores[i]} and type {types[i]}")
        return SentencePieceModel(texts=self.texts, scores=scores, types=types, add_dummy_prefix=prefix)


def _check_utf8(texts: list[bytes]) -> None:
    """Raise ValueError for a text that is not UTF-8."""
    for first in range(0, len(texts), _BATCH):
        batch = [text for text in texts[first : first + _BATCH] if text]
        joined = b"".join(batch)
        starts = offsets(np.fromiter(map(len, batch), np.int64, len(batch)))[:-1]
        joined.decode("utf-8")
        if (np.frombuffer(joined, np.uint8)[starts] & 0xC0 == 0x80).any():  # one starts inside a character
            for text in batch:
                text.decode("utf-8")


def _setting(data: bytes, at: int, end: int, field: int, default: int) -> int:
    """Return an integer field of a specification."""
    for number, wire, value, _, _ in _fields(data, at, end):
        if (number, wire) == (field, _VARINT):
            default = value
    return default


def read_sentencepiece(path: Path, plain: bool = True) -> SentencePieceModel:
    """Read a tokenizer.model; with `plain` false, without the fast path for the usual layout.

    Raises CheckpointError for a file that is truncated or not such a model, and for a model type other than BPE, for
    which llama.cpp would give other ids.
    """
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise ValueError(f"{size} bytes are over the limit")
        raw = read_regular(path)
        check_text(path, raw, size)
        return _model(raw, plain)
    except OSError as e:
        raise CheckpointError(f"{path}: cannot be read: {e.strerror}") from e
    except ValueError as e:
        raise CheckpointError(f"{path}: is not a SentencePiece model, or is damaged: {e}. Download it again.") from e


def _model(data: bytes, plain: bool) -> SentencePieceModel:
    pieces = _Pieces()
    model_type, prefix, at = _BPE, True, 0
    while at < len(data):
        if plain:
            at = pieces.read_plain(data, at)
        if len(pieces.texts) > MAX_TOKENS:
            raise ValueError(f"it has more than {MAX_TOKENS} pieces")
        if at == len(data):
            break
        number, wire, _, start, at = _field(data, at, len(data))
        if wire != _BYTES:
            continue
        if number == 1:
            pieces.read(data, start, at)
        elif number == 2:  # trainer_spec
            model_type = _setting(data, start, at, 3, model_type)
        elif number == 3:  # normalizer_spec
            prefix = bool(_setting(data, start, at, 3, int(prefix)))
    if not pieces.texts:
        raise ValueError("it has no pieces")
    if model_type != _BPE:
        raise ValueError(
            f"it is a {_MODEL_TYPES.get(model_type, model_type)} model, for which llama.cpp would give other ids"
        )
    return pieces.finish(data, prefix)
