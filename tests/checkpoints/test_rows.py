"""Compare rows read from a checkpoint with a slow reference: the complete tensor, its rows moved one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pa_lite.checkpoints.checkpoint import Piece, TensorSource
from pa_lite.checkpoints.readers import Readers
from pa_lite.checkpoints.rows import Buffers, RowReader, cut_rows, regions_of, runs
from pa_lite.ggml.kernels import FloatArray, tensor_type
from pa_lite.system.byte_source import stamp_of

GAP = 12  # bytes between the pieces of a tensor


@given(st.lists(st.integers(-1, 6), min_size=1, max_size=30))
def test_runs_copy_each_row_to_its_position(rows: list[int]) -> None:
    source, out = np.arange(7), np.full(len(rows), -1)
    found = runs(np.array(rows, np.int64))
    for start, first, n in found:
        out[start : start + n] = source[first : first + n]
    assert out.tolist() == rows
    assert len(found) <= len(rows)


def test_an_untouched_vocabulary_is_one_run() -> None:
    assert runs(np.arange(1000)) == [(0, 0, 1000)]
    assert runs(np.array([-1, 0, 1, 2, -1])) == [(1, 0, 3)]


def stored(folder: Path, shape: tuple[int, ...], heads: int = 0, n_pieces: int = 1) -> tuple[TensorSource, FloatArray]:
    """Write a tensor of the numbers from 0 to a file. Return it and its stored rows."""
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(-1, shape[-1])
    path = folder / "weights"
    parts = [part.tobytes() for part in np.split(values, n_pieces)]
    path.write_bytes(b"".join(bytes(GAP) + part for part in parts))
    offsets = [GAP + i * (GAP + len(parts[0])) for i in range(n_pieces)]
    pieces = tuple(Piece(path, offset, stamp_of(path)) for offset in offsets)
    return TensorSource(
        name="t", stored_name="t", pieces=pieces, type=tensor_type("F32"), shape=shape, heads=heads
    ), values


def read_all(source: TensorSource, n_values: int, shift: float = 0.0) -> FloatArray:
    """Read all rows, run by run."""
    out = np.full((source.rows, source.columns), np.nan, np.float32)
    with Readers({source.path: source.pieces[0].stamp}, ()) as files:
        reader = RowReader(files.by_path, Buffers())
        for start, stop in cut_rows([source], source.rows, source.columns, n_values, source.rows):
            reader.read(source, start, stop, out[start:stop].reshape(-1), shift=shift)
    return out


@pytest.mark.parametrize("n_values", [1, 10, 24, 50, 1000])
def test_rotary_order_of_a_matrix_and_a_bias(tmp_path: Path, n_values: int) -> None:
    """In a head of 8 rows, output row 2j+t is stored row 4t+j."""
    order = [8 * head + 4 * t + j for head in range(3) for j in range(4) for t in range(2)]
    source, values = stored(tmp_path, (24, 3), heads=3)
    assert np.array_equal(read_all(source, n_values), values[order])
    source, values = stored(tmp_path, (24,), heads=3)
    assert np.array_equal(read_all(source, n_values), values[:, order])


@pytest.mark.parametrize("n_values", [1, 7, 30, 1000])
def test_pieces_are_joined_and_shifted(tmp_path: Path, n_values: int) -> None:
    source, values = stored(tmp_path, (4, 5, 3), n_pieces=4)
    assert [region.nbytes for region in regions_of(source)] == [60] * 4
    assert np.array_equal(read_all(source, n_values, shift=0.5), values + np.float32(0.5))


def test_a_row_map_selects_rows(tmp_path: Path) -> None:
    source, values = stored(tmp_path, (6, 2))
    rows, out = np.array([4, 5, -1, 0, -1, 3]), np.zeros((4, 2), np.float32)
    with Readers({source.path: source.pieces[0].stamp}, ()) as files:
        RowReader(files.by_path, Buffers()).read(source, 1, 5, out.reshape(-1), rows)
    assert np.array_equal(out[[0, 2]], values[[5, 0]])


@given(
    st.sampled_from([(24, 4, 0, 1), (24, 4, 3, 1), (60, 3, 0, 5), (7, 1, 0, 1)]),
    st.integers(1, 200),
    st.sampled_from([1, 2, 3]),
)
def test_cuts_cover_every_row_once(facts: tuple[int, int, int, int], n_values: int, n_parts: int) -> None:
    rows, columns, heads, n_pieces = facts
    piece = Piece(Path("x"), 0)
    source = TensorSource(
        name="t",
        stored_name="t",
        pieces=(piece,) * n_pieces,
        type=tensor_type("F32"),
        shape=(rows, columns),
        heads=heads,
    )
    part = rows if rows % n_parts or heads else rows // max(n_parts, n_pieces)
    cuts = list(cut_rows([source], rows, columns, n_values, part))
    assert [row for start, stop in cuts for row in range(start, stop)] == list(range(rows))
    for start, stop in cuts:
        assert start // source.piece_rows == (stop - 1) // source.piece_rows
        assert start // part == (stop - 1) // part
        if heads:
            head = rows // heads
            assert (start % head, stop % head) == (0, 0) or start // head == (stop - 1) // head
            assert (stop - start) % 2 == 0
            assert (stop - start) * columns <= max(n_values, 2 * columns)
