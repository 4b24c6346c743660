"""Values that a result's types cannot hold: NaN, infinities, numbers too large. Refused, or let through and counted."""

from __future__ import annotations

import math
import threading

import numpy as np

from pa_lite.errors import CheckpointError
from pa_lite.ggml.kernels import ByteArray, FloatArray, TensorType, to_float32

# the least magnitude that rounding makes infinite: half a step beyond the largest number of the type
_ROUNDS_TO_INFINITY = {"F32": math.inf, "F16": 65520.0, "BF16": (2 - 2**-8) * 2.0**127}
# of quantised types: a scale is a float16, so larger values may make it infinite ...
_DOUBTFUL = 65504.0
# ... and beyond this, squares and cubes overflow in ggml's quantisers, some of which then end the process
_QUANTISED = 1e7


class Nonfinite:
    """Counts, by tensor, the values of one result that were let through as NaN or infinite; threads add to it."""

    def __init__(self) -> None:
        self.by_tensor: dict[str, int] = {}
        self._lock = threading.Lock()

    def add(self, name: str, count: int) -> None:
        with self._lock:
            self.by_tensor[name] = self.by_tensor.get(name, 0) + count

    def told(self) -> str:
        """A sentence about the values and their tensors; empty when there are none."""
        if not self.by_tensor:
            return ""
        found = sorted(self.by_tensor.items(), key=lambda entry: (-entry[1], entry[0]))
        shown = ", ".join(f"{n} in {name}" for name, n in found[:10]) + (", ..." if len(found) > 10 else "")
        return f"{sum(self.by_tensor.values())} values that are no finite numbers were let through: {shown}"


def check_values(
    name: str, tensor_type: TensorType, lam: float, values: FloatArray, first_row: int, allowed: Nonfinite | None
) -> bool:
    """Whether `values`, float32 [rows, columns] from row `first_row` on, can be rounded to the type.

    True where the type's scales may still overflow: then `check_quantised` must look at the result. With `allowed`,
    NaN, infinities and what becomes infinite are counted there, where the type can hold them: F32, F16 and BF16.
    Raises CheckpointError, naming tensor, value and place, otherwise.
    """
    limit = _QUANTISED if tensor_type.block > 1 else _ROUNDS_TO_INFINITY[tensor_type.name]
    low, high = float(values.min()), float(values.max())  # NaN, if any value is
    if -limit < low and high < limit:
        return tensor_type.block > 1 and not -_DOUBTFUL <= low <= high <= _DOUBTFUL
    wrong = ~(np.abs(values) < limit)
    if allowed is not None and tensor_type.block == 1:
        allowed.add(name, int(np.count_nonzero(wrong)))
        return False
    row, column = np.unravel_index(int(wrong.argmax()), values.shape)
    value = float(values[row, column])
    where = f"tensor {name} at lam {lam:g} has the value {value:g} in row {first_row + int(row)}, column {int(column)}"
    if not math.isfinite(value):
        through = "--allow-nonfinite" if tensor_type.block == 1 else f"--tensor-type {name}=BF16 --allow-nonfinite"
        raise CheckpointError(
            f"{where}, which is no finite number: base or instruct is damaged, or lam too far outside [0, 1]. Fetch "
            f"both again, or let it through with {through}."
        )
    if tensor_type.block == 1:
        raise CheckpointError(
            f"{where}, which {tensor_type.name} cannot hold. Write {'BF16 or ' * (tensor_type.name == 'F16')}F32 "
            "(--type), or let infinity stand for it with --allow-nonfinite."
        )
    raise CheckpointError(f"{where}, which {tensor_type.name} cannot hold. {_other_type(name)}")


def check_quantised(name: str, tensor_type: TensorType, lam: float, encoded: ByteArray, spare: FloatArray) -> None:
    """Raise CheckpointError where a quantised block reads back as no finite numbers; `spare` is overwritten."""
    to_float32(tensor_type, encoded, spare)
    if not np.isfinite(spare).all():
        raise CheckpointError(
            f"tensor {name} at lam {lam:g} has values too large for the scales of {tensor_type.name}. "
            f"{_other_type(name)}"
        )


def _other_type(name: str) -> str:
    return f"Write it in another type (--tensor-type {name}=BF16, or --type)."
