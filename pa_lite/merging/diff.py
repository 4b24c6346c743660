"""The distance of instruct from base: relative norm of the difference and cosine, by tensor group and by layer."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pa_lite.checkpoints import Location, open_pair
from pa_lite.errors import CheckpointError
from pa_lite.ggml.kernels import FloatArray
from pa_lite.merging.groups import GROUPS, group_of, layer_of
from pa_lite.merging.plan import MergePlan, PlanOptions, plan_merge
from pa_lite.merging.stream import Block, BlockWorker, run_blocks
from pa_lite.progress import Progress
from pa_lite.system.machine import cores

# [4]: sums over values of base squared, instruct squared, their product, and the difference squared
_Sums = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Distance:
    """The distance |I - B| / |B| (infinite when B is 0 and I is not), and the cosine of the angle between I and B."""

    relative_norm: float
    cosine: float


@dataclass(frozen=True, kw_only=True)
class Diff:
    """Distances of the whole model, of each group, of each layer, and of each tensor; n is the number of values."""

    n_values: int
    total: Distance
    groups: dict[str, Distance]
    layers: dict[int, Distance]
    tensors: dict[str, Distance]
    remarks: tuple[str, ...]


def _distance(sums: Iterable[_Sums]) -> Distance:
    total = np.zeros(4)
    for found in sums:
        total += found
    base, instruct, product, difference = total.tolist()
    relative = math.sqrt(difference / base) if base else math.inf if difference else 0.0
    scale = math.sqrt(base) * math.sqrt(instruct)
    return Distance(relative, product / scale if scale else 1.0 if not difference else 0.0)


def diff_checkpoints(
    base: str | Location,
    instruct: str | Location,
    threads: int = 0,
    progress: Progress | None = None,
    stream: bool = False,
) -> Diff:
    """Measure the distance between two checkpoints, reading both once. `progress` gets the values done.

    Checkpoints on the Hub are downloaded first (the phase `download`); with `stream` they are read from there. Rows
    that only one side has (added tokens) do not count. Raises as opening and planning a merge of the two do.
    """
    left, right = open_pair(base, instruct, stream, progress)
    plan = plan_merge(left, right, PlanOptions(type="F32", force=True))
    sums = _sums(plan, threads or cores(), progress)
    groups = [g for g in GROUPS if any(group_of(n) == g for n in sums)]
    layers = sorted({layer for name in sums if (layer := layer_of(name)) is not None})
    return Diff(
        n_values=plan.n_values,
        total=_distance(sums.values()),
        groups={g: _distance(s for n, s in sums.items() if group_of(n) == g) for g in groups},
        layers={i: _distance(s for n, s in sums.items() if layer_of(n) == i) for i in layers},
        tensors={name: _distance([s]) for name, s in sums.items()},
        remarks=(*plan.remarks, *plan.doubts),
    )


def _products(base: FloatArray, instruct: FloatArray, difference: FloatArray) -> _Sums:
    """Return the sums over the float32 values of one block, computed in float64 if float32 overflows."""
    pairs = ((base, base), (instruct, instruct), (base, instruct), (difference, difference))
    with np.errstate(over="ignore", invalid="ignore"):
        found = np.array([np.dot(a, b) for a, b in pairs], np.float64)
        if np.isfinite(found).all():
            return found
        return np.array([np.dot(a.astype(np.float64), b.astype(np.float64)) for a, b in pairs])


def _sums(plan: MergePlan, threads: int, progress: Progress | None) -> dict[str, _Sums]:
    tensors = [t for t in plan.tensors if t.base is not None]
    out = {t.name: np.zeros(4) for t in tensors}
    lock, total, done = threading.Lock(), sum(t.n_values for t in tensors), 0

    def handle(worker: BlockWorker, block: Block) -> None:
        nonlocal done
        base, instruct = worker.sides(block, (0.5,))
        maps = block.tensor.maps
        if maps is not None:
            here = slice(block.start, block.stop)
            both = (maps.base[here] >= 0) & (maps.instruct[here] >= 0)
            base, instruct = (side.reshape(-1, block.columns)[both].reshape(-1) for side in (base, instruct))
        with np.errstate(over="ignore", invalid="ignore"):
            difference = instruct - base
        if block.tensor.shift:  # compare the weights that the network uses, which are those of a GGUF file
            shift = np.float32(block.tensor.shift)
            base, instruct = base + shift, instruct + shift
        found = _products(base, instruct, difference)
        if not np.isfinite(found).all():
            raise CheckpointError(
                f"tensor {block.tensor.name} has non-finite values in base or instruct, so there is no distance. "
                "Fetch both again."
            )
        with lock:
            out[block.tensor.name] += found
            done += block.n_values
            if progress is not None:
                progress("diff", done, total, "values")

    run_blocks(tensors, threads, handle)
    return out
