from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pa_lite.errors import CheckpointError
from pa_lite.ggml.container import read_gguf_header
from pa_lite.ggml.kernels import tensor_type
from pa_lite.ggml.metadata import Field, array, boolean, float32, string, uint32
from tests.support.ggufs import write_gguf_header

METADATA = {
    "general.name": string("größe"),
    "a.count": uint32(7),
    "a.rate": float32(0.5),
    "a.flag": boolean(True),
    "a.texts": array("STRING", ["x", "", "日本"]),
    "a.numbers": array("INT32", [-1, 2, 3]),
}
TENSORS = {"one": (tensor_type("F32"), (5,)), "two": (tensor_type("Q8_0"), (3, 64)), "b": (tensor_type("F16"), (2, 3))}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "x.gguf"
    write_gguf_header(path, "llama", METADATA, TENSORS)
    return path


def test_a_written_header_reads_back(written: Path) -> None:
    header = read_gguf_header(written)
    assert header.metadata.pop("general.architecture") == string("llama")
    assert header.metadata == METADATA
    assert {n: (t.type, t.shape) for n, t in header.tensors.items()} == TENSORS


def test_the_gguf_package_reads_the_same(written: Path) -> None:
    ours = read_gguf_header(written)
    for tensor in gguf.GGUFReader(written).tensors:
        mine = ours.tensors[tensor.name]
        assert (mine.offset, mine.nbytes) == (tensor.data_offset, tensor.n_bytes)
        assert mine.shape == tuple(reversed([int(n) for n in tensor.shape]))


def test_tensor_offsets_are_returned(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    assert write_gguf_header(path, "llama", METADATA, TENSORS) == read_gguf_header(path).tensors
    assert path.stat().st_size % 32 == 0


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_headers_are_refused_or_stay_inside_the_file(data: st.DataObject) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.gguf"
        write_gguf_header(path, "llama", METADATA, TENSORS)
        raw = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, 500))
            raw[at : at + 8] = data.draw(st.binary(min_size=8, max_size=8))
        path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
        try:
            header = read_gguf_header(path)
        except CheckpointError:
            return
        assert all(t.offset + t.nbytes <= path.stat().st_size for t in header.tensors.values())


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "is not a GGUF file but an empty file"),
        (b"GGML" + bytes(40), "is not a GGUF file, or is cut off"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63), "inside the header"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**62), "inside the header"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 8, 2**60), "claims"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 9, 1), "items of unknown type 9"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<I", 77), "unknown value type 77"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"\xff" + struct.pack("<IB", 0, 1), "not valid UTF-8"),
    ],
)
def test_hostile_headers_are_refused(tmp_path: Path, raw: bytes, message: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=message):
        read_gguf_header(path)


def test_duplicate_keys_and_bad_alignment_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    key = struct.pack("<Q", 1) + b"k" + struct.pack("<IB", 0, 1)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + key * 2)
    with pytest.raises(CheckpointError, match="duplicate key"):
        read_gguf_header(path)
    write_gguf_header(path, "llama", {"general.alignment": Field("UINT32", 31)}, {})
    with pytest.raises(CheckpointError, match="alignment is 31"):
        read_gguf_header(path)


def test_truncated_data_is_refused(written: Path) -> None:
    with written.open("r+b") as f:
        f.truncate(written.stat().st_size - 64)
    with pytest.raises(CheckpointError, match="ends after the end of the file"):
        read_gguf_header(written)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        read_gguf_header(tmp_path / "x.gguf")


def test_tensor_data_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    places = write_gguf_header(path, "llama", {}, TENSORS)
    values = np.arange(5, dtype=np.float32)
    with path.open("r+b") as f:
        f.seek(places["one"].offset)
        f.write(values.tobytes())
    read = {t.name: t.data for t in gguf.GGUFReader(path).tensors}
    np.testing.assert_array_equal(read["one"], values)


@pytest.mark.parametrize("name", ["a\nb", "", "a\0", "\x1b[31m", "a\u2028b", "\x85"])
def test_names_that_would_break_a_journal_are_refused(tmp_path: Path, name: str) -> None:
    """A merge writes the names of finished tensors to its journal, one per line."""
    write_gguf_header(tmp_path / "x.gguf", "llama", {}, {name: (tensor_type("F32"), (2,))})
    with pytest.raises(CheckpointError, match=r"x\.gguf: broken GGUF file: a tensor has the invalid name") as caught:
        read_gguf_header(tmp_path / "x.gguf")
    assert str(caught.value).isprintable()
