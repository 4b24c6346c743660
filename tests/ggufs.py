"""Writes small GGUF files for tests: a header, and room for the tensors it tells of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pa_lite.checkpoints.gguf_file import GgufTensor, gguf_header_bytes, reserve
from pa_lite.checkpoints.source import Metadata
from pa_lite.kernels import TensorType


def write_gguf_header(
    path: Path, architecture: str, metadata: Metadata, tensors: Mapping[str, tuple[TensorType, tuple[int, ...]]]
) -> dict[str, GgufTensor]:
    """Write a GGUF file's header and make the file as long as its tensors will need; returns where these belong.

    Raises OSError when there is no room for it.
    """
    header, placed, size = gguf_header_bytes(architecture, metadata, tensors)
    path.write_bytes(header)
    reserve(path, size)
    return placed
