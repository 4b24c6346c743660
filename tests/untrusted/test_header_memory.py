"""The memory of headers is limited over all files of a checkpoint, and for sparse files."""

from __future__ import annotations

import json
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from pa_lite.checkpoints.gguf_model import read_model_header
from pa_lite.checkpoints.safetensors_file import read_header, read_json
from pa_lite.checkpoints.weight_files import read_folder
from pa_lite.errors import CheckpointError
from pa_lite.ggml.container import read_gguf_header
from pa_lite.ggml.metadata import array, string
from pa_lite.untrusted import header_memory
from tests.support.ggufs import split_gguf, write_gguf_header

_MESSAGE = "up to this file, the headers of the checkpoint take more than 0 MB of memory, the limit for all its files"


def _shards(folder: Path, n: int) -> None:
    weights: dict[str, str] = {}
    for i in range(n):
        entries = {f"t{i}-{k}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for k in range(100)}
        raw = json.dumps(entries).encode()
        (folder / f"s{i}.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw)
        weights |= dict.fromkeys(entries, f"s{i}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}), "utf-8")


def test_headers_of_all_shards_are_limited_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _shards(tmp_path, 8)
    assert len(read_folder(tmp_path).tensors) == 800
    monkeypatch.setattr(header_memory, "MOST", 500_000)
    for i in range(8):
        assert len(read_header(tmp_path / f"s{i}.safetensors")) == 100
    with pytest.raises(CheckpointError, match=rf"s[3-6]\.safetensors: {_MESSAGE}"):
        read_folder(tmp_path)


def test_headers_of_all_parts_of_a_split_model_are_limited_together(
    tiny_ggufs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = split_gguf(tiny_ggufs["F32"], tmp_path, 4)
    whole = read_model_header(parts[0])
    assert len(whole.tensors) == len(read_gguf_header(tiny_ggufs["F32"]).tensors)
    sizes = []
    for part in parts:
        memory = header_memory.HeaderMemory()
        read_gguf_header(part, memory)
        sizes.append(header_memory.MOST - memory._left)
    monkeypatch.setattr(header_memory, "MOST", sum(sizes) - 1)
    for part in parts:
        read_gguf_header(part)
    with pytest.raises(CheckpointError, match=f"00004-of-00004.gguf: {_MESSAGE}"):
        read_model_header(parts[0])
    monkeypatch.setattr(header_memory, "MOST", sum(sizes))
    assert read_model_header(parts[0]).tensors == whole.tensors


@pytest.mark.parametrize("item", [8, 0, 12])
def test_a_huge_array_in_a_sparse_file_is_not_read(tmp_path: Path, item: int) -> None:
    """The array is 64 GB of zeros (empty strings, bytes or numbers) that take no disk space."""
    path = tmp_path / "m.gguf"
    size = {8: 8, 0: 1, 12: 8}[item]
    key = b"tokenizer.ggml.tokens"
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", len(key)) + key
    with path.open("wb") as file:
        file.write(head + struct.pack("<IIQ", 9, item, (64 << 30) // size))
        try:
            file.truncate(65 << 30)
        except OSError:
            pytest.skip("sparse files are not supported here")
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=r"m.gguf: up to this file, the headers .* more than 1024 MB"):
        read_gguf_header(path)
    assert time.monotonic() - start < 20


def test_a_huge_string_in_a_sparse_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 64 << 30))
        try:
            file.truncate(65 << 30)
        except OSError:
            pytest.skip("sparse files are not supported here")
    with pytest.raises(CheckpointError, match=r"m.gguf: up to this file, the headers .* more than 1024 MB"):
        read_gguf_header(path)


def test_small_values_count_as_the_memory_they_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header_memory, "MOST", 100_000)
    many: list[dict[str, Any]] = [
        {f"k{i}": string("") for i in range(400)},
        {f"k{i}": array("UINT8", [0] * 1000) for i in range(3)},
        {f"k{i}": array("STRING", [""] * 1000) for i in range(2)},
    ]
    for i, fields in enumerate(many):
        write_gguf_header(tmp_path / f"{i}.gguf", "llama", fields, {})
        with pytest.raises(CheckpointError, match=_MESSAGE):
            read_gguf_header(tmp_path / f"{i}.gguf")


def test_json_with_many_small_values_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pa_lite.checkpoints.safetensors_file.MOST", 1_000_000)
    (tmp_path / "x.json").write_text('{"a": [' + "[]," * 20_000 + "[]]}", "utf-8")
    with pytest.raises(CheckpointError, match=r"x.json: .* it takes 3 MB of memory; the limit is 0"):
        read_json(tmp_path / "x.json")


def test_the_estimate_is_at_least_the_memory_taken(tmp_path: Path) -> None:
    _shards(tmp_path, 20)
    tracemalloc.start()
    try:
        memory = header_memory.HeaderMemory()
        held = [read_header(tmp_path / f"s{i}.safetensors", memory) for i in range(20)]
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert sum(map(len, held)) == 2000
    assert taken < header_memory.MOST - memory._left
