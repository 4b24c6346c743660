"""What a checkpoint is to the rest of pa-lite: named tensors lying in files, metadata, a vocabulary. Reads nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pa_lite.ggml.kernels import TensorType
from pa_lite.ggml.metadata import Metadata
from pa_lite.ggml.packed import PackedNumbers, PackedTexts
from pa_lite.system.byte_source import ByteSource, Stamp


@dataclass(frozen=True)
class Piece:
    """Where a run of a tensor's rows begins: file, bytes from its start, and what the file was when this was read."""

    path: ByteSource
    offset: int
    stamp: Stamp | None = None


@dataclass(frozen=True)
class TensorSource:
    """A tensor under its GGUF name: where its bytes lie and how its rows become llama.cpp's.

    `shape` is numpy's, rows first; every piece holds equally many rows, one piece but for stacked experts. With `heads`
    > 0 each head's rows are interleaved, first half with second: output row 2j+t of a head of d rows is stored row
    t*d/2+j (llama.cpp's rotary order, from the Hugging Face one). `shift` is to be added to every value.
    """

    name: str
    stored_name: str
    pieces: tuple[Piece, ...]
    type: TensorType
    shape: tuple[int, ...]
    heads: int = 0
    shift: float = 0.0

    @property
    def path(self) -> ByteSource:
        """The file that the tensor begins in."""
        return self.pieces[0].path

    @property
    def piece_rows(self) -> int:
        """Rows in each piece."""
        return self.rows // len(self.pieces)

    @property
    def n_values(self) -> int:
        return math.prod(self.shape)

    @property
    def rows(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def columns(self) -> int:
        return self.shape[-1]


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer as GGUF metadata (`tokenizer.*`), with its tokens at hand for comparison.

    `remarks` say which of several files that contradict each other was followed.
    """

    metadata: Metadata
    tokens: Sequence[str]
    token_types: Sequence[int]
    remarks: tuple[str, ...] = ()


def vocabulary_bytes(vocabulary: Vocabulary) -> int:
    """Return how many bytes of a GGUF file a vocabulary takes at most."""
    total = 0
    for key, entry in vocabulary.metadata.items():
        total += len(key) + 64
        if isinstance(entry.value, PackedTexts):
            total += len(entry.value.data)
        elif isinstance(entry.value, PackedNumbers):
            total += entry.value.values.nbytes
        elif entry.type == "ARRAY":
            total += sum(len(str(value).encode()) + 16 for value in entry.value)
        else:
            total += len(str(entry.value).encode())
    return total


@dataclass(frozen=True)
class Checkpoint:
    """One model's weights and all that llama.cpp must know of it.

    `metadata` holds the architecture's keys; `constants` are tensors that come from the configuration and not from the
    weights (float32); `load_vocabulary` reads the tokenizer, raising CheckpointError when there is none it knows (given
    the `Seen` of another side, it does not parse what that had parsed);
    `families` are those of the table that it is of or may be of, none for an architecture outside; `warnings` tell what
    of the model is lost in GGUF, `remarks` which of several files that contradict each other was followed. `is_gguf` is
    whether the metadata are those of a GGUF file, and not made here.
    """

    path: Path
    name: str
    architecture: str
    metadata: Metadata
    tensors: Mapping[str, TensorSource]
    load_vocabulary: Callable[..., Vocabulary]
    families: tuple[str, ...] = ()
    constants: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    is_gguf: bool = False
