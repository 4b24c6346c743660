"""Open LoRA adapters on a base: PEFT's folders and llama.cpp's GGUF files. Others are refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pa_lite.checkpoints.adapters.gguf_adapter import open_gguf_adapter
from pa_lite.checkpoints.adapters.peft_adapter import open_peft_adapter
from pa_lite.checkpoints.checkpoint import Checkpoint
from pa_lite.system.byte_source import ByteSource


def open_adapter(path: Path, base: Checkpoint, elsewhere: Mapping[str, ByteSource]) -> Checkpoint:
    """Return the base with an adapter's changes; `path` is that of `find_adapter`. Only headers are read.

    `elsewhere` maps names of weight files that are not there to their sources. Raises CheckpointError.
    """
    if path.is_dir():
        return open_peft_adapter(path, base, elsewhere)
    return open_gguf_adapter(elsewhere.get(path.name, path), path, base)
