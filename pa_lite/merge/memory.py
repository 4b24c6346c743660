"""How much memory a merge takes, told before it begins."""

from __future__ import annotations

from dataclasses import dataclass

from pa_lite.checkpoints.remote import CONNECTIONS, RemoteFile
from pa_lite.errors import InputError
from pa_lite.machine import resident_bytes
from pa_lite.merge.plan import MergePlan
from pa_lite.merge.readers import LEAST_READ_AHEAD, READ_AHEAD
from pa_lite.merge.stream import BLOCK_VALUES

_CONNECTION_BYTES = 1 << 20  # a connection's own buffers and its thread


def thread_bytes(plan: MergePlan) -> int:
    """Bytes of one thread's buffers: both sides as read and as float32, the result, and its encoding."""
    values = max(BLOCK_VALUES, 2 * max(t.shape[-1] for t in plan.tensors))  # two rows at least where they change places
    return values * (4 * 4 + 3 * 4)


def is_streamed(plan: MergePlan) -> bool:
    """Whether any input stays on the Hub."""
    return any(isinstance(file, RemoteFile) for file in plan.files)


def planned_bytes(plan: MergePlan, threads: int, read_ahead: int = LEAST_READ_AHEAD) -> int:
    """What the process will hold at its peak: what it holds now, with the plan and the vocabulary, and the buffers.

    Where inputs are streamed, `read_ahead` bytes and what their connections take belong to it.
    """
    header = 4 * sum(len(t.encode()) + 16 for t in plan.vocabulary.tokens)  # built in memory, in pieces and whole
    fetched = read_ahead + CONNECTIONS * _CONNECTION_BYTES if is_streamed(plan) else 0
    return resident_bytes() + header + threads * thread_bytes(plan) + fetched


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
    needed = planned_bytes(plan, 1)
    raise InputError(f"--max-memory {max_memory / 1e6:.0f}M is too little: this merge needs {needed / 1e6:.0f}M.")
