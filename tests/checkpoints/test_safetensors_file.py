from __future__ import annotations

import contextlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from pa_lite.checkpoints.safetensors_file import read_header, read_json
from pa_lite.errors import CheckpointError


def raw_file(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(shape: list[Any], begin: Any, end: Any, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_reads_what_the_safetensors_package_writes(tmp_path: Path) -> None:
    arrays = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones(5, np.float32)}
    save_file(arrays, tmp_path / "x.safetensors")
    found = read_header(tmp_path / "x.safetensors")
    data = (tmp_path / "x.safetensors").read_bytes()
    for name, values in arrays.items():
        assert found[name].shape == values.shape
        start = found[name].offset
        assert data[start : start + values.nbytes] == values.tobytes()


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": entry([2], 0, 4)}, "4 bytes do not hold F32"),
        ({"a": entry([2], 0, 8), "b": entry([1], 4, 8)}, "overlaps"),
        ({"a": entry([1], 0, 4), "b": entry([0], 4, 4)}, "describes"),
        ({"a": entry([1], 4, 8)}, "leaves a gap"),
        ({"a": entry([-1, -2], 0, 8)}, "must be integers"),
        ({"a": entry([2**62, 2**62], 0, 8)}, "must be integers"),
        ({"a": entry([True, 2], 0, 8)}, "must be integers"),
        ({"a": entry([1] * 100_000, 0, 4)}, "100000 dimensions"),
        ({"a": entry([2], 0, 8, "Q8")}, "unknown dtype"),
        ({"a": 3}, "broken header entry"),
        ({"a": entry([4], 0, 16)}, "cut off or damaged"),
        ([1], "not a JSON object"),
        (b"{", "broken safetensors header"),
        (b"\xff\xfe", "broken safetensors header"),
        (b"[" * 50_000, "broken safetensors header: it is nested more than 64 deep"),
        (b'{"a": 1, "a": 1}', "broken safetensors header: duplicate key 'a'"),
        (b'{"a": NaN}', "broken safetensors header: it has NaN"),
        (b'{"a": 1e999}', "broken safetensors header: the number 1e999 is too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "broken safetensors header: .*4300 digits"),
        (b'{"\\ud800": 1}', "broken safetensors header: it contains a lone surrogate"),
    ],
)
def test_wrong_headers_are_rejected(tmp_path: Path, header: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_header(raw_file(tmp_path / "x.safetensors", header, bytes(8)))


@pytest.mark.parametrize("length", [2**63, 10_000, 0])
def test_impossible_header_lengths_are_rejected(tmp_path: Path, length: int) -> None:
    with pytest.raises(CheckpointError, match=r"cut off|broken"):
        read_header(raw_file(tmp_path / "x.safetensors", {}, b"", length))


@given(st.binary(max_size=200))
def test_any_bytes_are_rejected_or_read(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x.safetensors"
    path.write_bytes(data)
    with contextlib.suppress(CheckpointError):
        assert read_header(path) == {}  # random bytes this short can only be an empty header


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_rejected_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match="is not a regular file"):
        read_header(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="is not a regular file"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"vocab_size": 1, "vocab_size": 2}', "duplicate key 'vocab_size'"),
        (b"[" * 100_000, "nested more than 64 deep"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'{"a": "\xff"}', "can't decode byte 0xff"),
        (b'{"a": ' + b"9" * 5000 + b"}", "4300 digits"),
        (b" ", "Expecting value"),
    ],
)
def test_invalid_json_is_rejected(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=rf"config\.json: cannot be read as JSON: .*{message}"):
        read_json(tmp_path / "config.json")


def test_a_huge_sparse_file_is_rejected_unread(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as f:
        f.truncate(1 << 40)
    with pytest.raises(CheckpointError, match="1099511627776 bytes are too many"):
        read_json(tmp_path / "config.json")
