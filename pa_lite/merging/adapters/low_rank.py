"""Approximate a matrix of low rank, reading it in blocks of rows: a randomised SVD in streamed passes.

Method: Halko, Martinsson and Tropp, "Finding structure with randomness", SIAM Review 53 (2011), algorithms 4.4 and 5.1.
Memory is that of the two factors, never of the matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pa_lite.ggml.kernels import FloatArray

DoubleArray = npt.NDArray[np.float64]
# one pass over the matrix: (its first row, rows) in order; rows are float32 [n, columns], valid until the next block
Blocks = Callable[[], Iterator[tuple[int, FloatArray]]]
OVERSAMPLING = 10  # columns of the sketch beyond the rank
_CHUNK = 1024  # rows of a factor that are float64 at a time
_NOISE = 1e-6  # singular values below this share of the largest are rounding noise of float32


@dataclass(frozen=True, kw_only=True)
class Factors:
    """`left @ right.T` approximates a matrix: float32 [rows, k] and [columns, k], of which the first `rank` columns
    count, by falling singular values `values` (float64 [rank]). Each factor has the root of a value in its column.

    `norm2` is the squared Frobenius norm of the matrix.
    """

    left: FloatArray
    right: FloatArray
    values: DoubleArray
    norm2: float

    @property
    def rank(self) -> int:
        return len(self.values)


def sketch_width(rank: int, rows: int, columns: int) -> int:
    """Return the number of columns of both factors while they are computed."""
    return min(rank + OVERSAMPLING, rows, columns)


def factor_bytes(rank: int, rows: int, columns: int) -> int:
    """Return the bytes of memory that `factorise` takes, without the blocks."""
    k = sketch_width(rank, rows, columns)
    return 4 * k * (rows + 2 * columns) + 8 * k * (3 * _CHUNK + 6 * k)


def factorise(blocks: Blocks, rows: int, columns: int, rank: int, passes: int, random: np.random.Generator) -> Factors:
    """Return factors of at most `rank` for a matrix [rows, columns], reading it `passes` times.

    `passes` is even: two, and two more for each power iteration, which brings the error closer to the least possible
    where singular values fall slowly. The result is exact, up to rounding, where the matrix has that rank, or the rank
    is the smaller dimension. Singular values that are rounding noise are left out.
    """
    assert passes >= 2
    assert passes % 2 == 0
    k = sketch_width(rank, rows, columns)
    left = np.empty((rows, k), np.float32)
    right = random.standard_normal((columns, k), np.float32)
    product = np.empty_like(right)
    norm2 = 0.0
    for iteration in range(passes // 2):
        # 1. left = D right spans what D does to the sketch
        if iteration:
            _orthonormalise(right)
        for start, rows_of in blocks():
            np.matmul(rows_of, right, out=left[start : start + len(rows_of)])
            if not iteration:
                norm2 += float(np.einsum("ij,ij->", rows_of, rows_of, dtype=np.float64))
        _orthonormalise(left)
        # 2. right = D^T left, so D is about left right^T
        right[:] = 0
        for start, rows_of in blocks():
            np.matmul(rows_of.T, left[start : start + len(rows_of)], out=product)
            right += product
    # 3. the singular values are those of `right`: with right^T right = U S^2 U^T, D is about (left U) S (right U / S)^T
    squares, turn = np.linalg.eigh(_gram(right))
    squares, turn = squares[::-1], turn[:, ::-1]
    values = np.sqrt(np.maximum(squares[:rank], 0))
    values = values[values > _NOISE * values[0]]
    turn, roots = turn[:, : len(values)], np.sqrt(values)
    _multiply(left, turn * roots)
    _multiply(right, turn / roots)
    return Factors(left=left, right=right, values=values, norm2=norm2)


def _gram(matrix: FloatArray) -> DoubleArray:
    """Return the products of the matrix's columns with each other, summed in float64 [k, k]."""
    total = np.zeros((matrix.shape[1],) * 2)
    for start in range(0, len(matrix), _CHUNK):
        part = matrix[start : start + _CHUNK].astype(np.float64)
        total += part.T @ part
    return total


def _multiply(matrix: FloatArray, turn: DoubleArray) -> None:
    """Replace the matrix's first columns by its product with `turn` [k, n], and the others by 0, in place."""
    n = turn.shape[1]
    for start in range(0, len(matrix), _CHUNK):
        part = matrix[start : start + _CHUNK]
        part[:, :n] = part.astype(np.float64) @ turn
    matrix[:, n:] = 0


def _orthonormalise(matrix: FloatArray) -> None:
    """Replace the columns by an orthonormal basis of what they span, in place; columns left over become 0.

    A QR decomposition would copy the matrix. Through the Gram matrix, small directions lose accuracy, so this is done
    twice: after the first round the columns are almost orthonormal.
    """
    for least in (1e-13, 1e-3):
        squares, turn = np.linalg.eigh(_gram(matrix))
        kept = squares > least * squares[-1]
        _multiply(matrix, turn[:, kept] / np.sqrt(squares[kept]))
