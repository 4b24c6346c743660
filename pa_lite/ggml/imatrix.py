"""Read importance matrices (llama-imatrix files, GGUF or legacy) and assign them to tensors as llama-quantize does.

The importance of a matrix column is the mean square of the activations it was multiplied by on a calibration text.
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
_LARGEST = 1e15  # far above any squared activation; much larger values make some of ggml's quantisers abort
# types that are useless without an imatrix, and those among them for which ggml aborts
_NEED_IMATRIX = frozenset(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"))
_ABORT_WITHOUT = frozenset(("IQ1_S", "IQ2_XXS", "IQ2_XS"))
_EXEMPT = (*EMBEDDINGS, "output.weight")


def read_imatrix(path: Path) -> dict[str, FloatArray]:
    """Return the importances of an imatrix file: tensor name -> float32 [columns], or [experts * columns].

    Reads GGUF files (sums of squares, and one count per expert; an expert that was never used gets all ones) and the
    legacy format (means times calls, and calls). Memory is proportional to the size of the file.
    Raises CheckpointError, naming file and tensor, for a file that is missing, truncated, inconsistent or not an
    imatrix, and for importances that are negative, not finite, or so large that quantising would overflow.
    Source: llama.cpp, `load_imatrix` of llama-quantize.
    """
    with read_errors(path):
        content = content_of(path)
        if explanation := content.explanation:
            raise CheckpointError(f"{path}: is not an importance matrix but {explanation}.")
        found = _read_gguf(read_gguf_header(path)) if content.is_gguf else _LegacyReader(path).read()
    if not found:
        raise CheckpointError(f"{path}: is an imatrix without tensors.")
    for name, values in found.items():
        if not np.isfinite(values).all() or (values < 0).any():
            raise _broken(path, f"the importance of {name} has values that are negative or not finite")
        if (values > _LARGEST).any():
            raise _broken(path, f"the importance of {name} has values above {_LARGEST:g}")
    return found


def _broken(path: Path, fault: str) -> CheckpointError:
    return CheckpointError(f"{path}: broken imatrix file: {fault}. Download or create it again.")


def _read_gguf(header: GgufHeader) -> dict[str, FloatArray]:
    path, file_type = header.path, header.metadata.get(Keys.General.TYPE)
    if file_type is not None and file_type.value != "imatrix":
        raise CheckpointError(f"{path}: is not an imatrix: its general.type is {file_type.value!r}.")
    missing = [key for key in _KEYS if key not in header.metadata]
    if missing:
        raise CheckpointError(f"{path}: is not an imatrix: the key {missing[0]} is missing.")
    suffixes = (_SUMS, _COUNTS)
    names = sorted({t.removesuffix(s) for t in header.tensors for s in suffixes if t.endswith(s)})
    found = {}
    for name in names:
        pair = [header.tensors.get(name + suffix) for suffix in suffixes]
        if pair[0] is None or pair[1] is None:
            raise _broken(path, f"{name} has only sums or only counts")
        sums, counts = (_read_floats(path, tensor) for tensor in pair if tensor)
        if sums.size % counts.size:
            raise _broken(path, f"{name} has {sums.size} sums but {counts.size} counts")
        if not np.isfinite(counts).all():
            raise _broken(path, f"{name} has counts that are not finite")
        found[name] = _mean(sums.reshape(counts.size, -1), counts).reshape(-1)
    return found


def _mean(sums: FloatArray, counts: FloatArray) -> FloatArray:
    """Return sums [experts, columns] / counts [experts], counts rounded to integers (half up); ones for count 0."""
    whole = np.floor(counts.astype(np.float64) + 0.5).astype(np.float32)[:, None]
    with np.errstate(invalid="ignore", over="ignore"):
        return np.divide(sums, whole, out=np.ones_like(sums), where=whole > 0)


def _read_floats(path: Path, tensor: GgufTensor) -> FloatArray:
    if tensor.type.name != "F32":
        raise _broken(path, f"{tensor.name} is {tensor.type.name}, not F32")
    values: npt.NDArray[np.float32] = np.fromfile(path, "<f4", math.prod(tensor.shape), offset=tensor.offset)
    if values.size != math.prod(tensor.shape):
        raise _broken(path, "it was truncated while being read")
    return values.astype(np.float32, copy=False)


class _LegacyReader:
    """Reads a legacy file's little-endian int32 and float32 values, never past its end."""

    def __init__(self, path: Path) -> None:
        self.path, self.data, self.at = path, read_regular(path), 0

    def take(self, n: int, what: str) -> bytes:
        if n < 0 or n > len(self.data) - self.at:
            left = len(self.data) - self.at
            raise _broken(self.path, f"it names {n} bytes of {what} at byte {self.at}, but only {left} are left")
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
                raise _broken(self.path, f"duplicate tensor {name}")
            calls, n = self.number(f"{name}'s calls"), self.number(f"{name}'s length")
            if n < 1:
                raise _broken(self.path, f"{name} claims {n} values")
            values = np.frombuffer(self.take(4 * n, f"{name}'s values"), "<f4").astype(np.float32)
            with np.errstate(invalid="ignore"):  # NaN is reported after reading
                found[name] = values / np.float32(calls) if calls > 0 else values
        if self.at < len(self.data):
            self.number("the number of chunks")
        if self.at < len(self.data):
            self.take(self.number("the data set's name"), "the data set's name")
        if self.at < len(self.data):
            raise _broken(self.path, f"{len(self.data) - self.at} extra bytes at the end")
        return found

    def _name(self, i: int) -> str:
        raw = self.take(self.number(f"tensor {i}'s name"), f"tensor {i}'s name")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise _broken(self.path, f"the name of tensor {i} is not valid UTF-8") from None


def assign_importance(
    imatrix: Mapping[str, FloatArray], types: Mapping[str, TensorType], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, FloatArray]:
    """Return the importances for each quantised tensor: name -> float32 [experts, columns], experts 1 if it has none.

    `types` comes from `choose_types`, `shapes` are numpy's, and `imatrix` is empty if there is none. A tensor that is
    not in the imatrix is quantised without importances, and so are token embeddings of another length, silently. One
    warning counts tensors that are missing from the imatrix, another those that are missing from the model.
    Raises MismatchError for any other tensor of another length, InputError for a tensor without importances whose type
    requires them (IQ1, IQ2, IQ3_XXS).
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
                "It belongs to another model."
            )
        if values is not None and values.size == experts * shape[-1]:
            if tensor_type.block > 1:
                found[name] = values.reshape(experts, shape[-1])
        elif tensor_type.name in _ABORT_WITHOUT or (tensor_type.name in _NEED_IMATRIX and name not in _EXEMPT):
            raise InputError(f"{name}: type {tensor_type.name} requires an imatrix with this tensor.")
        elif name not in _EXEMPT:
            lacking.append(name)
    if imatrix and lacking:
        _log.warning("%d quantised tensors are not in the imatrix, first %s", len(lacking), lacking[0])
    if unused := [name for name in imatrix if name not in types and name not in _EXEMPT]:
        _log.warning("%d tensors of the imatrix are not in the model, first %s", len(unused), unused[0])
    return found
