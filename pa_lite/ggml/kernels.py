"""Call ggml's conversion, quantisation and dequantisation routines through ctypes. No other module does.

ggml's libraries are loaded from the installed llama-cpp-python without starting llama.cpp. ctypes releases the
interpreter lock during each call, so threads run in parallel.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pa_lite.errors import EngineError, InputError, nearest
from pa_lite.ggml import gguf_tables

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]

# tensor types that can be read. Of the others in gguf, some never store weights (Q8_1, Q8_K) and some are too new for
# this ggml. F64 is never written.
_READ = (
    "F32", "F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ2_XXS", "IQ2_XS",
    "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8", "I16", "I32", "I64", "F64", "IQ1_M", "BF16",
    "TQ1_0", "TQ2_0", "MXFP4",
)  # fmt: skip
TYPE_IDS: dict[str, int] = {name: gguf_tables.TENSOR_TYPES[name][0] for name in _READ}
TYPE_NAMES: dict[int, str] = {i: name for name, i in TYPE_IDS.items()}


class _TypeTraits(ctypes.Structure):
    """`struct ggml_type_traits` of ggml.h."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    )


def _open(name: str) -> Any:
    """Open a library of llama-cpp-python; return None if it does not exist, such as when it is part of another."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise EngineError("llama-cpp-python is not installed. Run: pip install llama-cpp-python")
    folder = Path(spec.origin).parent / "lib"
    for ending in {"win32": (".dll",), "darwin": (".dylib", ".so")}.get(sys.platform, (".so",)):
        for path in (folder / f"lib{name}{ending}", folder / f"{name}{ending}"):
            if path.exists():
                return ctypes.CDLL(str(path))
    return None


@functools.cache
def _library() -> Any:
    lib = _open("ggml-base")
    if lib is None:
        raise EngineError("llama-cpp-python has no ggml-base library. Reinstall version 0.3.36 or later.")
    pointer, int64 = ctypes.c_void_p, ctypes.c_int64
    lib.ggml_get_type_traits.argtypes = [ctypes.c_int]
    lib.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
    for routine in ("ggml_fp16_to_fp32_row", "ggml_bf16_to_fp32_row", "ggml_fp32_to_fp16_row", "ggml_fp32_to_bf16_row"):
        getattr(lib, routine).argtypes = [pointer, pointer, int64]
        getattr(lib, routine).restype = None
    lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, int64, int64, int64, pointer]
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    lib.ggml_quantize_init.argtypes = [ctypes.c_int]
    lib.ggml_quantize_init.restype = None
    return lib


@functools.cache
def _to_half() -> Any:
    """Return the float32 -> float16 routine: ggml-cpu's vectorised one if it exists, else ggml-base's (same bits)."""
    try:
        routine = _open("ggml-cpu").ggml_cpu_fp32_to_fp16
    except (OSError, AttributeError):
        return _library().ggml_fp32_to_fp16_row
    routine.argtypes, routine.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64], None
    return routine


@dataclass(frozen=True, kw_only=True)
class TensorType:
    """A ggml tensor type: `block` values are stored together in `size` bytes."""

    name: str
    id: int
    block: int
    size: int

    def nbytes(self, n_values: int) -> int:
        """Return the bytes of n_values values; n_values is a multiple of the quant block."""
        assert n_values % self.block == 0
        return n_values // self.block * self.size


@functools.cache
def tensor_type(name: str) -> TensorType:
    """Return the type with this name, such as `Q8_0`. Raises InputError with the nearest names if it is unknown."""
    if name not in TYPE_IDS:
        raise InputError(f"unknown tensor type {name!r}.{nearest(name, TYPE_IDS)}")
    number, block, size = gguf_tables.TENSOR_TYPES[name]
    return TensorType(name=name, id=number, block=block, size=size)


def prepare(tensor_type: TensorType) -> None:
    """Build the tables for quantising to a type; call once before quantising in threads."""
    _library().ggml_quantize_init(tensor_type.id)


def to_float32(tensor_type: TensorType, source: ByteArray, target: FloatArray) -> None:
    """Convert `source`, bytes of the type, to float32 in `target` [n]; n is a multiple of the quant block."""
    n = target.size
    assert source.nbytes == tensor_type.nbytes(n)
    if tensor_type.name == "F32":
        target.view(np.uint8)[:] = source
    elif tensor_type.name == "F64":
        target[:] = source.view(np.float64)
    elif tensor_type.name == "F16":
        _library().ggml_fp16_to_fp32_row(source.ctypes.data, target.ctypes.data, n)
    elif tensor_type.name == "BF16":
        _library().ggml_bf16_to_fp32_row(source.ctypes.data, target.ctypes.data, n)
    else:
        convert = _library().ggml_get_type_traits(tensor_type.id).contents.to_float
        if not convert:
            raise InputError(f"ggml cannot dequantise {tensor_type.name}.")
        convert(source.ctypes.data, target.ctypes.data, n)


def from_float32(
    tensor_type: TensorType, source: FloatArray, target: ByteArray, importance: FloatArray | None = None
) -> None:
    """Convert `source`, contiguous float32 [rows, columns], to bytes of the type in `target`, rounding once.

    `importance`, float32 [columns], weighs the columns' errors if the type's quantiser supports it.
    """
    assert target.nbytes == tensor_type.nbytes(source.size)
    assert importance is None or importance.shape == source.shape[1:]
    if tensor_type.name == "F32":
        target[:] = source.reshape(-1).view(np.uint8)
    elif tensor_type.name == "F16":
        _to_half()(source.ctypes.data, target.ctypes.data, source.size)
    elif tensor_type.name == "BF16":
        _library().ggml_fp32_to_bf16_row(source.ctypes.data, target.ctypes.data, source.size)
    else:
        rows, columns = source.shape
        written = _library().ggml_quantize_chunk(
            tensor_type.id, source.ctypes.data, target.ctypes.data, 0, rows, columns,
            None if importance is None else importance.ctypes.data,
        )  # fmt: skip
        assert written == target.nbytes


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device of ggml: `kind` is `cpu`, `gpu`, `igpu` (shares the machine's memory) or `accel`; sizes in bytes."""

    name: str
    description: str
    kind: str
    free: int
    total: int


