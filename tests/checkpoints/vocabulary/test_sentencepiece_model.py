from __future__ import annotations

import contextlib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pa_lite.checkpoints.vocabulary.sentencepiece_model import SentencePieceModel, read_sentencepiece
from pa_lite.errors import CheckpointError
from tests.support.folders import PIECES
from tests.support.vocabularies import PieceFacts, message, sentencepiece_model, varint

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
pieces = st.lists(st.tuples(st.text(min_size=1), finite, st.integers(1, 6)), min_size=1, max_size=30)


def facts_of(model: SentencePieceModel) -> list[tuple[str, float, int]]:
    """Return text, score and type of every piece."""
    texts = [text.decode("utf-8") for text in model.texts]
    return list(zip(texts, model.scores.tolist(), model.types.tolist(), strict=True))


@settings(deadline=None)
@given(facts=pieces, prefix=st.booleans())
def test_written_models_are_read_unchanged(
    facts: list[PieceFacts], prefix: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("m") / "tokenizer.model"
    path.write_bytes(sentencepiece_model(facts, dummy_prefix=prefix))
    got = read_sentencepiece(path)
    assert facts_of(read_sentencepiece(path, plain=False)) == facts_of(got)
    assert facts_of(got) == [(str(t), float(np.float32(s)), k) for t, s, k in facts]
    assert got.add_dummy_prefix is prefix


def test_truncated_files_are_refused_unless_cut_between_pieces(tmp_path: Path) -> None:
    whole = sentencepiece_model(PIECES[:6])
    ends = [
        len(b"".join(sentencepiece_model([p])[: -len(sentencepiece_model([]))] for p in PIECES[:n])) for n in range(7)
    ]
    path = tmp_path / "tokenizer.model"
    for length in range(ends[-1]):
        path.write_bytes(whole[:length])
        if length in ends[1:]:
            assert len(facts_of(read_sentencepiece(path))) == ends.index(length)
        else:
            with pytest.raises(
                CheckpointError, match=r"tokenizer.model: is (not a SentencePiece model, or is damaged|an empty file)"
            ):
                read_sentencepiece(path)


@given(data=st.binary(max_size=200), at=st.integers(0, 100))
@settings(max_examples=300)
def test_noise_is_refused_or_read(data: bytes, at: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    whole = sentencepiece_model(PIECES[:8])
    path = tmp_path_factory.mktemp("m") / "tokenizer.model"
    for noise in (data, whole[:at] + data + whole[at:], whole[:at] + data):
        path.write_bytes(noise)
        with contextlib.suppress(CheckpointError):
            assert facts_of(read_sentencepiece(path))


def piece(text: bytes = b"a", score: bytes = b"\0\0\0\0", kind: int = 1) -> bytes:
    return message(1, message(1, text) + varint(2 << 3 | 5) + score + varint(3 << 3) + varint(kind))


@pytest.mark.parametrize(
    ("data", "message_part"),
    [
        (b"", "is an empty file"),
        (piece(b""), "piece ''"),
        (b"\x0a\x00", "piece '' has score 0.0 and type 1"),
        (piece(b"\xff"), "can't decode byte 0xff"),
        (piece(score=b"\0\0\xc0\x7f"), "score nan"),
        (piece(kind=7), "type 7"),
        (piece(kind=0), "type 0"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "a field claims"),
        (b"\x80" * 20, "number is truncated"),
        (b"\x0b", "wire type 3 is unknown"),
        (piece() + message(2, varint(3 << 3) + varint(1)), "is a Unigram model"),
        (piece() + message(2, varint(3 << 3) + varint(9)), "is a 9 model"),
    ],
)
def test_errors_describe_the_damage(data: bytes, message_part: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(data)
    with pytest.raises(CheckpointError, match=message_part):
        read_sentencepiece(tmp_path / "tokenizer.model")


def test_memory_is_bounded_by_the_size_of_the_file(tmp_path: Path) -> None:
    """False lengths take no memory: they are compared with the remaining bytes first."""
    path = tmp_path / "tokenizer.model"
    path.write_bytes(piece() * 1000 + b"\x0a\xff\xff\xff\xff\x07")
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="a field claims 2147483647 bytes"):
        read_sentencepiece(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_sentencepiece(tmp_path / "tokenizer.model")
