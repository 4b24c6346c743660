"""Tokens and merges of a trained BPE vocabulary in tokenizer.json, in a few bytes each."""

from __future__ import annotations

import functools
from array import array
from collections.abc import Iterator, Mapping
from itertools import chain, pairwise, repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from pa_lite.checkpoints.vocabulary.large_json import Sink, duplicate
from pa_lite.ggml.packed import Offsets, Packed, PackedTexts, are_different, offsets, pack_parts, pack_texts

_BATCH = 1 << 14  # items converted to Python objects at a time
_MOST_ID = 1 << 62


class TrainedTokens(Mapping[str, int]):
    """A read-only mapping text -> id in the order of the file. `ids` int64 [n]; `fault` if one is not an id."""

    def __init__(self, data: bytes, starts: Offsets, ids: npt.NDArray[np.int64], fault: bool) -> None:
        self._data, self._starts, self.ids, self.fault = data, starts, ids, fault

    @functools.cached_property
    def are_ids_different(self) -> bool:
        """Return whether all ids are different."""
        return are_different(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def all_encoded(self) -> Iterator[bytes]:
        """Yield every text as UTF-8."""
        for first in range(0, len(self), _BATCH):
            places = self._starts[first : first + _BATCH + 1].tolist()
            yield from [self._data[start:stop] for start, stop in pairwise(places)]

    def __iter__(self) -> Iterator[str]:
        return (raw.decode("utf-8") for raw in self.all_encoded())

    @functools.cached_property
    def _by_hash(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the sorted hashes of the texts, and the index of the text of each."""
        hashes = np.fromiter(map(hash, self.all_encoded()), np.int64, len(self))
        order = np.argsort(hashes)
        return hashes[order], order

    def __getitem__(self, text: str) -> int:
        raw = text.encode("utf-8", "surrogatepass")
        hashes, order = self._by_hash
        first = int(np.searchsorted(hashes, hash(raw)))
        while first < len(hashes) and hashes[first] == hash(raw):
            i = int(order[first])
            if self._data[int(self._starts[i]) : int(self._starts[i + 1])] == raw:
                return int(self.ids[i])
            first += 1
        raise KeyError(text)


class Merges(Packed[tuple[str, str]]):
    """A read-only sequence of BPE merges (left, right) in order of rank; `fault` is the first invalid one."""

    def __init__(self, data: bytes, starts: Offsets, fault: str | None) -> None:
        self._data, self._starts, self.fault = data, starts, fault  # the parts: left, right, left, right, ...

    def __len__(self) -> int:
        return len(self._starts) // 2

    def _item(self, i: int) -> tuple[str, str]:
        a, b, c = self._starts[2 * i : 2 * i + 3].tolist()
        return self._data[a:b].decode("utf-8"), self._data[b:c].decode("utf-8")

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for made, lefts in self.batches():
            for raw, left in zip(made, lefts, strict=True):
                yield raw[:left].decode("utf-8"), raw[left:].decode("utf-8")

    def batches(self) -> Iterator[tuple[list[bytes], list[int]]]:
        """Yield lists of merge results (left + right in UTF-8) and of the lengths of the left parts."""
        for first in range(0, len(self), _BATCH):
            places = self._starts[2 * first : 2 * (first + _BATCH) + 1]
            sizes = np.diff(places)[::2].tolist()
            yield [self._data[a:b] for a, b in pairwise(places[::2].tolist())], sizes

    @functools.cached_property
    def spaced(self) -> PackedTexts:
        """Return the merges as in GGUF files: "left right", with Ġ for a space in a part."""
        if b" " in self._data:
            return pack_texts(f"{a.replace(' ', 'Ġ')} {b.replace(' ', 'Ġ')}".encode() for a, b in self)
        left, both = np.diff(self._starts)[::2], np.diff(self._starts[::2])
        return pack_parts(self._data, both, left)


class TokensSink(Sink):
    """Packs `vocab` of tokenizer.json."""

    def __init__(self) -> None:
        self._data, self._sizes, self._ids, self._hashes = bytearray(), array("I"), array("q"), array("q")
        self._fault = False

    def add(self, items: dict[str, Any]) -> bool:
        texts, ids = list(items), list(items.values())
        _append(self._data, self._sizes, texts)
        self._hashes.extend(map(hash, texts))
        is_plain = set(map(type, ids)) <= {int}
        self._fault = self._fault or not is_plain
        if not is_plain or min(ids, default=0) < -1 or max(ids, default=0) > _MOST_ID:
            ids = [max(-1, min(i, _MOST_ID)) if type(i) is int else -1 for i in ids]
        self._ids.extend(ids)
        return is_plain

    def finish(self) -> TrainedTokens:
        tokens = TrainedTokens(
            bytes(self._data),
            offsets(np.frombuffer(self._sizes, np.uint32)),
            np.frombuffer(self._ids, np.int64),
            self._fault,
        )
        if not are_different(np.frombuffer(self._hashes, np.int64)):  # duplicate texts, or rarely only duplicate hashes
            seen: set[str] = set()
            for text in tokens:
                if text in seen:
                    raise duplicate(text)
                seen.add(text)
        return tokens


class MergesSink(Sink):
    """Packs `merges` of tokenizer.json: "left right" in older files, pairs in newer ones."""

    def __init__(self) -> None:
        self._data, self._sizes = bytearray(), array("I")
        self._fault: str | None = None

    def add(self, items: list[Any]) -> bool:
        item_types = set(map(type, items))
        parts: list[Any] = []
        if item_types == {str} and set(map(str.count, items, repeat(" "))) == {1}:
            parts = " ".join(items).split(" ")
        elif item_types == {list} and set(map(len, items)) == {2}:
            parts = list(chain.from_iterable(items))
        if not parts or not _are_parts(parts):
            parts = [part for merge in items for part in self._pair(merge) or ()]
        _append(self._data, self._sizes, parts)
        return item_types in ({str}, {list}) and len(parts) == 2 * len(items)

    def _pair(self, merge: Any) -> list[str] | None:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if isinstance(parts, list) and len(parts) == 2 and _are_parts(parts):
            return parts
        self._fault = self._fault or f"{merge!r:.80}"
        return None

    def finish(self) -> Merges:
        return Merges(bytes(self._data), offsets(np.frombuffer(self._sizes, np.uint32)), self._fault)


def _append(data: bytearray, sizes: array[int], texts: list[str]) -> None:
    """Append texts in UTF-8 to `data` and their lengths in bytes to `sizes`."""
    joined = "\0".join(texts).encode()  # one call for all texts is faster than one for each
    ends = np.flatnonzero(np.frombuffer(joined + b"\0", np.uint8) == 0)
    if len(ends) == len(texts):
        data += joined.replace(b"\0", b"")
        sizes.frombytes((np.diff(ends, prepend=-1) - 1).astype(np.uint32).tobytes())
    else:  # there are no texts, or one contains a zero character
        data += "".join(texts).encode()
        sizes.extend(len(text.encode()) for text in texts)


def _are_parts(parts: list[Any]) -> bool:
    return all(parts) and set(map(type, parts)) == {str}
