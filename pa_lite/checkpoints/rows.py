"""Read rows of tensors as llama.cpp orders them, in float32, whatever type, order and files they are stored in.

Only this module knows how stored bytes become values; its callers get numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pa_lite.checkpoints.checkpoint import Addend, Factor, LowRank, NewRows, TensorSource
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
        self._right: LowRank | None = None  # the change whose right factor is in the buffer

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
        self._stored(source, start, stop, out, rows)
        self.change(source, start, stop, out, rows)
        if shift:
            out += np.float32(shift)

    def _stored(self, source: TensorSource, start: int, stop: int, out: FloatArray, rows: RowMap | None = None) -> None:
        """Fill `out` with the stored values of rows, without changes; the arguments are those of `read`."""
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

    def change(self, source: TensorSource, start: int, stop: int, out: FloatArray, rows: RowMap | None = None) -> None:
        """Apply a tensor's changes to `out`, its stored values; the arguments are those of `read`."""
        for change in source.changes:
            values = out.reshape(-1, source.columns)
            if isinstance(change, LowRank):
                first, last = start, stop
                if rows is None:  # a change of token rows, which a map reorders, covers all of them
                    first, last = max(start, change.start), min(stop, change.start + change.rows)
                if first < last:
                    self._add_product(change, first, last, values[first - start : last - start], rows)
            elif isinstance(change, NewRows):
                self._replace_rows(change, start, values, rows)
            else:
                self._add(change, out)

    def _add_product(self, change: LowRank, first: int, last: int, values: FloatArray, rows: RowMap | None) -> None:
        """Add the product of the factors to `values`, float32 [rows, columns]: the tensor's rows [first, last)."""
        n, columns = values.shape
        left = self._buffers.floats("left", n * change.rank).reshape(n, change.rank)
        self._read_left(change.left, first - change.start, last - change.start, left, rows)
        right = self._buffers.floats("right", change.rank * columns).reshape(change.rank, columns)
        if self._right is not change:
            self._right = None  # a failed read leaves undefined values in the buffer
            self._read_whole(change.right, right)
            self._right = change
        product = self._buffers.floats("product", values.size).reshape(n, columns)
        np.matmul(left, right, out=product)
        product *= np.float32(change.scale)
        values += product

    def _read_left(self, factor: Factor, first: int, last: int, out: FloatArray, rows: RowMap | None) -> None:
        """Fill `out`, float32 [rows, rank], with the rows [first, last) of a factor; rows that a map lacks become 0."""
        source, (n, rank) = factor.source, out.shape
        if factor.is_transposed:
            # a stored row has the values of all rows for one column: gather the needed part of each
            size = source.type.nbytes(1)
            piece, columns = source.pieces[0], source.columns
            found = runs(rows[first:last]) if rows is not None else [(0, first, n)]
            stored = self._buffers.floats("left as stored", rank * n).reshape(rank, n)
            stored[:] = 0
            for k in range(rank):
                for at, start, count in found:
                    raw = self._buffers.bytes("raw", size * count)
                    self._files[piece.path](raw, piece.offset + size * (columns * k + start))
                    to_float32(source.type, raw, stored[k, at : at + count])
            np.copyto(out, stored.T)
            return
        if factor.step == 1:
            self._stored(source, first, last, out.reshape(-1), rows)
        else:
            wide = self._buffers.floats("left as stored", n * source.columns)
            self._stored(source, first, last, wide, rows)
            np.copyto(out, wide.reshape(n, -1)[:, factor.first :: factor.step])
        if rows is not None:
            out[rows[first:last] < 0] = 0

    def _read_whole(self, factor: Factor, out: FloatArray) -> None:
        """Fill `out`, float32 [rank, columns], with a complete factor."""
        source = factor.source
        if not factor.is_transposed:
            self._stored(source, 0, source.rows, out.reshape(-1))
            return
        stored = self._buffers.floats("right as stored", out.size)
        self._stored(source, 0, source.rows, stored)
        np.copyto(out, stored.reshape(source.shape).T)

    def _replace_rows(self, change: NewRows, start: int, values: FloatArray, rows: RowMap | None) -> None:
        """Replace those rows of `values`, float32 [rows, columns] from row `start` on, that the change has."""
        stop = start + len(values)
        wanted = np.arange(start, stop, dtype=np.int64) if rows is None else rows[start:stop]
        replaced = np.array(change.rows, np.int64)
        order = np.argsort(replaced)
        at = order[np.minimum(np.searchsorted(replaced[order], wanted), len(replaced) - 1)]
        here = np.flatnonzero(replaced[at] == wanted)
        if len(here):
            found = self._buffers.floats("product", len(here) * values.shape[1])
            self._stored(change.values, 0, len(here), found, at[here])
            values[here] = found.reshape(len(here), -1)

    def _add(self, change: Addend, values: FloatArray) -> None:
        addend = self._buffers.floats("product", values.size)
        self._stored(change.values, 0, 1, addend)
        addend *= np.float32(change.scale)
        values += addend


def buffer_sizes(source: TensorSource, rows: int) -> dict[str, int]:
    """Return an upper bound of the bytes of each buffer that reading `rows` rows of a tensor takes, by its name."""
    values = rows * source.columns
    sizes = {"raw": source.type.nbytes(values), "turned": source.type.nbytes(values) if source.heads else 0}
    for change in source.changes:
        found = {"product": 4 * values}
        if isinstance(change, LowRank):
            left, right = change.left.source, change.right.source
            stored = rows * (change.rank if change.left.is_transposed else left.columns)
            raw = left.type.nbytes(rows if change.left.is_transposed else stored)
            found |= {
                "left": 4 * rows * change.rank,
                "left as stored": 4 * stored,
                "right": 4 * right.n_values,
                "right as stored": 4 * right.n_values * change.right.is_transposed,
                "raw": max(raw, right.type.nbytes(right.n_values)),
                "turned": raw if left.heads else 0,
            }
        else:
            found["raw"] = change.values.type.nbytes(values)
        sizes = {name: max(sizes.get(name, 0), found.get(name, 0)) for name in sizes | found}
    return sizes


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
    """Return the region of each piece of a tensor, for ReadAhead; those of its changes are not included."""
    nbytes = source.type.nbytes(source.piece_rows * source.columns)
    return [Region(piece.path, piece.offset, nbytes) for piece in source.pieces]
