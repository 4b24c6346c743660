"""Mutators for other binary formats, by structure: safetensors, SentencePiece's protobuf, legacy imatrix files.

Also for inputs of several files, which are packed into one. Pure: bytes and a random source in, bytes out.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from tools.fuzz.gguf import NUMBERS, damage, some_text
from tools.fuzz.json import JsonMutator, Object, Raw, Words, parse, write

Mutator = Callable[[bytes, Random], bytes]

_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1,
               "F8_E8M0": 1, "C64": 8}  # fmt: skip
_MOST_DATA = 1 << 20
SAFETENSORS = Words(
    ("dtype", "shape", "data_offsets", "__metadata__", "model.norm.weight", "lm_head.weight", "a", "format", "",
     "a\nb"),
    (*_ITEM_BYTES, "F4", "F6_E2M3", "f32", [], {}, [0, 2**40, 2**40], [1], [0], [2, 3], [0, 8], [8, 0], [1] * 9,
     [2**48], {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
     {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}, {"format": "pt"}),
)  # fmt: skip


def pack_safetensors(header: bytes, data: bytes, claim: int | None = None) -> bytes:
    """Return a safetensors file; `claim` is written as the header's length instead of the true one."""
    return (len(header) if claim is None else claim).to_bytes(8, "little") + header + data


def _repaired(tree: Any) -> int:
    """Set a header's offsets so that the tensors follow each other, if they have sizes; return the bytes of data."""
    position = 0
    for _, entry in tree.members if isinstance(tree, Object) else []:
        facts = dict(entry.members) if isinstance(entry, Object) else {}
        shape, dtype = facts.get("shape"), facts.get("dtype")
        if (
            not isinstance(shape, list)
            or not isinstance(dtype, str)
            or dtype not in _ITEM_BYTES
            or "data_offsets" not in facts
        ):
            continue
        if not all(isinstance(n, Raw) and n.text.isdigit() and len(n.text) < 20 for n in shape):
            continue
        n_bytes = math.prod(int(n.text) for n in shape) * _ITEM_BYTES[dtype]
        offsets = [Raw(str(position)), Raw(str(position + n_bytes))]
        entry.members = [(key, offsets if key == "data_offsets" else value) for key, value in entry.members]
        position += n_bytes
    return position


_HEADERS = JsonMutator(SAFETENSORS)


def mutate_safetensors(data: bytes, random: Random) -> bytes:
    """Return a safetensors file with another header, half of the time with repaired offsets; or a damaged one."""
    length = int.from_bytes(data[:8], "little")
    if random.random() < 0.1 or length > len(data):
        return damage(data, random)
    header, rest = _HEADERS(data[8 : 8 + length], random), data[8 + length :]
    if random.random() < 0.5:
        try:
            tree = parse(header.decode("utf-8"))
            size = _repaired(tree)
            header = write(tree).encode("utf-8", "surrogatepass")
            if size <= _MOST_DATA:
                rest = rest[:size] + bytes(size - len(rest[:size]))
        except (ValueError, RecursionError):
            pass
    if random.random() < 0.05:
        return pack_safetensors(header, rest, random.choice(NUMBERS) % 2**64)
    return pack_safetensors(header, damage(rest, random) if random.random() < 0.05 else rest)


# --- protobuf: fields are (number, wire type, payload), the payload of a varint being its value ---

Field = tuple[int, int, int | bytes]


def varint(value: int) -> bytes:
    """Return a number in protobuf's encoding."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at
    return value, at


def parse_fields(data: bytes) -> list[Field]:
    """Return a message's fields, as far as it can be parsed."""
    fields: list[Field] = []
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        wire = tag & 7
        if wire == 0:
            value, at = _read_varint(data, at)
            fields.append((tag >> 3, 0, value))
            continue
        length = {1: 8, 5: 4}.get(wire, 0)
        if wire == 2:
            length, at = _read_varint(data, at)
        fields.append((tag >> 3, wire, data[at : at + length]))
        at += length
    return fields


def write_fields(fields: Sequence[Field]) -> bytes:
    """Return a message of these fields."""
    parts = []
    for number, wire, payload in fields:
        parts.append(varint(number << 3 | wire))
        if isinstance(payload, int):
            parts.append(varint(payload))
        else:
            parts.append((varint(len(payload)) if wire == 2 else b"") + payload)
    return b"".join(parts)


