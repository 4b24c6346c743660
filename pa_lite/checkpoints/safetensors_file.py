"""safetensors headers and shard indexes, read as what strangers wrote: every length and name is checked before use.

Format: https://github.com/huggingface/safetensors, section Format.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pa_lite.checkpoints.remote import FilePath, size_of, stamp_of
from pa_lite.documents import parse_json
from pa_lite.errors import CheckpointError
from pa_lite.files import Stamp
from pa_lite.kernels import tensor_type
from pa_lite.names import name_fault, same_file

_MAX_HEADER = 100_000_000  # the reference implementation's own limit, in bytes
MAX_JSON = 1 << 28  # bytes; the largest tokenizer.json known has 35 MB
_LONGEST_NAME = 255  # bytes that a file system gives a file's name
_MAX_DIMENSIONS = 8  # twice those of any weight
_DTYPES = ("F64", "F32", "F16", "BF16")
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
          "U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1}  # fmt: skip
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file, `offset` in bytes from its start; `stamp` is what the file was when read."""

    name: str
    path: FilePath
    offset: int
    dtype: str
    shape: tuple[int, ...]
    stamp: Stamp | None = None

    def require_float(self) -> None:
        """Raise CheckpointError unless the dtype is one that can be interpolated."""
        if self.dtype not in _DTYPES:
            raise CheckpointError(
                f"{self.path}: {self.name} is stored as {self.dtype}; pa-lite reads {', '.join(_DTYPES)}. "
                "Take the checkpoint that is not quantised."
            )
        tensor_type(self.dtype)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raises CheckpointError when it is missing, broken or not an object."""
    with json_errors(path):
        size = size_of(path)
        if size > MAX_JSON:
            raise ValueError(f"{size} bytes are too many")
        value = parse_json(path.read_bytes(), nan=True)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds no JSON object.")
    return value


@contextlib.contextmanager
def json_errors(path: Path) -> Iterator[None]:
    """Turn what reading and parsing a checkpoint's JSON file raises into a CheckpointError that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent}: has no {path.name}; a Hugging Face checkpoint needs one.") from None
    except OSError as e:
        raise CheckpointError(f"{path}: cannot be read: {e.strerror}.") from e
    except ValueError as e:
        raise CheckpointError(f"{path}: cannot be read as JSON: {e}. Fetch it again.") from e


def read_header(path: FilePath) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file, by name.

    Raises CheckpointError for a header that is cut off, too long, no JSON, or whose tensors overlap, have holes,
    exceed the file, or have sizes that do not fit their shape and dtype.
    """
    try:
        size, stamp = size_of(path), stamp_of(path)
        with path.open("rb") as f:
            length = int.from_bytes(f.read(8), "little")
            if size < 8 or length > min(size - 8, _MAX_HEADER):
                raise CheckpointError(f"{path}: is no safetensors file, or is cut off ({size} bytes). Fetch it again.")
            raw = f.read(length)
    except OSError as e:
        raise CheckpointError(f"{path}: cannot be read: {e.strerror}") from e
    try:
        header = parse_json(raw)
        if not isinstance(header, dict):
            raise ValueError("no JSON object")
    except ValueError as e:
        raise CheckpointError(f"{path}: broken safetensors header: {e}") from e
    header.pop("__metadata__", None)
    tensors = {name: _stored(path, stamp, name, info, 8 + length) for name, info in header.items()}
    _check_layout(path, size, 8 + length, tensors, header)
    return tensors


def _stored(path: FilePath, stamp: Stamp | None, name: str, info: Any, start: int) -> StoredTensor:
    try:
        dtype, shape = info["dtype"], tuple(info["shape"])
        begin, end = info["data_offsets"]
        if not all(type(n) is int and 0 <= n < 2**48 for n in (*shape, begin, end)):
            raise ValueError("sizes and offsets must be whole numbers from 0")
        if len(shape) > _MAX_DIMENSIONS:
            raise ValueError(f"{len(shape)} dimensions")
        if dtype not in _SIZES:
            raise ValueError(f"unknown dtype {dtype!r}")
        if end - begin != math.prod(shape) * _SIZES[dtype]:
            raise ValueError(f"{end - begin} bytes do not hold {dtype} of shape {list(shape)}")
    except (KeyError, TypeError, ValueError) as e:
        raise CheckpointError(f"{path}: broken header entry for tensor {name!r}: {e}. Fetch the file again.") from e
    return StoredTensor(name, path, start + begin, dtype, shape, stamp)


def _check_layout(
    path: FilePath, size: int, start: int, tensors: dict[str, StoredTensor], header: dict[str, Any]
) -> None:
    position = start
    for tensor in sorted(tensors.values(), key=lambda t: (t.offset, header[t.name]["data_offsets"][1])):
        if tensor.offset != position:
            raise CheckpointError(f"{path}: data of tensor {tensor.name!r} overlaps another's or leaves a hole.")
        position = start + header[tensor.name]["data_offsets"][1]
    if position != size:
        raise CheckpointError(
            f"{path}: its header tells of {position} bytes, the file has {size}: the file is cut off or damaged. "
            "Fetch it again."
        )


def shard_names(index: Path) -> list[str]:
    """The files that an index names, plain names all. Raises CheckpointError for a broken index."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError(f"{index}: has no weight_map from tensor names to file names.")
    names = sorted(set(weight_map.values()))
    for name in names:
        fault = name_fault(name)
        if fault is None and not re.fullmatch(r"[^.].*\.safetensors", name):
            fault = "is no .safetensors file"
        if fault is not None:
            raise CheckpointError(f"{index}: names the shard {name!r}, which {fault}.")
    if twins := same_file(names):
        raise CheckpointError(f"{index}: names the shards {' and '.join(twins)}, which are one file on some systems.")
    return names


def _shards(folder: Path, elsewhere: Mapping[str, FilePath]) -> Iterator[FilePath]:
    """The weight files of a folder: those that the index names, else every `model*.safetensors`, else `elsewhere`."""
    if not (folder / _INDEX).exists():
        yield from elsewhere.values() or sorted(folder.glob("model*.safetensors"))
        return
    for name in shard_names(folder / _INDEX):
        path = elsewhere.get(name, folder / name)
        if isinstance(path, Path) and not path.is_file():
            raise CheckpointError(f"{folder}: shard {name} is missing, which {_INDEX} names. Fetch it again.")
        yield path


def read_folder(folder: Path, elsewhere: Mapping[str, FilePath] | None = None) -> dict[str, StoredTensor]:
    """All tensors of a checkpoint folder; `elsewhere` says where weight files lie that are not in it, by name.

    Raises CheckpointError: no weights, a missing shard, a doubled tensor.
    """
    tensors: dict[str, StoredTensor] = {}
    for path in _shards(folder, elsewhere or {}):
        for tensor in read_header(path).values():
            if tensor.name in tensors:
                raise CheckpointError(
                    f"{folder}: tensor {tensor.name} is in {tensors[tensor.name].path.name} and in {path.name}. "
                    "Remove the file that does not belong."
                )
            tensors[tensor.name] = tensor
    if not tensors:
        raise CheckpointError(
            f"{folder}: has no weights (no model*.safetensors). Name a folder with safetensors files, or a .gguf file."
        )
    if (folder / _INDEX).exists():
        for missing in read_json(folder / _INDEX)["weight_map"].keys() - tensors.keys():
            raise CheckpointError(f"{folder}: {_INDEX} names the tensor {missing}, which no shard holds.")
    return tensors
