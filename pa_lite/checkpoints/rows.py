"""Rows of a checkpoint's tensors as llama.cpp has them, in float32: whatever type, order and files they are stored in.

The only place that knows how stored bytes become values. Everything above asks for rows and gets numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pa_lite.checkpoints.checkpoint import TensorSource
from pa_lite.checkpoints.readers import Read, Region
from pa_lite.ggml.kernels import ByteArray, FloatArray, to_float32
from pa_lite.system.byte_source import ByteSource

RowMap = npt.NDArray[np.int64]  # for each row of a result the stored row that it is, -1 for none


class Buffers:
    """One thread's buffers by name, each as large as the largest that was asked for, and reused."""

    def __init__(self) -> None:
        self._held: dict[str, ByteArray] = {}

    def bytes(self, name: str, n: int) -> ByteArray:
        """Return the buffer of that name, uint8 [n]; its content is whatever it held."""
        held = self._held.get(name)
        if held is None or held.nbytes < n:
            self._held[name] = held = np.empty(n, np.uint8)
        return held[:n]

    def floats(self, name: str, n: int) -> FloatArray:
        """Return the same as float32 [n]."""
        return self.bytes(name, 4 * n).view(np.float32)


class RowReader:
    """Reads rows of tensors from open files, into buffers of one thread."""

    def __init__(self, files: Mapping[ByteSource, Read], buffers: Buffers) -> None:
        self._files, self._buffers = files, buffers

    def read(
        self,
        source: TensorSource,
        start: int,
        stop: int,
        out: FloatArray,
        rows: RowMap | None = None,
        shift: float = 0.0,
    ) -> None:
        """Fill `out`, float32 [values], with the rows [start, stop) of a tensor, and add `shift` to each value.

        `start` and `stop` are as `cut_rows` gives them. With `rows`, row i is the stored row `rows[i]`; one that is -1
        gets any values. Raises CheckpointError when the file has changed or cannot be read.
        """
        # 1. what a row is: a bias of rotated heads is a matrix of one column, as its values change places like rows
        row_bytes, n_rows, piece_rows = source.type.nbytes(source.columns), source.rows, source.piece_rows
        if source.heads and len(source.shape) == 1:
            start, stop = 0, source.columns
            row_bytes, n_rows, piece_rows = source.type.nbytes(1), source.columns, source.columns
        head = n_rows // source.heads if source.heads else 0
        # 2. the stored rows that make up these, in as few reads as they lie in
        raw = self._buffers.bytes("raw", row_bytes * (stop - start))
        for at, first, n in _stored_runs(start, stop, head, rows):
            index, row = divmod(first, piece_rows)
            piece = source.pieces[index]
            part = raw[at * row_bytes : (at + n) * row_bytes]
            self._files[piece.path](part, piece.offset + row_bytes * row)
        # 3. rotary order: rows 2j and 2j+1 are rotated together, and stored as row j of a head's first half and of its
        # second. So what was read is [heads, 2, half] rows, and [heads, half, 2] is wanted, for a part of a head too
        if head:
            half = min(head, stop - start) // 2
            turned = self._buffers.bytes("turned", raw.nbytes)
            np.copyto(turned.reshape(-1, half, 2, row_bytes), raw.reshape(-1, 2, half, row_bytes).swapaxes(1, 2))
            raw = turned
        # 4. numbers
        to_float32(source.type, raw, out)
        if shift:
            out += np.float32(shift)


def _stored_runs(start: int, stop: int, head: int, rows: RowMap | None) -> Iterator[tuple[int, int, int]]:
    """Yield the runs of stored rows that rows [start, stop) are made of, as `runs` does."""
    if rows is not None:
        yield from runs(rows[start:stop])
    elif stop - start < head:
        # part of one head: half of it lies in the head's first half, half in its second
        n = (stop - start) // 2
        first = start - start % head // 2
        yield 0, first, n
        yield n, first + head // 2, n
    else:
        yield 0, start, stop - start


def runs(rows: RowMap) -> list[tuple[int, int, int]]:
    """Cut a row map into runs of consecutive source rows: (place in the result, first source row, number of rows).

    Rows that are -1 are in no run.
    """
    cuts = np.flatnonzero((np.diff(rows) != 1) | (rows[:-1] < 0)) + 1
    out = []
    for start, stop in zip([0, *cuts], [*cuts, len(rows)], strict=True):
        if stop > start and rows[start] >= 0:
            out.append((int(start), int(rows[start]), int(stop - start)))
    return out


def cut_rows(
    sources: Sequence[TensorSource], rows: int, columns: int, n_values: int, part: int
) -> Iterator[tuple[int, int]]:
    """Cut `rows` rows into runs [start, stop) of about `n_values` values that can be read from all the sources.

    None has rows of two pieces of a source, which are `part` rows each where both are given, nor goes beyond a multiple
    of `part`. Where a head's rows change places it has whole heads, or an even number of one head's rows. The sources
    are of one shape.
    """
    step = max(1, n_values // columns)
    part = min([part, *(s.piece_rows for s in sources if len(s.pieces) > 1)])
    heads = {s.rows // s.heads for s in sources if s.heads and len(s.shape) > 1}  # a bias is one row, in one run
    if heads:
        (head,) = heads
        step = step // head * head if step >= head else max(2, step // 2 * 2)
        part = part if step >= head else head
    for first in range(0, rows, part):
        for start in range(first, first + part, step):
            yield start, min(first + part, start + step)


def regions_of(source: TensorSource) -> list[Region]:
    """Return where a tensor's bytes lie, piece by piece, for ReadAhead."""
    nbytes = source.type.nbytes(source.piece_rows * source.columns)
    return [Region(piece.path, piece.offset, nbytes) for piece in source.pieces]
