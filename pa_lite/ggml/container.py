"""Read headers of untrusted GGUF files, and encode headers for new ones.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (version 3).
"""

from __future__ import annotations

import array
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from pa_lite.errors import CheckpointError
from pa_lite.ggml.gguf_tables import ALIGNMENT, TENSOR_TYPES, VALUE_TYPES, VERSION, Keys
from pa_lite.ggml.kernels import TYPE_NAMES, TensorType, tensor_type
from pa_lite.ggml.metadata import Field, Metadata
from pa_lite.ggml.packed import PackedNumbers, PackedTexts
from pa_lite.system.byte_source import ByteSource, Stamp, open_file, read_errors, size_of, stamp_of
from pa_lite.untrusted.file_kind import FileStart, unexpected
from pa_lite.untrusted.header_memory import HeaderMemory

MANY = 1024  # arrays of at least this many items are packed; arrays of settings are shorter
_PIECE = 1 << 18  # bytes read at a time
_CODES = {
    "UINT8": "<B", "INT8": "<b", "UINT16": "<H", "INT16": "<h", "UINT32": "<I", "INT32": "<i", "FLOAT32": "<f",
    "BOOL": "<?", "UINT64": "<Q", "INT64": "<q", "FLOAT64": "<d",
}  # fmt: skip
# value type number -> its name and struct code
_SCALARS = {VALUE_TYPES[name]: (name, code) for name, code in _CODES.items()}
_STRING, _ARRAY = VALUE_TYPES["STRING"], VALUE_TYPES["ARRAY"]
# tensor types that gguf knows and pa-lite cannot read: number -> name
_NOT_READ = {number: name for name, (number, *_) in TENSOR_TYPES.items() if number not in TYPE_NAMES}
_FIELD, _TENSOR, _TEXT, _NUMBER = 300, 700, 60, 40  # bytes of memory for each, without a string's own bytes
_MAX_DIMENSIONS, _MAX_NAME = 4, 64  # GGML_MAX_DIMS, GGML_MAX_NAME
_FIRST_KEYS = 64  # every writer puts general.type and general.architecture among these


@dataclass(frozen=True, kw_only=True)
class GgufTensor:
    """A tensor in a GGUF file: `shape` in numpy order, `offset` in bytes from the start of the file."""

    name: str
    type: TensorType
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        return self.type.nbytes(math.prod(self.shape))


@dataclass(frozen=True, kw_only=True)
class GgufHeader:
    """The header of a GGUF file, and the stamp of the file when it was read.

    For a file on the Hub, `path` is only its name in messages. `parts` has all files of a split model, with stamps.
    """

    path: Path
    metadata: Metadata
    tensors: Mapping[str, GgufTensor]
    stamp: Stamp | None = None
    parts: tuple[tuple[Path, Stamp | None], ...] = ()


# general.type or general.architecture -> what the file contains
OTHER_CONTENTS = {
    "adapter": "a LoRA adapter (which goes after its base: BASE ADAPTER)", "vocab": "only a vocabulary",
    "imatrix": "an importance matrix (--imatrix)", "mmproj": "a multimodal projector", "clip": "a multimodal projector",
    "controlvector": "a control vector",
}  # fmt: skip


def architecture_of(header: GgufHeader) -> str:
    """Return the model's architecture. Raises CheckpointError for a file that is not a language model."""
    name, file_type = header.metadata.get(Keys.General.ARCHITECTURE), header.metadata.get(Keys.General.TYPE)
    for entry in (file_type, name):
        if entry is not None and (content := OTHER_CONTENTS.get(str(entry.value))):
            raise CheckpointError(f"{header.path}: contains {content}, not a language model. Name the model's file.")
    if name is None or name.type != "STRING" or (file_type is not None and file_type.value != "model"):
        raise CheckpointError(f"{header.path}: does not contain a language model (general.architecture, general.type).")
    return str(name.value)