def devices() -> list[Device]:
    """Return the devices that the installed ggml finds; empty if the build cannot report them.

    Source: `ggml_backend_dev_*` of ggml-backend.h.
    """
    registry, base = _open("ggml"), _library()
    if registry is None or not hasattr(registry, "ggml_backend_dev_count"):
        return []
    registry.ggml_backend_dev_count.restype = ctypes.c_size_t
    registry.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    registry.ggml_backend_dev_get.restype = ctypes.c_void_p
    for name, result in (("name", ctypes.c_char_p), ("description", ctypes.c_char_p), ("type", ctypes.c_int)):
        getattr(base, f"ggml_backend_dev_{name}").argtypes = [ctypes.c_void_p]
        getattr(base, f"ggml_backend_dev_{name}").restype = result
    size = ctypes.POINTER(ctypes.c_size_t)
    base.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, size, size]
    base.ggml_backend_dev_memory.restype = None
    device_types = ("cpu", "gpu", "igpu", "accel")  # enum ggml_backend_dev_type
    found = []
    for i in range(registry.ggml_backend_dev_count()):
        handle, free, total = registry.ggml_backend_dev_get(i), ctypes.c_size_t(), ctypes.c_size_t()
        base.ggml_backend_dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
        name = (base.ggml_backend_dev_name(handle) or b"").decode("utf-8", "replace")
        description = (base.ggml_backend_dev_description(handle) or b"").decode("utf-8", "replace").strip()
        number = base.ggml_backend_dev_type(handle)
        found.append(
            Device(
                name=name,
                description=description,
                kind=device_types[number] if number < 4 else "other",
                free=free.value,
                total=total.value,
            )
        )
    return found
