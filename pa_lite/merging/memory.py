"""How much memory a merge takes, estimated before it begins."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from pa_lite.checkpoints.readers import LEAST_READ_AHEAD, READ_AHEAD
from pa_lite.errors import InputError
from pa_lite.merging.plan import MergePlan
from pa_lite.merging.stream import BLOCK_VALUES
from pa_lite.system.byte_source import CONNECTIONS, is_remote
from pa_lite.system.machine import resident_bytes

_CONNECTION_BYTES = 1 << 20  # a connection's own buffers and its thread
_STACK = 1 << 18  # bytes of a thread's stack and of its part of the allocator
_REST = 4 << 20  # bytes of what is imported and made while a merge runs: bars, journals, tables of quantisers
_VARIATION = 1.02  # one run holds a little more than another
_SURELY = 1.05  # what a user is told to allow must be enough for a run that has a bar to draw while it plans


def parse_bytes(text: str | int) -> int:
    """Return a number of bytes: 256M, 1.5G, 800K or plain, in units of 1000. Raises InputError for anything else."""
    if type(text) is int and text >= 0:
        return text
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)B?", text.strip().upper()) if isinstance(text, str) else None
    if found is None:
        raise InputError(f"{text!r} is not a size, such as 256M or 1.5G.")
    return int(float(found[1]) * 1000 ** " KMGT".index(found[2] or " "))


def thread_bytes(plan: MergePlan) -> int:
    """Return the bytes of one thread's buffers: both sides as read and as float32, the result, and its encoding.

    The largest block of a tensor decides, as buffers grow to it and stay.
    """
    buffers = {"raw": 0, "turned": 0, "values": 0, "encoded": 0}
    for t in plan.tensors:
        columns, rows = t.shape[-1], math.prod(t.shape[:-1])
        step = max(1 if not any(s.heads for s in t.sides) else 2, BLOCK_VALUES // columns)
        values = min(rows, step) * columns
        raw = max((s.type.nbytes(values) for s in t.sides), default=0)
        buffers["raw"] = max(buffers["raw"], raw)
        buffers["turned"] = max(buffers["turned"], raw if any(s.heads for s in t.sides) else 0)
        buffers["values"] = max(buffers["values"], 4 * values)
        buffers["encoded"] = max(buffers["encoded"], t.type.nbytes(values))
    # values: base, instruct, interpolated, a factor's product; encoded: the block, and what is read back of it
    return buffers["raw"] + buffers["turned"] + 4 * buffers["values"] + 2 * buffers["encoded"] + _STACK


def is_streamed(plan: MergePlan) -> bool:
    """Whether any input stays on the Hub."""
    return any(is_remote(file) for file in plan.files)


def planned_bytes(plan: MergePlan, threads: int, read_ahead: int = LEAST_READ_AHEAD) -> int:
    """Return what the process will hold at its peak, an upper bound.

    That is what it held at most while the vocabularies were read, or what it holds now, with the plan in it, and the
    buffers. The header is written from the plan's own memory. Where inputs are streamed, `read_ahead` bytes and
    what their connections take belong to it.
    """
    fetched = read_ahead + CONNECTIONS * _CONNECTION_BYTES if is_streamed(plan) else 0
    merging = resident_bytes() + threads * thread_bytes(plan) + fetched
    return int(max(plan.peak, merging) * _VARIATION) + _REST


@dataclass(frozen=True)
class MemoryUse:
    """How many threads a merge takes, and how many bytes it reads ahead of inputs on the Hub."""

    threads: int
    read_ahead: int


def check_memory(plan: MergePlan, threads: int, max_memory: int) -> MemoryUse:
    """As many of the threads, and then as much read ahead, as fit into max_memory bytes (0: no bound).

    Raises InputError when not even one thread does.
    """
    if not max_memory:
        return MemoryUse(threads, READ_AHEAD)
    for n in range(threads, 0, -1):
        left = max_memory - planned_bytes(plan, n)
        if left >= 0:
            return MemoryUse(n, min(READ_AHEAD, LEAST_READ_AHEAD + left))
    needed = math.ceil(_SURELY * planned_bytes(plan, 1) / 1e6)
    raise InputError(f"--max-memory {max_memory / 1e6:.0f}M is too little: this merge needs {needed}M.")
