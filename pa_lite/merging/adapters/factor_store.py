"""Factors on the disk until all ranks are known, and the adapter's GGUF file that is written from them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pa_lite.checkpoints.adapters.names import EMBEDDING
from pa_lite.errors import CheckpointError, InputChangedError
from pa_lite.ggml.container import PlacedHeader, gguf_header
from pa_lite.ggml.kernels import TensorType
from pa_lite.ggml.metadata import Metadata
from pa_lite.merging.adapters.low_rank import Factors
from pa_lite.merging.adapters.plan import Carried

_DTYPES: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4")}
_ROWS = 4096  # rows of a factor in memory at a time, where it is written as it is stored
_Stored = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class _Position:
    """A factor's position in the store: its offset in bytes, its rows, and the rank that is stored."""

    offset: int
    rows: int
    rank: int


class FactorStore:
    """The factors of all tensors, in a file that belongs to the caller, as numbers of the adapter's type."""

    def __init__(self, file: BinaryIO, factor_type: TensorType) -> None:
        self._file, self._type, self._dtype = file, factor_type, _DTYPES[factor_type.name]
        self._held: dict[str, list[tuple[_Position, _Position]]] = {}
        self._end = 0

    def add(self, name: str, factors: Factors) -> None:
        """Store the factors of a tensor's next matrix. Raises CheckpointError for values beyond the type's range."""
        left, right = (self._append(name, a, factors.rank) for a in (factors.left, factors.right))
        self._held.setdefault(name, []).append((left, right))

    def _append(self, name: str, values: npt.NDArray[np.float32], rank: int) -> _Position:
        position = _Position(offset=self._end, rows=len(values), rank=rank)
        self._file.seek(self._end)
        for start in range(0, len(values), _ROWS):
            with np.errstate(over="ignore"):
                part = np.ascontiguousarray(values[start : start + _ROWS, :rank], self._dtype)
            if not np.isfinite(part).all():
                raise CheckpointError(f"tensor {name}: the factors exceed the range of {self._type.name}. Use F32.")
            self._file.write(part.data)
            self._end += part.nbytes
        return position

    def _read(self, position: _Position, start: int, stop: int, rank: int) -> _Stored:
        """Return the rows [start, stop) of a factor with `rank` columns, of which those not stored are 0."""
        n = (stop - start) * position.rank
        self._file.seek(position.offset + start * position.rank * self._dtype.itemsize)
        raw = self._file.read(n * self._dtype.itemsize)
        if len(raw) != n * self._dtype.itemsize:
            raise InputChangedError("the temporary file of the factors became shorter. Start again.")
        stored = np.frombuffer(raw, self._dtype).reshape(stop - start, position.rank)
        if position.rank >= rank:
            return stored[:, :rank]
        return np.concatenate([stored, np.zeros((stop - start, rank - position.rank), self._dtype)], axis=1)

    def header(
        self, architecture: str, metadata: Metadata, carried: Mapping[str, Carried], ranks: Mapping[str, int]
    ) -> PlacedHeader:
        """Return the header of an adapter in which the tensors have these ranks; those of rank 0 are left out."""
        infos = {}
        for name, rank in ranks.items():
            if rank:
                c = carried[name]
                stack, is_flipped = c.tensor.shape[:-2], name == EMBEDDING
                # llama.cpp looks up rows of the embedding in lora_a, and multiplies with lora_b
                infos[f"{name}.lora_a"] = (self._type, (c.rows, rank) if is_flipped else (*stack, rank, c.columns))
                infos[f"{name}.lora_b"] = (self._type, (c.columns, rank) if is_flipped else (*stack, c.rows, rank))
        return gguf_header(architecture, metadata, infos)

    def write(self, file: BinaryIO, placed: PlacedHeader, ranks: Mapping[str, int]) -> None:
        """Write an adapter with the first ranks of each tensor to an empty file, and sync it."""
        for part in placed.header.parts:
            file.write(part)
        for name, rank in ranks.items():
            if rank:
                is_flipped = name == EMBEDDING
                file.write(bytes(placed.tensors[f"{name}.lora_a"].offset - file.tell()))  # padding
                for left, right in self._held[name]:
                    if is_flipped:
                        self._copy(file, left, rank)
                    else:
                        file.write(np.ascontiguousarray(self._read(right, 0, right.rows, rank).T).data)
                file.write(bytes(placed.tensors[f"{name}.lora_b"].offset - file.tell()))
                for left, right in self._held[name]:
                    self._copy(file, right if is_flipped else left, rank)
        file.write(bytes(placed.size - file.tell()))
        file.flush()
        os.fsync(file.fileno())

    def _copy(self, file: BinaryIO, position: _Position, rank: int) -> None:
        for start in range(0, position.rows, _ROWS):
            rows = self._read(position, start, min(position.rows, start + _ROWS), rank)
            file.write(np.ascontiguousarray(rows).data)
