"""Changes to the page headers and footer of a parquet file, which stay well-formed but contain false values.

Both are structures of Thrift's compact protocol: {field number: (type, value)}.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Struct = dict[int, tuple[int, Any]]
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12)
_MAGIC = b"PAR1"
_DICTIONARY = 2  # a page type


class _Reader:
    def __init__(self, raw: bytes, at: int = 0) -> None:
        self.raw: bytes = raw
        self.at: int = at

    def take(self, n: int) -> bytes:
        self.at += n
        piece: bytes = self.raw[self.at - n : self.at]
        return piece

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def zigzag(self) -> int:
        n = self.varint()
        return n >> 1 ^ -(n & 1)

    def value(self, kind: int, in_list: bool = False) -> Any:
        if kind in (_TRUE, _FALSE):
            return self.take(1)[0] == 1 if in_list else kind == _TRUE
        if kind == _BYTE:
            return self.take(1)
        if kind in (_I16, _I32, _I64):
            return self.zigzag()
        if kind == _DOUBLE:
            return self.take(8)
        if kind == _BINARY:
            return self.take(self.varint())
        if kind in (_LIST, _SET):
            head = self.take(1)[0]
            n = head >> 4 if head >> 4 < 15 else self.varint()
            return (head & 15, [self.value(head & 15, in_list=True) for _ in range(n)])
        assert kind == _STRUCT, kind
        return self.struct()

    def struct(self) -> Struct:
        fields: Struct = {}
        number = 0
        while head := self.take(1)[0]:
            number = number + (head >> 4) if head >> 4 else self.zigzag()
            fields[number] = (head & 15, self.value(head & 15))
        return fields


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes([*out, n])


def _zigzag(n: int) -> bytes:
    return _varint(n << 1 if n >= 0 else (-n << 1) - 1)


def _value(kind: int, value: Any, in_list: bool = False) -> bytes:
    if kind in (_TRUE, _FALSE):
        return bytes([1 if value else 2]) if in_list else b""
    if kind in (_I16, _I32, _I64):
        return _zigzag(value)
    if kind == _BINARY:
        return _varint(len(value)) + bytes(value)
    if kind in (_LIST, _SET):
        inner, values = value
        head = (
            bytes([len(values) << 4 | inner]) if len(values) < 15 else bytes([15 << 4 | inner]) + _varint(len(values))
        )
        return head + b"".join(_value(inner, v, in_list=True) for v in values)
    return _struct(value) if kind == _STRUCT else bytes(value)


def _struct(fields: Struct) -> bytes:
    out, before = b"", 0
    for number, (kind, value) in fields.items():
        step = number - before
        out += (bytes([step << 4 | kind]) if 0 < step < 16 else bytes([kind]) + _zigzag(number)) + _value(kind, value)
        before = number
    return out + b"\0"


def set_field(fields: Struct, value: int, *numbers: int) -> bool:
    """Set a field of a structure or of one within it; return False if it does not exist."""
    *outer, last = numbers
    for number in outer:
        if number not in fields:
            return False
        fields = fields[number][1]
    if last not in fields:
        return False
    fields[last] = (fields[last][0], value)
    return True


def _columns(footer: Struct) -> list[Struct]:
    return [chunk[3][1] for group in footer[4][1][1] for chunk in group[1][1][1]]


def change(
    path: Path,
    page: Callable[[Struct], Any] = lambda _: None,
    column: Callable[[Struct], Any] = lambda _: None,
    footer: Callable[[Struct], Any] = lambda _: None,
    payload: Callable[[bytes], bytes] = lambda raw: raw,
) -> None:
    """Rewrite a file after the functions changed each page's header and bytes, each column, and the footer.

    Offsets and compressed sizes in the footer are updated, unless a function changes them.
    """
    raw = path.read_bytes()
    assert raw[:4] == raw[-4:] == _MAGIC
    length = int.from_bytes(raw[-8:-4], "little")
    whole = _Reader(raw[-8 - length : -8]).struct()
    out = bytearray(_MAGIC)
    for chunk in _columns(whole):
        start = min(chunk[n][1] for n in (9, 11) if n in chunk)
        reader, end = _Reader(raw, start), start + chunk[7][1]
        new_start, has_data = len(out), False
        while reader.at < end:
            header = reader.struct()
            content = payload(reader.take(header[3][1]))
            header[3] = (_I32, len(content))
            if header[1][1] == _DICTIONARY:
                set_field(chunk, len(out), 11)
            elif not has_data:
                has_data = set_field(chunk, len(out), 9)
            page(header)
            out += _struct(header) + content
        set_field(chunk, len(out) - new_start, 7)
        column(chunk)
    footer(whole)
    packed = _struct(whole)
    path.write_bytes(bytes(out) + packed + len(packed).to_bytes(4, "little") + _MAGIC)
