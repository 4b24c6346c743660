"""Importance matrices: llama-imatrix's files, GGUF or legacy, and which tensors llama-quantize weighs by them.

An importance is the mean square of what a matrix's column was multiplied by over a calibration text.
"""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pa_lite.errors import CheckpointError, InputError, MismatchError
from pa_lite.ggml.container import GgufHeader, GgufTensor, read_gguf_header
from pa_lite.ggml.gguf_tables import Keys
from pa_lite.ggml.kernels import FloatArray, TensorType
from pa_lite.ggml.quant_types import EMBEDDINGS
from pa_lite.system.byte_source import read_errors
from pa_lite.system.opening import read_regular
from pa_lite.untrusted.file_kind import content_of

_log = logging.getLogger(__name__)
_SUMS, _COUNTS = ".in_sum2", ".counts"
_KEYS = (Keys.IMatrix.DATASETS, Keys.IMatrix.CHUNK_COUNT, Keys.IMatrix.CHUNK_SIZE)
_LARGEST = 1e15  # far above any activation squared; with much more, some of ggml's quantisers end the process
# types that are useless without an imatrix, and those among them that ggml aborts on
_NEEDY = frozenset(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"))
_HELPLESS = frozenset(("IQ1_S", "IQ2_XXS", "IQ2_XS"))
_SPARED = (*EMBEDDINGS, "output.weight")


def read_imatrix(path: Path) -> dict[str, FloatArray]:
    """The importances of an imatrix file: tensor name -> float32 [columns], or [experts * columns].

    Reads GGUF files (sums of squares and counts, one count for each expert; an expert never met counts as all ones) and
    the legacy form (means times calls, and calls). Memory is in proportion to the file.
    Raises CheckpointError, naming file and tensor, for a file that is missing, cut off, of another kind or
    contradictory, and for importances that are negative, no finite numbers, or so large that quantising would overflow.
    Source: llama.cpp, `load_imatrix` of llama-quantize.
    """
    with read_errors(path):
        content = content_of(path)
        if told := content.explanation:
            raise CheckpointError(f"{path}: is not an importance matrix but {told}.")
        found = _read_gguf(read_gguf_header(path)) if content.is_gguf else _LegacyReader(path).read()
    if not found:
        raise CheckpointError(f"{path}: an imatrix without any tensor.")
    for name, values in found.items():
        if not np.isfinite(values).all() or (values < 0).any():
            raise _broken(path, f"the importance of {name} has values that are negative or no finite numbers")
        if (values > _LARGEST).any():
            raise _broken(path, f"the importance of {name} has values beyond {_LARGEST:g}")
    return found


def _broken(path: Path, told: str) -> CheckpointError:
    return CheckpointError(f"{path}: broken imatrix file: {told}. Fetch or make it again.")


def _read_gguf(header: GgufHeader) -> dict[str, FloatArray]:
    path, told = header.path, header.metadata.get(Keys.General.TYPE)
    if told is not None and told.value != "imatrix":
        raise CheckpointError(f"{path}: is no imatrix: its general.type is {told.value!r}.")
    missing = [key for key in _KEYS if key not in header.metadata]
    if missing:
        raise CheckpointError(f"{path}: is no imatrix: it lacks the key {missing[0]}.")
    suffixes = (_SUMS, _COUNTS)
    names = sorted({t.removesuffix(s) for t in header.tensors for s in suffixes if t.endswith(s)})
    found = {}
    for name in names:
        pair = [header.tensors.get(name + suffix) for suffix in suffixes]
        if pair[0] is None or pair[1] is None:
            raise _broken(path, f"{name} has sums or counts but not both")
        sums, counts = (_read_floats(path, tensor) for tensor in pair if tensor)
        if sums.size % counts.size:
            raise _broken(path, f"{name} has {sums.size} sums but {counts.size} counts")
        if not np.isfinite(counts).all():
            raise _broken(path, f"{name} has counts that are no finite numbers")
        found[name] = _mean(sums.reshape(counts.size, -1), counts).reshape(-1)
    return found


def _mean(sums: FloatArray, counts: FloatArray) -> FloatArray:
    """Sums [experts, columns] over counts [experts] in whole numbers, halves rounded up; ones where there are none."""
    whole = np.floor(counts.astype(np.float64) + 0.5).astype(np.float32)[:, None]
    with np.errstate(invalid="ignore", over="ignore"):
        return np.divide(sums, whole, out=np.ones_like(sums), where=whole > 0)


def _read_floats(path: Path, tensor: GgufTensor) -> FloatArray:
    if tensor.type.name != "F32":
        raise _broken(path, f"{tensor.name} is {tensor.type.name}, not F32")
    values: npt.NDArray[np.float32] = np.fromfile(path, "<f4", math.prod(tensor.shape), offset=tensor.offset)
    if values.size != math.prod(tensor.shape):
        raise _broken(path, "it became shorter while it was read")
    return values.astype(np.float32, copy=False)


class _LegacyReader:
    """Reads a legacy file's little-endian int32 and float32 values, never past its end."""

    def __init__(self, path: Path) -> None:
        self.path, self.data, self.at = path, read_regular(path), 0

    def take(self, n: int, what: str) -> bytes:
        if n < 0 or n > len(self.data) - self.at:
            left = len(self.data) - self.at
            raise _broken(self.path, f"it names {n} bytes of {what} at byte {self.at}, where {left} are left")
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, what: str) -> int:
        return int(struct.unpack("<i", self.take(4, what))[0])

    def read(self) -> dict[str, FloatArray]:
        n_entries = self.number("the number of tensors")
        if n_entries < 1:
            raise _broken(self.path, f"it claims {n_entries} tensors")
        found: dict[str, FloatArray] = {}
        for i in range(n_entries):
            name = self._name(i)
            if name in found:
                raise _broken(self.path, f"{name} stands in it twice")
            calls, n = self.number(f"{name}'s calls"), self.number(f"{name}'s length")
            if n < 1:
                raise _broken(self.path, f"{name} claims {n} values")
            values = np.frombuffer(self.take(4 * n, f"{name}'s values"), "<f4").astype(np.float32)
            with np.errstate(invalid="ignore"):  # NaN is told of when all is read
                found[name] = values / np.float32(calls) if calls > 0 else values
        if self.at < len(self.data):
            self.number("the number of chunks")
        if self.at < len(self.data):
            self.take(self.number("the data set's name"), "the data set's name")
        if self.at < len(self.data):
            raise _broken(self.path, f"{len(self.data) - self.at} bytes follow its end")
        return found

    def _name(self, i: int) -> str:
        raw = self.take(self.number(f"tensor {i}'s name"), f"tensor {i}'s name")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise _broken(self.path, f"the name of tensor {i} is no UTF-8") from None


