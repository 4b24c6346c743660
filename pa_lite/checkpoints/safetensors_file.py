"""Read safetensors headers as untrusted input: every length and name is checked before use.

This reader handles files on the disk and on the Hub, and reports what is wrong with a file. A file on the disk is also
checked by the package safetensors: both must find the same tensors. Files that safetensors rejects are rejected here
too; a fuzz test compares the two.
Format: https://github.com/huggingface/safetensors, section Format.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pa_lite.errors import CheckpointError
from pa_lite.ggml.kernels import tensor_type
from pa_lite.system.byte_source import ByteSource, Stamp, open_file, read_errors, size_of, stamp_of
from pa_lite.system.opening import read_regular
from pa_lite.untrusted.file_kind import check_text, unexpected
from pa_lite.untrusted.header_memory import MOST, HeaderMemory
from pa_lite.untrusted.strict_json import json_memory, parse_json

_log = logging.getLogger(__name__)
_MAX_HEADER = 100_000_000  # bytes, the limit of the reference implementation
MAX_JSON = 1 << 28  # bytes; the largest known tokenizer.json has 35 MB
_TENSOR_BYTES = 400  # memory of a StoredTensor
_MAX_DIMENSIONS = 8  # twice the most of any weight
_MAX_BITS = 1 << 63  # of a tensor, by the nonzero sizes in its shape; safetensors counts bits in 64 bits
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
# numbers that Python reads as integers and safetensors does not: -0, and numbers beyond a float's range
_ODD_NUMBERS = re.compile(rb"-0(?![.0-9eE])|[0-9]{300}")
_DTYPES = ("F64", "F32", "F16", "BF16")
# bits per value of every dtype of safetensors 0.8
_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32,
         "U16": 16, "U8": 8, "BOOL": 8, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
         "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor in a safetensors file; `offset` is in bytes, `stamp` that of the file when its header was read."""

    name: str
    path: ByteSource
    offset: int
    dtype: str
    shape: tuple[int, ...]
    stamp: Stamp | None = None

    def require_float(self) -> None:
        """Raise CheckpointError unless the dtype can be interpolated."""
        if self.dtype not in _DTYPES:
            raise CheckpointError(
                f"{self.path}: {self.name} is stored as {self.dtype}; pa-lite reads {', '.join(_DTYPES)}. "
                "Use a checkpoint that is not quantised, or convert this one to BF16 with transformers."
            )
        tensor_type(self.dtype)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raises CheckpointError when it is missing, broken or not an object."""
    with json_errors(path):
        size = size_of(path)
        if size > MAX_JSON:
            raise ValueError(f"{size} bytes are too many")
        raw = read_regular(path)
        check_text(path, raw, size)
        if (memory := json_memory(raw)) > MOST:
            raise ValueError(f"it takes {memory >> 20} MB of memory; the limit is {MOST >> 20}")
        value = parse_json(raw, nan=True)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: is not a JSON object.")
    return value


@contextlib.contextmanager
def json_errors(path: Path) -> Iterator[None]:
    """Turn errors of reading and parsing a checkpoint's JSON file into a CheckpointError that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent}: has no {path.name}; a Hugging Face checkpoint needs one.") from None
    except OSError as e:
        raise CheckpointError(f"{path}: cannot be read: {e.strerror}.") from e
    except ValueError as e:
        raise CheckpointError(f"{path}: cannot be read as JSON: {e}. Fetch it again.") from e


def read_header(path: ByteSource, memory: HeaderMemory | None = None) -> dict[str, StoredTensor]:
    """Return the tensors of one safetensors file by name, as `read_strictly` does.

    Also raises CheckpointError for a local file that the package safetensors rejects or reads differently.
    """
    tensors = read_strictly(path, memory)
    if isinstance(path, Path):
        check_by_safetensors(path, tensors)
    return tensors


