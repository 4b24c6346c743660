"""What tokenizer.json says of a trained BPE vocabulary, its tokens and merges, in a few bytes each."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from pa_lite.checkpoints.packed import Offsets, PackedTexts, offsets, pack_texts
from pa_lite.checkpoints.vocabulary.large_json import duplicate

_BATCH = 1 << 14  # items that are Python objects at a time
_LENGTH = 8  # bytes of a text's length in GGUF
_MOST_ID = 1 << 62


class TrainedTokens(Mapping[str, int]):
    """Tokens by text, read-only: text -> id, in the file's order. `ids` int64 [n]; `fault` where one is not an id.

    Looking one up takes a scan of all; iterate, or use `all_encoded`, for more than a few.
    """

    def __init__(self, data: bytearray, starts: Offsets, ids: npt.NDArray[np.int64], fault: bool) -> None:
        self._data, self._starts, self.ids, self.fault = data, starts, ids, fault

    def __len__(self) -> int:
        return len(self.ids)

    def all_encoded(self) -> Iterator[bytes]:
        """Yield every text as UTF-8."""
        for first in range(0, len(self), _BATCH):
            places = self._starts[first : first + _BATCH + 1].tolist()
            for start, stop in zip(places, places[1:], strict=False):
                yield bytes(self._data[start:stop])

    def __iter__(self) -> Iterator[str]:
        return (raw.decode("utf-8") for raw in self.all_encoded())

    def __getitem__(self, text: str) -> int:
        raw = text.encode("utf-8", "surrogatepass")
        for i in np.flatnonzero(np.diff(self._starts) == len(raw)).tolist():
            start = int(self._starts[i])
            if self._data[start : start + len(raw)] == raw:
                return int(self.ids[i])
        raise KeyError(text)


class Merges(Sequence[tuple[str, str]]):
    """BPE merges in order of rank, read-only, as pairs (left, right); `fault` shows the first that is not one."""

    def __init__(self, data: bytearray, starts: Offsets, fault: str | None) -> None:
        self._data, self._starts, self.fault = data, starts, fault  # the parts: left, right, left, right, ...

    def __len__(self) -> int:
        return len(self._starts) // 2

    @overload
    def __getitem__(self, i: int) -> tuple[str, str]: ...
    @overload
    def __getitem__(self, i: slice) -> list[tuple[str, str]]: ...
    def __getitem__(self, i: int | slice) -> tuple[str, str] | list[tuple[str, str]]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        first = 2 * (i % len(self))
        a, b, c = self._starts[first : first + 3].tolist()
        return self._data[a:b].decode("utf-8"), self._data[b:c].decode("utf-8")

    def batches(self) -> Iterator[list[bytes]]:
        """Yield what the merges make, left + right as UTF-8, in lists."""
        for first in range(0, len(self), _BATCH):
            places = self._starts[2 * first : 2 * (first + _BATCH) + 1 : 2].tolist()
            yield [bytes(self._data[a:b]) for a, b in zip(places, places[1:], strict=False)]

    def spaced(self) -> PackedTexts:
        """Return them as a GGUF file has them: "left right", with Ġ for a space in a part."""
        if b" " in self._data:
            return pack_texts(f"{a.replace(' ', 'Ġ')} {b.replace(' ', 'Ġ')}".encode() for a, b in self)
        out = bytearray()
        parts = np.frombuffer(self._data, np.uint8)
        for first in range(0, len(self), _BATCH):
            starts = self._starts[2 * first : 2 * (first + _BATCH) + 1].astype(np.int64)
            left, both = np.diff(starts)[::2], np.diff(starts[::2])
            places = np.zeros(len(both) + 1, np.int64)
            np.cumsum(both + _LENGTH + 1, out=places[1:])
            batch, is_part = np.zeros(places[-1], np.uint8), np.ones(places[-1], np.bool_)
            for k in range(_LENGTH):
                batch[places[:-1] + k] = (both + 1) >> 8 * k & 0xFF
                is_part[places[:-1] + k] = False
            spaces = places[:-1] + _LENGTH + left
            batch[spaces], is_part[spaces] = ord(" "), False
            batch[is_part] = parts[starts[0] : starts[-1]]
            out += memoryview(batch)
        return PackedTexts(out, offsets(np.diff(self._starts[::2].astype(np.int64)) + _LENGTH + 1))


class TokensSink:
    """Packs the object "vocab" of tokenizer.json."""

    def __init__(self) -> None:
        self._data, self._sizes, self._ids, self._hashes = bytearray(), array("I"), array("q"), array("q")
        self._fault = False

    def add(self, items: dict[str, Any]) -> bool:
        raws, ids = [text.encode("utf-8") for text in items], list(items.values())
        self._data += b"".join(raws)
        self._sizes.extend(map(len, raws))
        self._hashes.extend(map(hash, raws))
        is_plain = set(map(type, ids)) == {int}
        self._fault = self._fault or not is_plain
        self._ids.extend(max(-1, min(i, _MOST_ID)) if type(i) is int else -1 for i in ids)
        return is_plain

    def finish(self) -> TrainedTokens:
        tokens = TrainedTokens(
            self._data, offsets(np.frombuffer(self._sizes, np.uint32)), np.frombuffer(self._ids, np.int64), self._fault
        )
        if len(np.unique(np.frombuffer(self._hashes, np.int64))) != len(tokens):  # two texts, or rarely two hashes
            seen: set[str] = set()
            for text in tokens:
                if text in seen:
                    raise duplicate(text)
                seen.add(text)
        return tokens


class MergesSink:
    """Packs the list "merges" of tokenizer.json: older files hold "left right", newer ones pairs."""

    def __init__(self) -> None:
        self._data, self._sizes = bytearray(), array("I")
        self._fault: str | None = None

    def add(self, items: list[Any]) -> bool:
        kinds = set(map(type, items))
        pairs = [merge.split(" ") for merge in items] if kinds == {str} else items
        is_plain = kinds in ({str}, {list})
        if not is_plain or set(map(len, pairs)) != {2} or not _are_parts(list(chain.from_iterable(pairs))):
            pairs = [pair for merge in items if (pair := self._pair(merge)) is not None]
        raws = [part.encode("utf-8") for part in chain.from_iterable(pairs)]
        self._data += b"".join(raws)
        self._sizes.extend(map(len, raws))
        return is_plain and len(pairs) == len(items)

    def _pair(self, merge: Any) -> list[str] | None:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if isinstance(parts, list) and len(parts) == 2 and _are_parts(parts):
            return parts
        self._fault = self._fault or f"{merge!r:.80}"
        return None

    def finish(self) -> Merges:
        return Merges(self._data, offsets(np.frombuffer(self._sizes, np.uint32)), self._fault)


def _are_parts(parts: list[Any]) -> bool:
    return all(parts) and set(map(type, parts)) == {str}