def assign_importance(
    imatrix: Mapping[str, FloatArray], types: Mapping[str, TensorType], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, FloatArray]:
    """Return the importances that weigh each quantised tensor: name -> float32 [experts, columns], one expert if none.

    `types` is what choose_types gave, `shapes` numpy's; an empty `imatrix` says that there is none. A tensor that the
    imatrix lacks is quantised without; token embeddings of another length are too, silently. A warning counts what
    the imatrix lacks, another what the model lacks.
    Raises MismatchError for any other tensor of another length, InputError for a tensor whose type needs an importance
    (IQ1, IQ2, IQ3_XXS) and that has none.
    Source: llama.cpp, `llama_model_quantize`.
    """
    found, lacking = {}, []
    for name, tensor_type in types.items():
        if tensor_type.name == "F32":
            continue
        shape = shapes[name]
        experts = math.prod(shape[:-2])
        values = imatrix.get(name)
        if values is not None and values.size != experts * shape[-1] and name not in EMBEDDINGS:
            raise MismatchError(
                f"the imatrix has {values.size} values for {name}, which has {experts * shape[-1]} columns. "
                "It was made from another model."
            )
        if values is not None and values.size == experts * shape[-1]:
            if tensor_type.block > 1:
                found[name] = values.reshape(experts, shape[-1])
        elif tensor_type.name in _HELPLESS or (tensor_type.name in _NEEDY and name not in _SPARED):
            raise InputError(f"{name}: type {tensor_type.name} needs an imatrix, and there is none for this tensor.")
        elif name not in _SPARED:
            lacking.append(name)
    if imatrix and lacking:
        _log.warning("the imatrix lacks %d quantised tensors, %s the first", len(lacking), lacking[0])
    if unused := [name for name in imatrix if name not in types and name not in _SPARED]:
        _log.warning("the imatrix has %d tensors that the model lacks, %s the first", len(unused), unused[0])
    return found
