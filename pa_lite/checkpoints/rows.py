"""Read rows of tensors as llama.cpp orders them, in float32, whatever type, order and files they are stored in.

Only this module knows how stored bytes become values; its callers get numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pa_lite.checkpoints.checkpoint import TensorSource
from pa_lite.checkpoints.readers import Read, Region
from pa_lite.ggml.kernels import ByteArray, FloatArray, to_float32
from pa_lite.system.byte_source import ByteSource

RowMap = npt.NDArray[np.int64]  # for each output row its stored row, -1 for none


class Buffers:
    """The named buffers of one thread, which are reused and grow to the largest size requested."""

    def __init__(self) -> None:
        self._held: dict[str, ByteArray] = {}

    def bytes(self, name: str, n: int) -> ByteArray:
        """Return the buffer of that name, uint8 [n], with undefined content."""
        held = self._held.get(name)
        if held is None or held.nbytes < n:
            self._held[name] = held = np.empty(n, np.uint8)
        return held[:n]

    def floats(self, name: str, n: int) -> FloatArray:
        """Return the same as float32 [n]."""
        return self.bytes(name, 4 * n).view(np.float32)


class RowReader:
    """Reader of tensors' rows from open files, with the buffers of one thread."""

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

        `start` and `stop` must come from `cut_rows`. With `rows`, row i is the stored row `rows[i]`; rows of -1 are
        undefined. Raises CheckpointError when the file has changed or cannot be read.
        """
        # 1. the size of a row; a bias of rotated heads is a matrix of one column, because its values move like rows
        row_bytes, n_rows, piece_rows = source.type.nbytes(source.columns), source.rows, source.piece_rows
        if source.heads and len(source.shape) == 1:
            start, stop = 0, source.columns
            row_bytes, n_rows, piece_rows = source.type.nbytes(1), source.columns, source.columns
        head = n_rows // source.heads if source.heads else 0
        # 2. read the stored rows of this range, one read for each consecutive run
        raw = self._buffers.bytes("raw", row_bytes * (stop - start))
        for at, first, n in _stored_runs(start, stop, head, rows):
            index, row = divmod(first, piece_rows)
            piece = source.pieces[index]
            part = raw[at * row_bytes : (at + n) * row_bytes]
            self._files[piece.path](part, piece.offset + row_bytes * row)
        # 3. rotary order: output rows 2j and 2j+1 are row j of a head's first and of its second half. So rows were read
        # as [heads, 2, half] and must become [heads, half, 2]; the same holds for part of a head
        if head:
            half = min(head, stop - start) // 2
            reordered = self._buffers.bytes("turned", raw.nbytes)
            np.copyto(reordered.reshape(-1, half, 2, row_bytes), raw.reshape(-1, 2, half, row_bytes).swapaxes(1, 2))
            raw = reordered
        # 4. convert to float32
        to_float32(source.type, raw, out)
        if shift:
            out += np.float32(shift)


def _stored_runs(start: int, stop: int, head: int, rows: RowMap | None) -> Iterator[tuple[int, int, int]]:
    """Yield the runs of stored rows for the rows [start, stop), as `runs` does."""
    if rows is not None:
        yield from runs(rows[start:stop])
    elif stop - start < head:
        # part of one head: half of its rows are from the head's first half, half from its second
        n = (stop - start) // 2
        first = start - start % head // 2
        yield 0, first, n
        yield n, first + head // 2, n
    else:
        yield 0, start, stop - start


def runs(rows: RowMap) -> list[tuple[int, int, int]]:
    """Cut a row map into runs of consecutive stored rows: (output row, first stored row, number of rows).

    Rows of -1 are skipped.
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

    No run crosses from one piece of a source to the next, or a multiple of `part`. If a head's rows are reordered, a
    run has complete heads or an even number of rows of one head. The sources have the same shape.
    """
    step = max(1, n_values // columns)
    part = min([part, *(s.piece_rows for s in sources if len(s.pieces) > 1)])
    heads = {s.rows // s.heads for s in sources if s.heads and len(s.shape) > 1}  # a bias has one row
    if heads:
        (head,) = heads
        step = step // head * head if step >= head else max(2, step // 2 * 2)
        part = part if step >= head else head
    for first in range(0, rows, part):
        for start in range(first, first + part, step):
            yield start, min(first + part, start + step)


def regions_of(source: TensorSource) -> list[Region]:
    """Return the region of each piece of a tensor, for ReadAhead."""
    nbytes = source.type.nbytes(source.piece_rows * source.columns)
    return [Region(piece.path, piece.offset, nbytes) for piece in source.pieces]