def mutate_message(data: bytes, random: Random, depth: int = 0) -> bytes:
    """Return a protobuf message with one to three fields changed, added or dropped, also in nested messages."""
    if random.random() < 0.1:
        return damage(data, random)
    fields = parse_fields(data)
    for _ in range(random.choice((1, 1, 2, 3))):
        _change_fields(fields, random, depth)
    return write_fields(fields)


def _change_fields(fields: list[Field], random: Random, depth: int) -> None:
    choice, i = random.randrange(7), random.randrange(len(fields) + 1)
    if choice == 0 or not fields:
        wire = random.choice((0, 1, 2, 5, 3, 7))
        payload: int | bytes = random.choice(NUMBERS) if wire == 0 else bytes({1: 8, 5: 4}.get(wire, 3))
        fields.insert(i, (random.choice((1, 2, 3, 4, 15, 2**29 - 1)), wire, payload))
        return
    i %= len(fields)
    number, wire, payload = fields[i]
    if choice == 1:
        del fields[i]
    elif choice == 2:
        fields.insert(i, random.choice(fields))
    elif isinstance(payload, int):
        fields[i] = (number, wire, random.choice((0, 1, 2, 3, 4, 5, 6, 7, *NUMBERS)))
    elif wire == 5:
        fields[i] = (number, wire, struct.pack("<f", random.choice((0.0, -1.0, 1e30, math.inf, math.nan))))
    elif depth == 0 and random.random() < 0.8:
        fields[i] = (number, wire, mutate_message(payload, random, 1))
    else:
        fields[i] = (number, wire, some_text(random, payload))


def mutate_legacy_imatrix(data: bytes, random: Random) -> bytes:
    """Return a legacy imatrix file with one number or text changed, or damaged."""
    places, at = [0], 4
    while at + 4 <= len(data) and len(places) < 200:
        length = int.from_bytes(data[at : at + 4], "little")
        if length > len(data):
            break
        places += [at, at + 4 + length, at + 8 + length]
        n_values = int.from_bytes(data[at + 8 + length : at + 12 + length], "little")
        at += 12 + length + 4 * n_values
    if random.random() < 0.3:
        return damage(data, random)
    at = random.choice(places)
    value = random.choice((*range(-2, 9), 100, -(2**31), 2**31 - 1, 2**20))
    return data[:at] + struct.pack("<i", value) + data[at + 4 :]


# --- several files in one input: for each, the index of its name, its length, its content ---


def pack(parts: Mapping[str, bytes], names: Sequence[str]) -> bytes:
    """Return the input that stands for these files."""
    return b"".join(bytes([names.index(n)]) + len(c).to_bytes(4, "little") + c for n, c in parts.items())


def _parts(data: bytes, names: Sequence[str]) -> list[tuple[str, bytes]]:
    parts: list[tuple[str, bytes]] = []
    at = 0
    while at < len(data) and len(parts) < 32:
        length = int.from_bytes(data[at + 1 : at + 5], "little")
        parts.append((names[data[at] % len(names)], data[at + 5 : at + 5 + length]))
        at += 5 + length
    return parts


def unpack(data: bytes, names: Sequence[str]) -> dict[str, bytes]:
    """Return the files that an input stands for; any bytes are a valid input."""
    return dict(_parts(data, names))


class BundleMutator:
    """Changes one file of an input with that file's mutator, or adds and removes files."""

    def __init__(self, mutators: Mapping[str, Mutator]) -> None:
        self.mutators, self.names = mutators, tuple(mutators)

    def __call__(self, data: bytes, random: Random) -> bytes:
        if random.random() < 0.03:
            return damage(data, random)
        parts = _parts(data, self.names)
        choice = random.randrange(20)
        if choice == 0 or not parts:
            parts.append((random.choice(self.names), random.choice(parts)[1] if parts else b""))
        elif choice == 1 and len(parts) > 1:
            del parts[random.randrange(len(parts))]
        else:
            i = random.randrange(len(parts))
            name, content = parts[i]
            parts[i] = (name, self.mutators[name](content, random))
        return pack(dict(parts), self.names)


def json_bytes(value: Any) -> bytes:
    """Return a JSON document as bytes."""
    return json.dumps(value, ensure_ascii=False).encode()
