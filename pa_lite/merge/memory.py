"""How much memory a merge takes, told before it begins."""

from __future__ import annotations

from pa_lite.errors import InputError
from pa_lite.machine import resident_bytes
from pa_lite.merge.plan import MergePlan
from pa_lite.merge.stream import BLOCK_VALUES


def thread_bytes(plan: MergePlan) -> int:
    """Bytes of one thread's buffers: both sides as read and as float32, the result, and its encoding."""
    values = max(BLOCK_VALUES, 2 * max(t.shape[-1] for t in plan.tensors))  # two rows at least where they change places
    return values * (4 * 4 + 3 * 4)


def planned_bytes(plan: MergePlan, threads: int) -> int:
    """What the process will hold at its peak: what it holds now, with the plan and the vocabulary, and the buffers."""
    header = 4 * sum(len(t.encode()) + 16 for t in plan.vocabulary.tokens)  # built in memory, in pieces and whole
    return resident_bytes() + header + threads * thread_bytes(plan)


def check_memory(plan: MergePlan, threads: int, max_memory: int) -> int:
    """As many of the threads as fit into max_memory bytes (0: no bound). Raises InputError when not even one does."""
    if not max_memory:
        return threads
    for n in range(threads, 0, -1):
        if planned_bytes(plan, n) <= max_memory:
            return n
    needed = planned_bytes(plan, 1)
    raise InputError(f"--max-memory {max_memory / 1e6:.0f}M is too little: this merge needs {needed / 1e6:.0f}M.")
