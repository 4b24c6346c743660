"""GGUF files as parts that the fuzzer's mutator changes; every length and offset may be wrong.

`parse` and `serialise` are inverse to each other for every complete GGUF file of version 2 or 3.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field

from pa_lite.ggml.kernels import TYPE_NAMES, tensor_type

WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of scalars, by kind
TEXT, ARRAY = 8, 9
_ALIGNMENT = 32
_DEEPEST = 6  # levels of nested arrays that are parsed
_MAX_DATA = 1 << 22  # most bytes of tensor data that a repair adds


@dataclass
class Scalar:
    """A number in the metadata: its type id, and its bytes."""

    kind: int
    raw: bytes


@dataclass
class Text:
    """A string; `claim` is written as its length instead of the true one."""

    raw: bytes
    claim: int | None = None
    kind: int = TEXT


@dataclass
class Array:
    """An array: `raw` holds the bytes of scalars, `items` strings and arrays; `claim` as for Text."""

    item: int
    items: list[Value] = field(default_factory=list)
    raw: bytes = b""
    claim: int | None = None
    kind: int = ARRAY


Value = Scalar | Text | Array


@dataclass
class Entry:
    """A key with its value; `kind` is written as the type instead of the true one."""

    key: Text
    value: Value
    kind: int | None = None


@dataclass
class Info:
    """A tensor's entry in the table, dimensions in the file's order (ggml's)."""

    name: Text
    dimensions: list[int]
    type: int
    offset: int
    claim: int | None = None


@dataclass
class GgufFile:
    """A parsed file; `data` is everything after the padded header. Claims as for Text."""

    magic: bytes = b"GGUF"
    version: int = 3
    entries: list[Entry] = field(default_factory=list)
    infos: list[Info] = field(default_factory=list)
    data: bytes = b""
    n_tensors: int | None = None
    n_entries: int | None = None

    def alignment(self) -> int:
        """Return `general.alignment`, or the format's default."""
        for entry in self.entries:
            if entry.key.raw == b"general.alignment" and isinstance(entry.value, Scalar) and entry.value.kind == 4:
                value = int.from_bytes(entry.value.raw, "little")
                return value if 0 < value <= 1 << 16 else _ALIGNMENT
        return _ALIGNMENT


class _Source:
    """Takes bytes from the front; raises EOFError when there are not enough."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, n: int) -> bytes:
        if n > len(self.data) - self.at:
            raise EOFError
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, n: int) -> int:
        return int.from_bytes(self.take(n), "little")

    def text(self) -> Text:
        return Text(self.take(self.number(8)))

    def value(self, kind: int, depth: int = 0) -> Value:
        if kind in WIDTHS:
            return Scalar(kind, self.take(WIDTHS[kind]))
        if kind == TEXT:
            return self.text()
        if kind != ARRAY or depth > _DEEPEST:
            raise EOFError
        item, count = self.number(4), self.number(8)
        if item in WIDTHS:
            return Array(item, raw=self.take(count * WIDTHS[item]))
        if count > len(self.data):
            raise EOFError
        return Array(item, [self.value(item, depth + 1) for _ in range(count)])

    def info(self) -> Info:
        name, n = self.text(), self.number(4)
        if n > 16:
            raise EOFError
        return Info(name, [self.number(8) for _ in range(n)], self.number(4), self.number(8))


def parse(data: bytes) -> GgufFile:
    """Parse a file as far as possible; the rest is `data`."""
    source, file = _Source(data), GgufFile()
    whole = 0
    try:
        file.magic, file.version = source.take(4), source.number(4)
        n_tensors, n_entries = source.number(8), source.number(8)
        whole = source.at
        for _ in range(min(n_entries, len(data))):
            file.entries.append(Entry(source.text(), source.value(source.number(4))))
            whole = source.at
        for _ in range(min(n_tensors, len(data))):
            file.infos.append(source.info())
            whole = source.at
        padding = -whole % file.alignment()
        file.data = data[whole + padding :] if not any(data[whole : whole + padding]) else data[whole:]
    except EOFError:
        file.data = data[whole:]
    return file


def _text_bytes(text: Text) -> bytes:
    return struct.pack("<Q", len(text.raw) if text.claim is None else text.claim) + text.raw


def _value_bytes(value: Value) -> bytes:
    if isinstance(value, Scalar):
        return value.raw
    if isinstance(value, Text):
        return _text_bytes(value)
    count = len(value.raw) // WIDTHS[value.item] if value.item in WIDTHS else len(value.items)
    head = struct.pack("<IQ", value.item & 0xFFFFFFFF, count if value.claim is None else value.claim)
    return head + value.raw + b"".join(map(_value_bytes, value.items))


def serialise(file: GgufFile) -> bytes:
    """Return the file's bytes, with its claims."""
    counts = (
        len(file.infos) if file.n_tensors is None else file.n_tensors,
        len(file.entries) if file.n_entries is None else file.n_entries,
    )
    parts = [file.magic, struct.pack("<IQQ", file.version, *counts)]
    for entry in file.entries:
        kind = entry.value.kind if entry.kind is None else entry.kind
        parts += [_text_bytes(entry.key), struct.pack("<I", kind), _value_bytes(entry.value)]
    for info in file.infos:
        n = len(info.dimensions)
        parts += [_text_bytes(info.name), struct.pack("<I", n if info.claim is None else info.claim)]
        parts.append(struct.pack(f"<{n}QIQ", *info.dimensions, info.type, info.offset))
    head = b"".join(parts)
    return head + bytes(-len(head) % file.alignment()) + file.data


def repair(file: GgufFile) -> None:
    """Set offsets so that tensors follow each other, and make the data long enough, where that is possible."""
    alignment, offset = file.alignment(), 0
    for info in file.infos:
        if info.type not in TYPE_NAMES:
            return
        kind, n = tensor_type(TYPE_NAMES[info.type]), math.prod(info.dimensions)
        info.offset = offset
        offset += -(-n // kind.block) * kind.size
        offset += -offset % alignment
        if offset > _MAX_DATA:
            return
    file.data = file.data[:offset] + bytes(max(0, offset - len(file.data)))
