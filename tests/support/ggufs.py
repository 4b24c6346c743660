"""Small GGUF files for tests: a header with space for its tensors, split files, damaged models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pa_lite.ggml.container import GgufTensor, gguf_header_bytes, read_gguf_header
from pa_lite.ggml.kernels import TensorType
from pa_lite.ggml.metadata import Field, Metadata
from pa_lite.system.atomic import reserve

_REPOSITORY = r"general\.base_model\.\d\.(organization|repo_url)"


def write_gguf_header(
    path: Path, architecture: str, metadata: Metadata, tensors: Mapping[str, tuple[TensorType, tuple[int, ...]]]
) -> dict[str, GgufTensor]:
    """Write a GGUF file's header and extend the file to hold its tensors; return their offsets.

    Raises OSError when the disk is full.
    """
    header, placed, size = gguf_header_bytes(architecture, metadata, tensors)
    path.write_bytes(header)
    with path.open("r+b") as file:
        reserve(file, size)
    return placed


def without_repositories(path: Path) -> bytes:
    """Return a merged file's bytes without the keys that name the repositories on the Hub of its two sides."""
    found = read_gguf_header(path)
    kept = {key: e for key, e in found.metadata.items() if not re.fullmatch(_REPOSITORY, key)}
    architecture = str(kept.pop("general.architecture").value)
    tensors = {name: (t.type, t.shape) for name, t in found.tensors.items()}
    header, placed, _ = gguf_header_bytes(architecture, kept, tensors)
    data = path.read_bytes()[min(t.offset for t in found.tensors.values()) :]
    return header.ljust(min(t.offset for t in placed.values()), b"\0") + data


def spoil(path: Path) -> None:
    """Set the last norm of an F32 model to NaN, so that all its logits are NaN."""
    norm = read_gguf_header(path).tensors["output_norm.weight"]
    with path.open("r+b") as f:
        f.seek(norm.offset)
        f.write(np.full(norm.shape, np.nan, np.float32).tobytes())


def split_gguf(path: Path, folder: Path, count: int) -> list[Path]:
    """Split a GGUF file into parts as llama.cpp's splitter does."""
    whole = read_gguf_header(path)
    data = path.read_bytes()
    names, parts = list(whole.tensors), []
    for i in range(count):
        mine = names[i::count]
        metadata: Metadata = {"split.no": Field("UINT16", i), "split.count": Field("UINT16", count)}
        metadata["split.tensors.count"] = Field("INT32", len(names))
        if i == 0:
            metadata |= {k: v for k, v in whole.metadata.items() if k != "general.architecture"}
        part = folder / f"model-{i + 1:05d}-of-{count:05d}.gguf"
        places = write_gguf_header(
            part, "llama", metadata, {n: (whole.tensors[n].type, whole.tensors[n].shape) for n in mine}
        )
        with part.open("r+b") as f:
            for name in mine:
                f.seek(places[name].offset)
                f.write(data[whole.tensors[name].offset :][: whole.tensors[name].nbytes])
        parts.append(part)
    return parts
