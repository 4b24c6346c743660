"""Reject, or keep and count, values that an output type cannot hold: NaN, infinities, numbers too large."""

from __future__ import annotations

import math
import threading

import numpy as np

from pa_lite.errors import CheckpointError
from pa_lite.ggml.kernels import ByteArray, FloatArray, TensorType, to_float32

# the smallest magnitude that rounds to infinity: half a step above the largest number of the type
_ROUNDS_TO_INFINITY = {"F32": math.inf, "F16": 65520.0, "BF16": (2 - 2**-8) * 2.0**127}
# quantised types: scales are float16, so larger values may make a scale infinite ...
_DOUBTFUL = 65504.0
# ... and above this, squares and cubes overflow in ggml's quantisers, some of which then abort
_QUANTISED_LIMIT = 1e7


class Nonfinite:
    """Thread-safe count, by tensor, of the NaN and infinite values that were kept in one output."""

    def __init__(self) -> None:
        self.by_tensor: dict[str, int] = {}
        self._lock = threading.Lock()

    def add(self, name: str, count: int) -> None:
        with self._lock:
            self.by_tensor[name] = self.by_tensor.get(name, 0) + count

    def summary(self) -> str:
        """Return a sentence with the number of values and their tensors, empty when there are none."""
        if not self.by_tensor:
            return ""
        found = sorted(self.by_tensor.items(), key=lambda entry: (-entry[1], entry[0]))
        shown = ", ".join(f"{n} in {name}" for name, n in found[:10]) + (", ..." if len(found) > 10 else "")
        total = sum(self.by_tensor.values())
        return f"kept {total} non-finite value{'' if total == 1 else 's'}: {shown}"


def check_values(
    name: str, tensor_type: TensorType, lam: float, values: FloatArray, first_row: int, allowed: Nonfinite | None
) -> bool:
    """Check that `values`, float32 [rows, columns] that start at `first_row` of the tensor, can be rounded to the type.

    Return whether the scales of a quantised type may still overflow: `check_quantised` must then check the result.
    With `allowed`, NaN, infinities and values that become infinite are counted there if the type is F32, F16 or BF16.
    Otherwise they raise CheckpointError, which names tensor, value, row and column.
    """
    limit = _QUANTISED_LIMIT if tensor_type.block > 1 else _ROUNDS_TO_INFINITY[tensor_type.name]
    low, high = float(values.min()), float(values.max())  # NaN, if any value is
    if -limit < low and high < limit:
        return tensor_type.block > 1 and not -_DOUBTFUL <= low <= high <= _DOUBTFUL
    wrong = ~(np.abs(values) < limit)
    if allowed is not None and tensor_type.block == 1:
        allowed.add(name, int(np.count_nonzero(wrong)))
        return False
    row, column = np.unravel_index(int(wrong.argmax()), values.shape)
    value = float(values[row, column])
    position = f"row {first_row + int(row)}, column {int(column)}"
    if not math.isfinite(value):
        option = "--allow-nonfinite" if tensor_type.block == 1 else f"--tensor-type {name}=BF16 --allow-nonfinite"
        raise CheckpointError(
            f"tensor {name} at lam {lam:g} is not finite ({value:g}) at {position}: base or instruct is damaged, or "
            f"lam is too far outside [0, 1]. Fetch both again, or keep such values with {option}."
        )
    problem = f"tensor {name} at lam {lam:g} is {value:g} at {position}, which {tensor_type.name} cannot hold."
    if tensor_type.block == 1:
        raise CheckpointError(
            f"{problem} Use --type {'BF16 or ' * (tensor_type.name == 'F16')}F32, or store infinity with "
            "--allow-nonfinite."
        )
    raise CheckpointError(f"{problem} {_other_type(name)}")


def check_quantised(name: str, tensor_type: TensorType, lam: float, encoded: ByteArray, spare: FloatArray) -> None:
    """Raise CheckpointError when a quantised block decodes to non-finite values; `spare` is overwritten."""
    to_float32(tensor_type, encoded, spare)
    if not np.isfinite(spare).all():
        raise CheckpointError(
            f"tensor {name} at lam {lam:g} has values too large for the scales of {tensor_type.name}. "
            f"{_other_type(name)}"
        )


def _other_type(name: str) -> str:
    return f"Use another type for it (--tensor-type {name}=BF16, or --type)."
