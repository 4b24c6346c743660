"""Check the table with which llama.cpp normalises text for SentencePiece's unigram tokenizers, before it is used.

llama.cpp checks an index only when a text leads to it, and aborts if it is wrong: one letter of a prompt is enough.
This module checks everything that any text can reach. Format: SentencePiece's `precompiled_charsmap`, a double-array
trie and the strings that it points to.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LONGEST = 1024  # bytes of one replacement; SentencePiece's tables have at most 33
_LABEL, _LEAF, _WIDE = 0x800000FF, 1 << 8, 1 << 9  # bit masks of a 32-bit unit of the trie
_CHUNK = 1 << 12  # states whose children are computed at a time
_LETTERS = np.arange(1, 256, dtype=np.uint32)


def charsmap_fault(table: bytes) -> str | None:
    """Return what is wrong with a `precompiled_charsmap`, None if every text can be normalised with it."""
    size = int.from_bytes(table[:4], "little")
    if len(table) < 4 or size + 4 >= len(table):
        return f"is cut off: it has {len(table)} bytes"
    units = np.frombuffer(table, np.dtype("<u4"), size // 4, 4).astype(np.uint32)
    texts = np.frombuffer(table, np.uint8, offset=4 + size)
    if not len(units):
        return None  # then llama.cpp replaces nothing
    bases = (units >> np.uint32(10)) << ((units & np.uint32(_WIDE)) >> np.uint32(6))
    ends = np.flatnonzero(texts == 0)
    seen = np.zeros(len(units), bool)
    states = bases[:1]  # a state is an index to be combined (xor) with the next byte of the text
    while len(states):
        if int((states | 255).max()) >= len(units):
            return f"points to entry {int((states | 255).max())} of {len(units)}"
        seen[states] = True
        found = [_children(states[at : at + _CHUNK], units) for at in range(0, len(states), _CHUNK)]
        children = np.unique(np.concatenate(found))
        after = children ^ bases[children]
        leaves = after[units[children] & _LEAF != 0]
        if fault := _replacement_fault(leaves, units, len(texts), ends):
            return fault
        states = np.unique(after)
        states = states[(states >= len(units)) | ~seen[np.minimum(states, len(units) - 1)]]
    return None


def _children(states: npt.NDArray[np.uint32], units: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Return the trie entries that can be reached from the given states by one byte."""
    candidates = states[:, None] ^ _LETTERS
    result: npt.NDArray[np.uint32] = candidates[units[candidates] & np.uint32(_LABEL) == _LETTERS]
    return result


def _replacement_fault(
    leaves: npt.NDArray[np.uint32], units: npt.NDArray[np.uint32], n_bytes: int, ends: npt.NDArray[np.intp]
) -> str | None:
    """Return what is wrong with the strings that leaves point to; `ends` are the indices of the NUL bytes."""
    if not len(leaves):
        return None
    if int(leaves.max()) >= len(units):
        return f"points to entry {int(leaves.max())} of {len(units)}"
    starts = units[leaves] & np.uint32(0x7FFFFFFF)
    if int(starts.max()) >= n_bytes:
        return f"points to byte {int(starts.max())} of strings of {n_bytes} bytes"
    at = np.searchsorted(ends, starts)
    if int(at.max()) >= len(ends):
        return "has a string without a terminating NUL"
    longest = int((ends[at] - starts).max())
    return f"has a replacement of {longest} bytes, more than {LONGEST}" if longest > LONGEST else None
