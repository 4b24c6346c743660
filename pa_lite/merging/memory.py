"""Estimate the memory of a merge before it starts."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from pa_lite.checkpoints.readers import LEAST_READ_AHEAD, READ_AHEAD
from pa_lite.checkpoints.rows import buffer_sizes
from pa_lite.errors import InputError
from pa_lite.merging.plan import MergePlan
from pa_lite.merging.stream import BLOCK_VALUES
from pa_lite.system.byte_source import CONNECTIONS, is_remote
from pa_lite.system.machine import resident_bytes

_CONNECTION_BYTES = 1 << 20  # buffers and thread of a connection
_STACK = 1 << 18  # bytes of a thread's stack and its allocator arena
_REST = 4 << 20  # bytes of what is imported and created during a merge: bars, journals, quantiser tables
_VARIATION = 1.02  # between runs of the same merge
_SURELY = 1.05  # the bound that the message suggests must also suffice for a run that draws a bar while planning


def parse_bytes(text: str | int) -> int:
    """Parse a number of bytes: 256M, 1.5G, 800K or without a unit; K is 1000. Raises InputError for anything else."""
    if type(text) is int and text >= 0:
        return text
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)B?", text.strip().upper()) if isinstance(text, str) else None
    if found is None:
        raise InputError(f"{text!r} is not a size, such as 256M or 1.5G.")
    return int(float(found[1]) * 1000 ** " KMGT".index(found[2] or " "))


def thread_bytes(plan: MergePlan) -> int:
    """Return the bytes of one thread's buffers: both sides as read and as float32, the result, and its encoding.

    The largest block decides, because buffers grow to it and are kept. An adapter adds its factors.
    """
    buffers = {"values": 0, "encoded": 0}
    for t in plan.tensors:
        columns, rows = t.shape[-1], math.prod(t.shape[:-1])
        step = min(rows, max(1 if not any(s.heads for s in t.sides) else 2, BLOCK_VALUES // columns))
        found = [{"values": 4 * step * columns, "encoded": t.type.nbytes(step * columns)}]
        for sizes in (*found, *(buffer_sizes(s, step) for s in t.sides)):
            buffers |= {name: max(buffers.get(name, 0), size) for name, size in sizes.items()}
    # values: base, instruct, the result, one product; encoded: the block, and what verification reads
    return sum(buffers.values()) + 3 * buffers["values"] + buffers["encoded"] + _STACK


def is_streamed(plan: MergePlan) -> bool:
    """Return whether any input is read from the Hub."""
    return any(is_remote(file) for file in plan.files)


def planned_bytes(plan: MergePlan, threads: int, read_ahead: int = LEAST_READ_AHEAD) -> int:
    """Return an upper bound of the process's peak memory, in bytes.

    The peak is either that of reading the vocabularies, or the current use, which includes the plan, plus the buffers.
    The header is written from the plan's memory. Streamed inputs add `read_ahead` bytes and their connections.
    """
    fetched = read_ahead + CONNECTIONS * _CONNECTION_BYTES if is_streamed(plan) else 0
    merging = resident_bytes() + threads * thread_bytes(plan) + fetched
    return int(max(plan.peak, merging) * _VARIATION) + _REST


@dataclass(frozen=True)
class MemoryUse:
    """The threads of a merge, and the bytes that it reads ahead of inputs on the Hub."""

    threads: int
    read_ahead: int


def check_memory(plan: MergePlan, threads: int, max_memory: int) -> MemoryUse:
    """Return as many of the threads, and then as much read ahead, as fit into max_memory bytes (0: no bound).

    Raises InputError when not even one thread fits.
    """
    if not max_memory:
        return MemoryUse(threads, READ_AHEAD)
    for n in range(threads, 0, -1):
        left = max_memory - planned_bytes(plan, n)
        if left >= 0:
            return MemoryUse(n, min(READ_AHEAD, LEAST_READ_AHEAD + left))
    needed = math.ceil(_SURELY * planned_bytes(plan, 1) / 1e6)
    raise InputError(f"--max-memory {max_memory / 1e6:.0f}M is not enough: this merge needs {needed}M.")