class _HeaderReader:
    """Reads values from a file, never more bytes than the file has left."""

    def __init__(self, f: BinaryIO, path: ByteSource, size: int, memory: HeaderMemory | None = None) -> None:
        self.f, self.path, self.left = f, path, size
        self.memory = memory or HeaderMemory()  # a sparse file can be far larger than the space it takes

    def fail(self, fault: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: broken GGUF file: {fault}. Download or create it again.")

    def take(self, n: int) -> bytes:
        if n > self.left:
            raise self.fail(f"it ends at byte {self.f.tell() + self.left}, inside the header")
        self.left -= n
        data = self.f.read(n)
        if len(data) != n:
            raise self.fail("it was truncated while being read")
        return data

    def number(self, code: str) -> Any:
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def text(self) -> str:
        size = self.number("<Q")
        self.memory.add(_TEXT + min(size, self.left), self.path)
        raw = self.take(size)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail("it contains a string that is not valid UTF-8") from None

    def value(self, value_type: int) -> Field:
        if value_type in _SCALARS:
            name, code = _SCALARS[value_type]
            return Field(name, self.number(code))
        if value_type == _STRING:
            return Field("STRING", self.text())
        if value_type != _ARRAY:
            raise self.fail(f"unknown value type {value_type}")
        item, count = self.number("<I"), self.number("<Q")
        if item == _STRING:
            if count * 8 > self.left:
                raise self.fail(f"an array claims {count} strings")
            many = count >= MANY
            return Field("ARRAY", self.packed(count) if many else [self.text() for _ in range(count)], "STRING")
        if item not in _SCALARS:
            raise self.fail(f"an array has items of unknown type {item}")
        name, code = _SCALARS[item]
        n = count * struct.calcsize(code)
        self.memory.add(min(n, self.left) + (_NUMBER * count if count < MANY else 0), self.path)
        raw = self.take(n)
        if count < MANY:
            return Field("ARRAY", list(struct.unpack(f"<{count}{code[1:]}", raw)), name)
        values = np.frombuffer(raw, np.uint8) != 0 if name == "BOOL" else np.frombuffer(raw, code)
        return Field("ARRAY", PackedNumbers(values), name)

    def packed(self, count: int) -> PackedTexts:
        """Read the next `count` strings, each preceded by its length."""
        data, starts = bytearray(), array.array("Q")
        self.memory.add(8 * count, self.path)
        start, after = self.f.tell(), b""
        at = 0  # index in `after`, the bytes read and not used yet
        try:
            while len(starts) < count:
                if len(after) - at < 8 or (size := int.from_bytes(after[at : at + 8], "little")) > len(after) - at - 8:
                    wanted = 8 if len(after) - at < 8 else 8 + size
                    if wanted > self.left - len(data):
                        raise self.fail(f"it ends at byte {start + self.left}, inside the header")
                    n = min(max(wanted, _PIECE), self.left - len(data) - (len(after) - at))
                    self.memory.add(2 * n, self.path)
                    more = self.f.read(n)
                    if not more:
                        raise self.fail("it was truncated while being read")
                    after, at = after[at:] + more, 0
                    continue
                after[at + 8 : at + 8 + size].decode("utf-8")
                starts.append(len(data))
                data += after[at : at + 8 + size]
                at += 8 + size
        except UnicodeDecodeError:
            raise self.fail("it contains a string that is not valid UTF-8") from None
        starts.append(len(data))
        self.left -= len(data)
        self.f.seek(start + len(data))
        places = np.frombuffer(starts, np.uint64)
        return PackedTexts(bytes(data), places.astype(np.uint32) if len(data) < 1 << 32 else places)

    def tensor(self) -> tuple[str, TensorType, tuple[int, ...], int]:
        self.memory.add(_TENSOR, self.path)
        name, n_dims = self.text(), self.number("<I")
        if not name.isprintable() or not 1 <= len(name.encode()) < _MAX_NAME:
            raise self.fail(f"a tensor has the invalid name {name[:80]!r}")
        if not 1 <= n_dims <= _MAX_DIMENSIONS:
            raise self.fail(f"tensor {name[:80]!r} has {n_dims} dimensions")
        shape = tuple(reversed([self.number("<Q") for _ in range(n_dims)]))
        type_id, offset = self.number("<I"), self.number("<Q")
        if type_id not in TYPE_NAMES:
            if type_id in _NOT_READ:
                raise CheckpointError(
                    f"{self.path}: tensor {name} is stored as {_NOT_READ[type_id]}, which pa-lite cannot read. "
                    "Use a file of another type."
                )
            raise self.fail(f"tensor {name} has the unknown type {type_id}")
        held = tensor_type(TYPE_NAMES[type_id])
        if min(shape) < 1 or math.prod(shape) >= 2**60 or shape[-1] % held.block:
            raise self.fail(f"tensor {name} of type {held.name} has the invalid shape {list(shape)}")
        return name, held, shape, offset


def read_gguf_header(path: ByteSource, memory: HeaderMemory | None = None) -> GgufHeader:
    """Return metadata and tensor table of a GGUF file. Memory is proportional to the size of the header.

    `memory` limits the headers of several files together. Raises CheckpointError for a file that is missing, not GGUF,
    of another version, truncated or inconsistent.
    """
    with read_errors(path):
        size, stamp = size_of(path), stamp_of(path)
        with open_file(path) as f:
            if not FileStart(start := f.read(min(size, 512)), size).is_gguf:
                raise unexpected(path, "a GGUF file", start, size)
            f.seek(0)
            reader = _HeaderReader(f, path, size, memory)
            reader.take(4)
            _check_version(path, reader.number("<I"))
            n_tensors, n_fields = reader.number("<Q"), reader.number("<Q")
            metadata: Metadata = {}
            for _ in range(n_fields):
                key = reader.text()
                if key in metadata:
                    raise reader.fail(f"duplicate key {key!r}")
                if "\0" in key:  # llama.cpp would read the part before it, maybe another key's name
                    raise reader.fail(f"key {key[:80]!r} contains a NUL character")
                reader.memory.add(_FIELD, path)
                metadata[key] = reader.value(reader.number("<I"))
            infos = [reader.tensor() for _ in range(n_tensors)]
            return GgufHeader(
                path=Path(str(path)),
                metadata=metadata,
                tensors=_place(reader, infos, metadata, f.tell(), size),
                stamp=stamp,
            )


def _check_version(path: ByteSource, version: int) -> None:
    """Raise CheckpointError for a version or byte order that pa-lite cannot read."""
    if version in (2, 3):
        return
    if int.from_bytes(version.to_bytes(4, "little"), "big") in (1, 2, 3):
        raise CheckpointError(
            f"{path}: is a big-endian GGUF file (for s390x and the like); pa-lite reads only little-endian files. "
            "Convert it with gguf's gguf-convert-endian, or download the little-endian file."
        )
    if version == 1:
        raise CheckpointError(
            f"{path}: is a GGUF file of version 1, which llama.cpp dropped in 2023. Download a newer file, or "
            "convert the original checkpoint again."
        )
    raise CheckpointError(
        f"{path}: GGUF version {version} is not supported (only 2 and 3). Update pa-lite if the file is newer, or "
        "download it again."
    )


def gguf_content(path: ByteSource) -> tuple[str, str]:
    """Return a GGUF file's `general.type` ("model" if missing) and `general.architecture` ("" if missing).

    Reads only the first keys, which include both. Raises CheckpointError for a broken header.
    """
    values = {Keys.General.TYPE: "model", Keys.General.ARCHITECTURE: ""}
    with read_errors(path):
        size = size_of(path)
        with open_file(path) as f:
            reader = _HeaderReader(f, path, size)
            reader.take(4)
            _check_version(path, reader.number("<I"))
            reader.number("<Q")
            for _ in range(min(reader.number("<Q"), _FIRST_KEYS)):
                key = reader.text()
                if key.startswith("tokenizer."):
                    break
                value = reader.value(reader.number("<I")).value
                if key in values and isinstance(value, str):
                    values[key] = value
    return values[Keys.General.TYPE], values[Keys.General.ARCHITECTURE]


def _place(
    reader: _HeaderReader,
    infos: list[tuple[str, TensorType, tuple[int, ...], int]],
    metadata: Metadata,
    end: int,
    size: int,
) -> dict[str, GgufTensor]:
    alignment = metadata.get(Keys.General.ALIGNMENT, Field("UINT32", ALIGNMENT)).value
    if not isinstance(alignment, int) or alignment < 8 or alignment & (alignment - 1):
        raise reader.fail(f"general.alignment is {alignment!r}")
    start = _padded(end, alignment)
    tensors: dict[str, GgufTensor] = {}
    expected = 0
    for name, held, shape, offset in infos:
        tensor = GgufTensor(name=name, type=held, shape=shape, offset=start + offset)
        if name in tensors or offset != expected or tensor.offset + tensor.nbytes > size:
            raise reader.fail(f"tensor {name} is duplicate, misplaced or ends after the end of the file ({size} bytes)")
        tensors[name] = tensor
        expected = _padded(offset + tensor.nbytes, alignment)
    return tensors


def _padded(n: int, alignment: int) -> int:
    return -(-n // alignment) * alignment


Buffer = bytes | bytearray | memoryview
Parts = list[Buffer]


def _text_bytes(text: str) -> bytes:
    raw = text.encode("utf-8")
    return len(raw).to_bytes(8, "little") + raw


def _field_parts(entry: Field) -> Parts:
    """Return a value's type and content as bytes; packed arrays are returned without copying."""
    if entry.type == "STRING":
        return [struct.pack("<I", _STRING) + _text_bytes(entry.value)]
    if entry.type != "ARRAY":
        return [struct.pack(f"<I{_CODES[entry.type][1:]}", VALUE_TYPES[entry.type], entry.value)]
    item, code = VALUE_TYPES[entry.item or ""], _CODES.get(entry.item or "", "")
    start = struct.pack("<IIQ", _ARRAY, item, len(entry.value))
    if isinstance(entry.value, PackedTexts):
        return [start, entry.value.data]
    if isinstance(entry.value, PackedNumbers):
        return [start, np.ascontiguousarray(entry.value.values, code).data.cast("B")]
    if item == _STRING:
        return [start, b"".join(map(_text_bytes, entry.value))]
    return [start, struct.pack(f"<{len(entry.value)}{code[1:]}", *entry.value)]


@dataclass(frozen=True)
class HeaderBytes:
    """A GGUF header as parts to write in order. Long arrays are not copied: their parts share the metadata's memory."""

    parts: tuple[Buffer, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __bytes__(self) -> bytes:
        return b"".join(self.parts)

    def start(self, n: int) -> bytes:
        """Return the first `n` bytes, or all if there are fewer."""
        out = bytearray()
        for part in self.parts:
            if len(out) == n:
                break
            out += part[: n - len(out)]
        return bytes(out)

    def begins(self, file: BinaryIO) -> bool:
        """Return whether an open file starts with this header; reads up to the first difference."""
        file.seek(0)
        return all(
            file.read(len(piece)) == piece
            for part in self.parts
            for piece in (memoryview(part)[at : at + _PIECE] for at in range(0, len(part), _PIECE))
        )


class PlacedHeader(NamedTuple):
    """A padded header, the tensors with their offsets in the file, and the size of the whole file in bytes."""

    header: HeaderBytes
    tensors: dict[str, GgufTensor]
    size: int


def gguf_header(
    architecture: str, metadata: Metadata, tensors: Mapping[str, tuple[TensorType, tuple[int, ...]]]
) -> PlacedHeader:
    """Return the header of a GGUF file with these tensors (name -> type, numpy shape), in this order."""
    fields = {Keys.General.ARCHITECTURE: Field("STRING", architecture), **metadata}
    parts: Parts = [b"GGUF" + struct.pack("<IQQ", VERSION, len(tensors), len(fields))]
    for key, entry in fields.items():
        parts += [_text_bytes(key), *_field_parts(entry)]
    offsets, offset = {}, 0
    for name, (held, shape) in tensors.items():
        entry_bytes = struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), held.id, offset)
        parts.append(_text_bytes(name) + entry_bytes)
        offsets[name] = offset
        offset = _padded(offset + held.nbytes(math.prod(shape)), ALIGNMENT)
    length = sum(map(len, parts))
    if length % ALIGNMENT:
        parts.append(bytes(_padded(length, ALIGNMENT) - length))
    header = HeaderBytes(tuple(part for part in parts if len(part)))
    length = len(header)
    placed = {
        n: GgufTensor(name=n, type=held, shape=shape, offset=length + offsets[n])
        for n, (held, shape) in tensors.items()
    }
    return PlacedHeader(header, placed, length + offset)


def gguf_header_bytes(
    architecture: str, metadata: Metadata, tensors: Mapping[str, tuple[TensorType, tuple[int, ...]]]
) -> tuple[bytes, dict[str, GgufTensor], int]:
    """Return what `gguf_header` returns, with the header as one bytes object (this copies the vocabulary)."""
    header, placed, size = gguf_header(architecture, metadata, tensors)
    return bytes(header), placed, size
