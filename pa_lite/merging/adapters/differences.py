"""Read the difference I - B of a pair's tensors, in batches of rows, as often as needed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from pa_lite.checkpoints.readers import Readers
from pa_lite.checkpoints.rows import cut_rows
from pa_lite.errors import CheckpointError
from pa_lite.ggml.kernels import FloatArray
from pa_lite.merging.adapters.plan import BATCH_VALUES
from pa_lite.merging.plan import TensorPlan
from pa_lite.merging.stream import BLOCK_VALUES, Block, BlockWorker
from pa_lite.progress import Counter


class Differences:
    """The differences of a plan's tensors. `read` may be called any number of times; `counter` counts the values."""

    def __init__(self, readers: Readers, counter: Counter) -> None:
        self._worker, self._counter = BlockWorker(readers.by_path), counter
        self._batch: FloatArray = np.empty(0, np.float32)

    def read(self, tensor: TensorPlan, index: int = 0) -> Iterator[tuple[int, FloatArray]]:
        """Yield (first row, rows) of I - B in order, for matrix `index` of a stack: float32 [n, columns].

        The array is valid until the next one is requested. Raises CheckpointError for values that are not finite, and
        when a file cannot be read.
        """
        columns, n_rows = tensor.shape[-1], tensor.shape[-2] if len(tensor.shape) > 1 else 1
        step = max(1, BATCH_VALUES // columns)
        first = index * n_rows
        batch = self._reserve(min(step, n_rows) * columns).reshape(-1, columns)
        held = start = 0
        for low, high in _cuts(tensor, n_rows, first):
            if held + high - low > len(batch):
                yield start, batch[:held]
                start, held = start + held, 0
            self._subtract(Block(tensor, low, high), batch[held : held + high - low])
            held += high - low
        yield start, batch[:held]

    def _reserve(self, n: int) -> FloatArray:
        if self._batch.size < n:
            self._batch = np.empty(n, np.float32)
        return self._batch[:n]

    def _subtract(self, block: Block, out: FloatArray) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            base, instruct = self._worker.sides(block, (0.5,))
            np.subtract(instruct.reshape(out.shape), base.reshape(out.shape), out=out)
            total = float(np.abs(out).max())
        if not math.isfinite(total):
            raise CheckpointError(
                f"tensor {block.tensor.name} has non-finite values in base or instruct, so there is no adapter. "
                "Fetch both again."
            )
        self._counter.add(out.size)


def _cuts(tensor: TensorPlan, n_rows: int, first: int) -> Iterator[tuple[int, int]]:
    """Yield the runs of rows that can be read from both sides, of the matrix that starts at row `first`."""
    rows = math.prod(tensor.shape[:-1])
    for low, high in cut_rows(tensor.sides, rows, tensor.shape[-1], BLOCK_VALUES, n_rows):
        if first <= low < first + n_rows:
            yield low, high


def norm2_of(tensors: Sequence[TensorPlan], differences: Differences) -> dict[str, float]:
    """Return the squared Frobenius norm of each tensor's difference."""
    out = {}
    for tensor in tensors:
        stack = math.prod(tensor.shape[:-2])
        found = (rows for i in range(stack) for _, rows in differences.read(tensor, i))
        out[tensor.name] = sum(float(np.einsum("ij,ij->", rows, rows, dtype=np.float64)) for rows in found)
    return out
