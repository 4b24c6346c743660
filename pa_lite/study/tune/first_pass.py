"""The first pass of a tuning: a little text at every lam, and which lams are then measured.

The lam that predicts the user's own text best is not the best one: on the embedded pair it is up to 0.3 too high, and
with the few rows that a tenth of a sweep's tokens has, it varies. So the first pass only drops lams at which the text
takes a quarter more bits, which none of the best lams did there.
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
_WORSE = 0.25  # a lam with so many more bits is not the best one
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


def number_to_measure(n: int) -> int:
    """Return how many of n lams a search measures: at most 40%, or three where there are fewer than eight."""
    return max(min(n, _LEAST), int(BUDGET * n))


def window_of(lams: Sequence[float], bits: Sequence[float] | None, instruct: bool) -> tuple[float, float]:
    """Return the first and the last lam that may be the best, from the bits of the first pass at every lam, if any.

    With `instruct` the window reaches to lam 1. It has at least as many lams as are measured.
    """
    low, high = 0, len(lams) - 1
    if bits is not None:
        near = np.flatnonzero(np.asarray(bits) <= (1 + _WORSE) * min(bits))
        low, high = int(near[0]), int(near[-1])
    if instruct:
        high = len(lams) - 1
    while high - low + 1 < number_to_measure(len(lams)):
        low, high = max(0, low - 1), min(len(lams) - 1, high + 1)
    return lams[low], lams[high]


def first_lams(lams: Sequence[float], window: tuple[float, float], also: Sequence[float] = ()) -> list[float]:
    """Return the lams that are measured first: those in the middles of up to three equal parts of all, and `also`.

    Without those outside of the window. One or more of the lams that can be measured are left for where the first ones
    say that the best may be; with few lams, all are measured.
    """
    if number_to_measure(len(lams)) >= len(lams):
        return list(lams)
    low, high = window
    n = max(1, min(_LEAST, number_to_measure(len(lams)) - 1) - len(also))
    middles = [lams[round((len(lams) - 1) * (i + 0.5) / n)] for i in range(n)]
    inside = [lam for lam in lams if low <= lam <= high]
    kept = [lam for lam in middles if lam in inside] or [inside[len(inside) // 2]]
    return sorted({*kept, *also})
