"""Files that are not models: the error says what the file is and what to do."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import shutil
import struct
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from pa_lite.checkpoints import open_checkpoint
from pa_lite.checkpoints.safetensors_file import read_header
from pa_lite.errors import CheckpointError
from pa_lite.ggml.container import read_gguf_header
from pa_lite.untrusted.file_kind import FileStart
from tests.support import tiny

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 4987448\n"


def tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("config.json"))
    return out.getvalue()


def zipped(name: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, b"x" * 100)
    return out.getvalue()


CASES = {
    "empty": (b"", r"an empty file \(0 bytes\). Fetch it again"),
    "git-lfs pointer": (POINTER, r"a git-lfs pointer of 132 bytes that stands for a file of 4987448 bytes. Run 'git"),
    "HTML page": (b"<!DOCTYPE html><html lang=en><body>Sign in", "an HTML page of 42 bytes: the download got an error"),
    "HTML after a BOM and spaces": (b"\xef\xbb\xbf\n <html>" + b"x" * 600, "an HTML page of 611 bytes"),
    "XML": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML text of 61 bytes"),
    "server's error text": (b"Entry not found", "a text that begins with 'Entry not found'. Fetch it again"),
    "JSON": (b'{"error": "Repository not found"}', r"a text that begins with '\{"),
    "zip": (zipped("model.bin"), "a zip archive or a PyTorch checkpoint. Unpack it first"),
    "PyTorch": (zipped("archive/data.pkl"), r"a PyTorch checkpoint \(a pickle, which can run code"),
    "old PyTorch": (pickle.dumps({"a": 1}, protocol=2), "a PyTorch checkpoint"),
    "gzip": (gzip.compress(b"x"), "a gzip archive. Unpack it first"),
    "tar": (tar(), "a tar archive. Unpack it first"),
    "GGJT": (struct.pack("<II", 0x67676A74, 3) + bytes(80), "a model in llama.cpp's old GGJT format"),
    "GGML": (struct.pack("<II", 0x67676D6C, 3) + bytes(80), "a model in llama.cpp's old GGML format"),
    "Keras": (b"\x89HDF\r\n\x1a\n" + bytes(80), "an HDF5 file, as TensorFlow and Keras write it"),
    "noise": (b"\x01\xff\xfe" * 40, "neither a GGUF nor a safetensors file, or is cut off. Fetch it again"),
}  # fmt: skip
BIG_ENDIAN = b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + bytes(64)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("ending", ["model.gguf", "model.safetensors", "model.bin", "sha256-4d7a"])
def test_a_file_is_identified_by_its_content_under_any_name(tmp_path: Path, name: str, ending: str) -> None:
    raw, message = CASES[name]
    path = tmp_path / ending
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=f"{ending}: is {message}"):
        open_checkpoint(path)


@pytest.mark.parametrize("name", CASES)
def test_each_reader_says_what_a_file_is(tmp_path: Path, name: str) -> None:
    """Check model.safetensors in a folder, and a file passed to the readers of both formats."""
    raw, _ = CASES[name]
    folder = tiny.write_checkpoint(tmp_path / "m", tiny.weights(1))
    weights = folder / "model.safetensors"
    weights.write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"model.safetensors: is not a safetensors file(, or is cut off| but a)"):
        open_checkpoint(folder)
    with pytest.raises(CheckpointError, match=r"model.safetensors: is not a safetensors file(, or is cut off| but a)"):
        read_header(weights)
    with pytest.raises(CheckpointError, match=r"model.safetensors: is not a GGUF file(, or is cut off| but a)"):
        read_gguf_header(weights)


def test_gguf_and_safetensors_named_as_each_other_are_identified(tmp_path: Path, tiny_ggufs: dict[str, Path]) -> None:
    folder = tiny.write_checkpoint(tmp_path / "m", tiny.weights(1))
    (folder / "model.safetensors").rename(folder / "weights.gguf")
    assert len(open_checkpoint(folder / "weights.gguf").tensors) == 20
    shutil.copy(tiny_ggufs["F16"], tmp_path / "m.safetensors")
    assert open_checkpoint(tmp_path / "m.safetensors").is_gguf
    shutil.copy(tiny_ggufs["F16"], folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model.safetensors: is not a safetensors file but a GGUF file"):
        open_checkpoint(folder)
    with pytest.raises(CheckpointError, match=r"weights.gguf: is not a GGUF file but a safetensors file"):
        read_gguf_header(folder / "weights.gguf")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
                                  "chat_template.jinja", "generation_config.json"])  # fmt: skip
@pytest.mark.parametrize(
    ("raw", "message"), [(POINTER, "a git-lfs pointer"), (b"<html>", "an HTML page"), (b"", "an empty")]
)
def test_small_files_that_are_something_else_are_identified(
    tmp_path: Path, name: str, raw: bytes, message: str
) -> None:
    folder = tiny.write_checkpoint(tmp_path / "m", tiny.weights(1))
    if name == "tokenizer.model":
        (folder / "tokenizer.json").unlink()
    (folder / name).write_bytes(raw)
    with pytest.raises(CheckpointError, match=f"{name}: is {message}"):
        open_checkpoint(folder).load_vocabulary()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (BIG_ENDIAN, r"is a big-endian GGUF file \(for s390x and the like\).* gguf-convert-endian"),
        (b"GGUF" + struct.pack(">IQQ", 2, 0, 0), "is a big-endian GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "is a GGUF file of version 1, which llama.cpp dropped in 2023"),
        (b"GGUF" + struct.pack("<IQQ", 4, 0, 0), r"GGUF version 4 is not supported \(only 2 and 3\)\. Update pa-lite"),
        (b"GGUF", "broken GGUF file: it ends at byte 4"),
    ],
)
def test_unusable_gguf_files_are_explained(tmp_path: Path, raw: bytes, message: str) -> None:
    (tmp_path / "x").write_bytes(raw)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / "x")


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [("F8_E8M0", 8), ("F8_E4M3FNUZ", 8), ("F8_E5M2FNUZ", 8), ("F4", 4), ("F6_E2M3", 6), ("F6_E3M2", 6), ("C64", 64)],
)
def test_weights_of_unsupported_safetensors_dtypes_are_refused_by_name(tmp_path: Path, dtype: str, bits: int) -> None:
    """The header is valid; such a weight is refused by name as part of quantised weights."""
    folder = tiny.write_checkpoint(tmp_path / "m", tiny.weights(1), "F32")
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8:start]), raw[start:]
    more = bytes(64 * bits // 8)
    name = "model.layers.0.mlp.down_proj.weight_scale"
    header[name] = {"dtype": dtype, "shape": [8, 8], "data_offsets": [len(data), len(data) + len(more)]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data + more)
    assert read_header(path)[name].shape == (8, 8)
    with pytest.raises(CheckpointError, match=f"{name} is stored as {dtype}; pa-lite reads .* not quantised"):
        open_checkpoint(folder)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data + more[:-1])
    with pytest.raises(CheckpointError, match="cut off or damaged"):
        read_header(path)


def test_long_git_lfs_pointers_are_parsed_in_linear_time() -> None:
    """Lines are matched separately, because one pattern for all lines took cubic time on a run of line ends."""
    n = 200_000
    texts = [
        POINTER.replace(b"\n", b"\n" * n), POINTER.replace(b"v1", b"v" + b"1" * n), b"version https://" + b"a" * n,
        POINTER[:-10] + b"oid a:a\n" * n, POINTER.replace(b"4987448", b"1" * n), b"version " * n, b"\n" * n + b"v",
        POINTER.replace(b"oid", b"x\n" * n + b"oid"), b"version https://a/spec/1\n" + b" " * n,
    ]  # fmt: skip
    start = time.process_time()
    found = [FileStart(text, len(text)).explanation for text in texts]
    assert time.process_time() - start < 5
    assert "git-lfs pointer" in str(found[0])
    assert "stands for a file of 4987448 bytes" in str(found[7])
    assert "git-lfs pointer" not in str(found[2])
