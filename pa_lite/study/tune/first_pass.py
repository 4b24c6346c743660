"""The first pass of a tuning: a little text at every lam, and which lams are then measured.

The lam that predicts the user's own text best is near the best one, but not it: on the embedded pair it is up to 0.3
too high. So it chooses a window of lams, not a lam.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pa_lite.study.tune.own_items import solved_rows
from pa_lite.study.unlabelled import TextWorkload
from pa_lite.study.workload import CHARACTERS, Workload
from pa_lite.study.workloads import TaskWorkload

SHARE = 0.1  # of the tokens of a sweep of every lam
BUDGET = 0.4  # of the lams that are measured
_REACH = 0.3  # lams this far from the one that predicts the text best may be the best
_ROWS = 8  # of one few-shot prompt
_SHORTEST = 32  # characters of a text
_LEAST = 3  # lams measured, where there are so many


def first_text(workloads: Sequence[Workload[Any]], text: TextWorkload | None, window: int) -> TextWorkload | None:
    """Return the text of the first pass: few-shot prompts made of the rows that choose, and windows of the user's text.

    Their tokens are about a tenth of those of the workloads. None where there is neither.
    """
    room = int(SHARE * CHARACTERS * sum(w.tokens_of_item * w.n_items for w in workloads))
    parts = [] if text is None else list(text.passages)
    tasks = [w for w in workloads if isinstance(w, TaskWorkload)]
    prompts = [p for task in tasks for p in _prompts(task, room // max(1, len(tasks) + bool(parts)))]
    left = room - sum(map(len, prompts))
    passages = tuple(prompts + _spread(parts, left))
    return TextWorkload(name="first pass", passages=passages, window=window) if passages else None


def _prompts(task: TaskWorkload, room: int) -> list[str]:
    """Return few-shot prompts of up to 8 of the task's rows, together of about `room` characters; at least one row."""
    rows, size, separator = list[str](), 0, task.prepared.spec.separator
    for row in solved_rows(task):
        size += len(row) + len(separator)
        if rows and size > room:
            break
        rows.append(row)
    return [separator.join(rows[i : i + _ROWS]) + separator for i in range(0, len(rows), _ROWS)]


def _spread(passages: Sequence[str], room: int) -> list[str]:
    """Return evenly spaced passages of about `room` characters in all, at least one."""
    if not passages:
        return []
    n = max(1, min(len(passages), int(room * len(passages) / max(1, sum(map(len, passages))))))
    if n == 1 and len(passages[0]) > room:
        return [passages[0][: max(room, _SHORTEST)]]
    return [passages[i * len(passages) // n] for i in range(n)]


def lams_to_measure(
    lams: Sequence[float], bits: Sequence[float] | None, instruct: bool, base: bool
) -> tuple[list[float], tuple[float, float]]:
    """Return the lams that are measured, at most 40% of all, and the window that the choice is made in.

    `bits` are those of the first pass at every lam: the window reaches 0.3 to either side of the fewest; without, it is
    everything. With `instruct` lam 1 is measured, and the window reaches there; with `base`, lam 0 is measured.
    """
    n = len(lams)
    count = max(min(n, _LEAST), int(BUDGET * n))
    if count >= n:
        return list(lams), (lams[0], lams[-1])
    low, high = 0, n - 1
    if bits is not None:
        best = lams[int(np.argmin(bits))]
        inside = [i for i, lam in enumerate(lams) if abs(lam - best) <= _REACH + 1e-9]
        low, high = inside[0], inside[-1]
    if instruct:
        high = n - 1
    own = count - base
    while high - low + 1 < own:  # at an end there are fewer lams than can be measured
        low, high = max(0, low - 1), min(n - 1, high + 1)
    chosen = {round(float(i)) for i in np.linspace(low, high, own)}
    return [lams[i] for i in sorted(chosen | ({0} if base else set()))], (lams[low], lams[high])
