"""The data classes of a checkpoint: tensors and their positions in files, metadata, a vocabulary."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pa_lite.ggml.kernels import TensorType
from pa_lite.ggml.metadata import Metadata
from pa_lite.ggml.packed import PackedNumbers, PackedTexts
from pa_lite.system.byte_source import ByteSource, Stamp


@dataclass(frozen=True)
class Piece:
    """The start of a run of a tensor's rows: file, offset in bytes, and the file's stamp when its header was read."""

    path: ByteSource
    offset: int
    stamp: Stamp | None = None


@dataclass(frozen=True, kw_only=True)
class TensorSource:
    """A tensor under its GGUF name: the position of its bytes, and how to reorder its rows for llama.cpp.

    `shape` is numpy's, rows first. All pieces have the same number of rows; only stacked experts have several. With
    `heads` > 0 each head's rows are interleaved, first half with second: output row 2j+t of a head of d rows is stored
    row t*d/2+j (from Hugging Face's to llama.cpp's rotary order). `shift` is added to every value. `changes` are an
    adapter's, applied in order to the stored values.
    """

    name: str
    stored_name: str
    pieces: tuple[Piece, ...]
    type: TensorType
    shape: tuple[int, ...]
    heads: int = 0
    shift: float = 0.0
    changes: tuple[Change, ...] = ()

    @property
    def path(self) -> ByteSource:
        """The file with the tensor's first piece."""
        return self.pieces[0].path

    @property
    def piece_rows(self) -> int:
        """The number of rows in each piece."""
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

    @property
    def sources(self) -> tuple[TensorSource, ...]:
        """The tensor itself, and those that its changes are computed from."""
        return (self, *(source for change in self.changes for source in change.sources))

    def is_stored_as(self, other: TensorSource) -> bool:
        """Return whether both have the same stored values, changes aside."""
        mine, its = (replace(source, name="", changes=()) for source in (self, other))
        return self.pieces is other.pieces and mine == its


@dataclass(frozen=True, kw_only=True)
class Factor:
    """A factor of a low-rank change: a stored matrix, or its transpose, of which the columns `first::step` count."""

    source: TensorSource
    is_transposed: bool = False
    first: int = 0
    step: int = 1


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """`scale * left @ right`, added to `rows` rows of a tensor from row `start` on.

    `left` is [rows, rank] and `right` [rank, columns].
    """

    start: int
    rows: int
    rank: int
    scale: float
    left: Factor
    right: Factor

    @property
    def sources(self) -> tuple[TensorSource, ...]:
        return self.left.source, self.right.source


@dataclass(frozen=True, kw_only=True)
class NewRows:
    """Values that replace some rows of a matrix: row i of `values` becomes row `rows[i]`."""

    rows: tuple[int, ...]
    values: TensorSource

    @property
    def sources(self) -> tuple[TensorSource, ...]:
        return (self.values,)


@dataclass(frozen=True, kw_only=True)
class Addend:
    """`scale * values`, added to a vector."""

    scale: float
    values: TensorSource

    @property
    def sources(self) -> tuple[TensorSource, ...]:
        return (self.values,)


Change = LowRank | NewRows | Addend


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """A tokenizer as GGUF metadata (`tokenizer.*`), with its tokens for comparison.

    `remarks` say which of several contradictory files was followed.
    """

    metadata: Metadata
    tokens: Sequence[str]
    token_types: Sequence[int]
    remarks: tuple[str, ...] = ()


def vocabulary_bytes(vocabulary: Vocabulary) -> int:
    """Return an upper bound of the bytes that a vocabulary takes in a GGUF file."""
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


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model: its weights and all that llama.cpp needs to know about it.

    `metadata` has the architecture's keys; `constants` are tensors computed from the configuration (float32).
    `load_vocabulary` reads the tokenizer and raises CheckpointError for one that is missing or unknown; given the
    `Seen` of another side, it does not parse the same files again. `families` are those of the table that the
    checkpoint is or may be of, none for an architecture outside the table. `warnings` describe what GGUF cannot store,
    `remarks` which of several contradictory files was followed. `is_gguf`: metadata come from a GGUF file and are not
    derived here. `is_adapter`: the tensors are those of a base with an adapter's changes. `origin` has `general.*` keys
    on licence and repository, and the `pa_lite.*` keys of a merged file.
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
    is_adapter: bool = False
    origin: Metadata = field(default_factory=dict)
