from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pa_lite.errors import CheckpointError
from pa_lite.ggml import container
from pa_lite.ggml.container import HeaderBytes, gguf_header, gguf_header_bytes, read_gguf_header
from pa_lite.ggml.metadata import Field, array
from pa_lite.ggml.packed import PackedNumbers, PackedTexts, pack_texts

TEXTS = st.lists(st.text(max_size=8), max_size=40)


@given(texts=TEXTS)
def test_packed_strings_are_a_sequence_of_these_strings(texts: list[str]) -> None:
    packed = pack_texts(text.encode() for text in texts)
    assert len(packed) == len(texts)
    assert list(packed) == texts
    assert [packed[i] for i in range(len(texts))] == texts
    assert [packed[-i - 1] for i in range(len(texts))] == texts[::-1]
    assert packed[1:7:2] == texts[1:7:2]
    assert packed == texts
    assert texts == packed
    assert packed == pack_texts(text.encode() for text in texts)
    assert packed != [*texts, "x"]
    assert packed != "".join(texts)
    with pytest.raises(IndexError):
        packed[len(texts)]
    assert packed.data == b"".join(struct.pack("<Q", len(t.encode())) + t.encode() for t in texts)


def test_strings_longer_than_any_token_are_packed() -> None:
    texts = ["x" * n for n in (0, 1, 511, 512, 70_000)]
    assert list(pack_texts(text.encode() for text in texts)) == texts


def test_packed_numbers_are_a_sequence_of_python_numbers() -> None:
    packed = PackedNumbers(np.arange(5, dtype=np.int32))
    assert list(packed) == [0, 1, 2, 3, 4]
    assert type(packed[2]) is int
    assert packed[1:3] == [1, 2]
    assert packed == [0, 1, 2, 3, 4]
    assert [0, 1, 2, 3, 4] == packed  # noqa: SIM300 - also compares from the other side
    assert packed != [0, 1, 2, 3]
    assert packed != PackedNumbers(np.arange(4, dtype=np.int32))


@settings(deadline=None)
@given(texts=TEXTS, numbers=st.lists(st.floats(width=32, allow_nan=False), max_size=20), piece=st.integers(1, 30))
def test_a_header_of_packed_arrays_is_that_of_lists_and_reads_back(
    texts: list[str], numbers: list[float], piece: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lists = {"a": array("STRING", texts), "b": array("FLOAT32", numbers), "c": array("BOOL", [n > 0 for n in numbers])}
    packed = {
        "a": array("STRING", pack_texts(t.encode() for t in texts)),
        "b": array("FLOAT32", PackedNumbers(np.array(numbers, np.float32))),
        "c": array("BOOL", PackedNumbers(np.array([n > 0 for n in numbers], np.bool_))),
    }
    assert isinstance(packed["a"].value, PackedTexts)
    assert packed == lists
    header, _, size = gguf_header_bytes("llama", packed, {})
    assert (header, size) == gguf_header_bytes("llama", lists, {})[::2]
    parts, _, _ = gguf_header("llama", packed, {})
    assert bytes(parts) == header
    assert len(parts) == len(header)
    path = tmp_path_factory.mktemp("m") / "m.gguf"
    path.write_bytes(header)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(container, "MANY", 0)
        patch.setattr(container, "_PIECE", piece)
        found = read_gguf_header(path).metadata
    assert isinstance(found["a"].value, PackedTexts)
    assert isinstance(found["b"].value, PackedNumbers)
    assert {key: found[key] for key in lists} == lists


def _header(count: int, *texts: bytes) -> bytes:
    fields = struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 8, count)
    body = b"".join(struct.pack("<Q", len(text)) + text for text in texts)
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + fields + body


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_header(2, b"x", b"\xff"), "is not valid UTF-8"),
        (_header(2, b"x" * 20), "it ends at byte 77, inside the header"),
        (_header(2, b"x" * 20) + struct.pack("<Q", 1 << 62), "it ends at byte 85, inside the header"),
        (_header(2, b"x" * 20) + b"\0\0", "it ends at byte 79, inside the header"),
        (_header(1 << 40, b"x"), "an array claims 1099511627776 strings"),
    ],
)
@pytest.mark.parametrize("piece", [1, 7, 1 << 18])
def test_broken_arrays_of_strings_are_rejected(
    content: bytes, message: str, piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "MANY", 0)
    monkeypatch.setattr(container, "_PIECE", piece)
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_gguf_header(tmp_path / "m.gguf")


def test_the_value_of_a_field_stays_packed() -> None:
    packed: Any = pack_texts([b"a"])
    assert array("STRING", packed).value is packed
    assert array("STRING", ("a",)) == Field("ARRAY", ["a"], "STRING")


def test_a_header_in_parts_is_compared_like_one_piece() -> None:
    """The parts are of lengths at which a piece ends, within it and beyond; the file is longer, the same or cut off."""
    parts = (b"GGUF", bytes(range(256)) * 3000, memoryview(b"x" * 5), b"end")
    header, whole = HeaderBytes(parts), b"".join(parts)
    assert [header.start(n) for n in (0, 3, 4, 5, 4096, len(whole), len(whole) + 1)] == [
        whole[:n] for n in (0, 3, 4, 5, 4096, len(whole), len(whole) + 1)
    ]
    assert header.begins(io.BytesIO(whole))
    assert header.begins(io.BytesIO(whole + b"data"))
    assert not header.begins(io.BytesIO(whole[:-1]))
    for i in (0, 4, 1 << 18, len(whole) - 1):
        assert not header.begins(io.BytesIO(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :]))
