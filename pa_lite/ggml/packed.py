"""Compact arrays of strings and numbers, with the memory layout of a GGUF file.

A vocabulary of 262,144 tokens takes 18 MB as Python strings and 8 MB for its scores; a pair has two, and a header needs
the same again. Here a string takes its bytes plus 12 and a number takes 4 bytes, and headers are written from this
memory without copying.
"""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, pairwise
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt

_LENGTH = 8  # bytes of a string's length
_BATCH = 1 << 14  # items converted to Python objects at a time

T = TypeVar("T")
Offsets = npt.NDArray[np.uint32] | npt.NDArray[np.uint64]


class Packed(Sequence[T]):
    """A read-only sequence that creates items on access. Equal to any sequence of the same items."""

    __slots__ = ()

    @abstractmethod
    def _item(self, i: int) -> T:
        """Return item i, which is not negative."""

    @overload
    def __getitem__(self, i: int) -> T: ...
    @overload
    def __getitem__(self, i: slice) -> list[T]: ...
    def __getitem__(self, i: int | slice) -> T | list[T]:
        if isinstance(i, slice):
            return [self._item(k) for k in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        return self._item(i % len(self))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str | bytes):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def __repr__(self) -> str:
        return f"<{len(self)} packed items>"


class PackedTexts(Packed[str]):
    """Strings as in a GGUF array: for each, its length in 8 bytes, then its UTF-8.

    String i, with its length, is `data[starts[i]:starts[i + 1]]`.
    """

    __slots__ = ("data", "starts")

    def __init__(self, data: bytes, starts: Offsets) -> None:
        self.data, self.starts = data, starts

    def __len__(self) -> int:
        return len(self.starts) - 1

    def _item(self, i: int) -> str:
        return self.data[int(self.starts[i]) + _LENGTH : int(self.starts[i + 1])].decode("utf-8")

    def all_encoded(self) -> Iterator[bytes]:
        """Yield every string as UTF-8."""
        data = self.data
        for first in range(0, len(self), _BATCH):
            places = self.starts[first : first + _BATCH + 1].tolist()
            yield from [data[start + _LENGTH : stop] for start, stop in pairwise(places)]

    def __iter__(self) -> Iterator[str]:
        return (raw.decode("utf-8") for raw in self.all_encoded())

    def __eq__(self, other: object) -> bool:
        return self.data == other.data if isinstance(other, PackedTexts) else super().__eq__(other)


class PackedNumbers(Packed[Any]):
    """Numbers of one type in a numpy array, `values`; items are Python numbers."""

    __slots__ = ("values",)

    def __init__(self, values: npt.NDArray[Any]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def _item(self, i: int) -> Any:
        return self.values[i].tolist()

    def __iter__(self) -> Iterator[Any]:
        batches = (self.values[i : i + _BATCH].tolist() for i in range(0, len(self), _BATCH))
        return chain.from_iterable(batches)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PackedNumbers):
            return bool(np.array_equal(self.values, other.values))
        return super().__eq__(other)


def pack_texts(texts: Iterable[bytes]) -> PackedTexts:
    """Pack strings given as UTF-8."""
    data, sizes = bytearray(), array("Q")
    remaining = iter(texts)
    while batch := list(islice(remaining, _BATCH)):
        data += b"".join(batch)
        sizes.extend(map(len, batch))
    return pack_parts(data, np.frombuffer(sizes, np.uint64))


def pack_parts(data: bytes | bytearray, sizes: npt.NDArray[Any], lefts: npt.NDArray[Any] | None = None) -> PackedTexts:
    """Pack the strings concatenated in `data` (UTF-8), whose sizes in bytes are `sizes` [n].

    With `lefts` [n], a space is inserted into each string after that many bytes.
    """
    out, first_byte = bytearray(), 0
    spaces = 0 if lefts is None else 1
    parts = np.frombuffer(data, np.uint8)
    for first in range(0, len(sizes), _BATCH):
        lengths = sizes[first : first + _BATCH].astype(np.int64) + spaces
        places = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths + _LENGTH, out=places[1:])
        batch, is_text = np.zeros(places[-1], np.uint8), np.ones(places[-1], np.bool_)
        for k in range(_LENGTH):
            batch[places[:-1] + k] = lengths >> 8 * k & 0xFF
            is_text[places[:-1] + k] = False
        if lefts is not None:
            joints = places[:-1] + _LENGTH + lefts[first : first + _BATCH].astype(np.int64)
            batch[joints], is_text[joints] = ord(" "), False
        last_byte = first_byte + int(lengths.sum()) - spaces * len(lengths)
        batch[is_text] = parts[first_byte:last_byte]
        first_byte = last_byte
        out += batch.data
    return PackedTexts(bytes(out), offsets(sizes.astype(np.uint64) + np.uint64(_LENGTH + spaces)))


def are_different(values: npt.NDArray[Any]) -> bool:
    """Return whether all values are different."""
    ordered = np.sort(values)
    return not bool((ordered[1:] == ordered[:-1]).any())


def offsets(sizes: npt.NDArray[Any]) -> Offsets:
    """Return the offsets of items of these sizes in bytes, and the end of the last: [n + 1], uint32 if large enough."""
    out = np.zeros(len(sizes) + 1, np.uint64)
    np.cumsum(sizes, out=out[1:])
    return out.astype(np.uint32) if out[-1] < 1 << 32 else out