def read_strictly(path: ByteSource, memory: HeaderMemory | None = None) -> dict[str, StoredTensor]:
    """Return the tensors of one safetensors file by name.

    `memory` limits the headers of several files together. Raises CheckpointError for a header that is cut off, too
    long, not JSON, or whose tensors overlap, have holes, exceed the file, or have sizes that do not fit their shape
    and dtype.
    """
    with read_errors(path):
        size, stamp = size_of(path), stamp_of(path)
        with open_file(path) as f:
            start = f.read(min(size, 512))
            length = int.from_bytes(start[:8], "little")
            if size < 8 or length > min(size - 8, _MAX_HEADER):
                raise unexpected(path, "a safetensors file", start, size)
            f.seek(8)
            raw = f.read(length)
            (memory or HeaderMemory()).add(json_memory(raw) + _TENSOR_BYTES * raw.count(b"{"), path)
    try:
        header = parse_json(raw)
        if not isinstance(header, dict):
            raise ValueError("not a JSON object")
        _check_metadata(header.pop("__metadata__", None))
        if _ODD_NUMBERS.search(_STRING.sub(b"", raw)):
            raise ValueError("it contains the number -0, or a number of more than 300 digits")
    except ValueError as e:
        raise CheckpointError(f"{path}: broken safetensors header: {e}") from e
    tensors = {name: _stored(path, stamp, name, info, 8 + length) for name, info in header.items()}
    _check_layout(path, size, 8 + length, tensors, header)
    return tensors


def _check_metadata(metadata: Any) -> None:
    """Raise ValueError unless `__metadata__` maps strings to strings, or is null or missing."""
    if metadata is not None and not (isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())):
        raise ValueError("its __metadata__ does not map strings to strings")


def check_by_safetensors(path: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Raise CheckpointError unless the package safetensors finds the same tensors. It reads only the header.

    A file that cannot be mapped into memory, because address space is limited, is not checked.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            names = file.keys()
            slices = ((name, file.get_slice(name)) for name in names)
            found = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices}
    except SafetensorError as e:
        raise CheckpointError(
            f"{path}: the package safetensors rejects it: {e}. Fetch the file again, or update safetensors."
        ) from e
    except (OSError, MemoryError) as e:
        _log.debug("%s: not checked by safetensors, because it cannot be mapped into memory: %s", path, e)
        return
    if found != {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}:
        raise CheckpointError(
            f"{path}: the package safetensors and pa-lite find different tensors in it. Save the checkpoint again with "
            "save_pretrained of transformers."
        )


def _stored(path: ByteSource, stamp: Stamp | None, name: str, info: Any, start: int) -> StoredTensor:
    try:
        dtype, shape = info["dtype"], info["shape"]
        begin, end = info["data_offsets"]
        if not isinstance(shape, list):
            raise ValueError("its shape is not a list")
        shape = tuple(shape)
        if not all(type(n) is int and 0 <= n < 2**48 for n in (*shape, begin, end)):
            raise ValueError("sizes and offsets must be integers from 0 to 2^48")
        if len(shape) > _MAX_DIMENSIONS:
            raise ValueError(f"{len(shape)} dimensions")
        if dtype not in _BITS:
            raise ValueError(f"unknown dtype {dtype!r} (known: {', '.join(_BITS)})")
        if math.prod(n for n in shape if n) * _BITS[dtype] >= _MAX_BITS:
            raise ValueError(f"shape {list(shape)} is too large")
        if (end - begin) * 8 != math.prod(shape) * _BITS[dtype]:
            raise ValueError(f"{end - begin} bytes do not hold {dtype} of shape {list(shape)}")
    except (KeyError, TypeError, ValueError) as e:
        raise CheckpointError(f"{path}: broken header entry for tensor {name!r}: {e}. Fetch the file again.") from e
    return StoredTensor(name=name, path=path, offset=start + begin, dtype=dtype, shape=shape, stamp=stamp)


def _check_layout(
    path: ByteSource, size: int, start: int, tensors: dict[str, StoredTensor], header: dict[str, Any]
) -> None:
    position = start
    for tensor in sorted(tensors.values(), key=lambda t: (t.offset, header[t.name]["data_offsets"][1])):
        if tensor.offset != position:
            raise CheckpointError(f"{path}: data of tensor {tensor.name!r} overlaps another tensor's or leaves a gap.")
        position = start + header[tensor.name]["data_offsets"][1]
    if position != size:
        raise CheckpointError(
            f"{path}: the header describes {position} bytes, but the file has {size}: it is cut off or damaged. "
            "Fetch it again."
        )
