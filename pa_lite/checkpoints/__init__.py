"""Where weights come from: Hugging Face checkpoints, GGUF files, registered pairs. Knows nothing of merging."""

from __future__ import annotations

from pathlib import Path

from pa_lite.checkpoints.gguf_model import open_gguf
from pa_lite.checkpoints.hf import open_hf
from pa_lite.checkpoints.source import Checkpoint
from pa_lite.errors import CheckpointError


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open the checkpoint at a path: a folder with safetensors shards, a .safetensors file, or a GGUF file.

    Reads headers and configuration only. Raises CheckpointError when there is nothing that pa-lite can read.
    """
    path = Path(path)
    if path.is_dir() or (path.is_file() and path.suffix == ".safetensors"):
        return open_hf(path)
    if path.is_file() and path.suffix == ".gguf":
        return open_gguf(path)
    if path.is_file():
        raise CheckpointError(f"{path}: is neither a folder with safetensors files nor a .safetensors or .gguf file.")
    raise CheckpointError(f"{path}: there is no such file or folder.")
