"""The majority baseline: the accuracy of always giving the most common answer of other rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from pa_lite.errors import InputError

_ENOUGH = 50  # rows that a group's own most common answer requires; else that of the whole task
_MOST_OTHERS, _RUN = 2000, 100  # other rows that are read, and how many in a row: files are read in blocks
_MOST_FAULTS = 5  # other rows that do not fit, after which no more are read: each may take a sandbox's whole time
_SEED = 20250417

_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Accepted:
    """A row's group and the answers that count as right, as texts that other rows' answers are compared with."""

    group: str
    answers: frozenset[str]


def read_some(rows: Sequence[_Row], read: Callable[[_Row], Accepted]) -> list[Accepted]:
    """Return what `read` returns for at most 2,000 of the rows: fixed random runs of adjacent ones, in order.

    Rows for which it raises InputError are left out; after some of them it stops. They are not scored, so a row that
    does not fit must not stop a task.
    """
    found, faults = [], 0
    for row in _in_runs(rows):
        try:
            found.append(read(row))
        except InputError:
            faults += 1
            if faults == _MOST_FAULTS:
                break
    return found


def _in_runs(rows: Sequence[_Row]) -> Iterator[_Row]:
    """Yield all rows if they are few, else those of randomly chosen runs."""
    if len(rows) <= _MOST_OTHERS:
        yield from rows
        return
    starts = range(0, len(rows), _RUN)
    chosen = np.random.default_rng(_SEED).choice(len(starts), _MOST_OTHERS // _RUN, replace=False)
    for i in sorted(map(int, chosen)):
        yield from rows[starts[i] : starts[i] + _RUN]


def majority_share(scored: Sequence[Accepted], others: Sequence[Accepted]) -> float:
    """Return the share of the scored rows that the most common answer of the other rows gets right, in [0, 1].

    `others` are rows of the exemplars' split, and those of the scored split that are not scored. A group's answer is
    learned from its `others`; from these and the half of its scored rows that a row is not in, where only together
    they are enough; else from the others of the whole task. No row's own answer counts, as in groups of one or two
    items it would nearly always be the most common one. Only without any others, a small task's answer is learned from
    the scored rows themselves.
    """
    order = np.random.default_rng(_SEED).permutation(len(scored))
    halves = [[scored[i] for i in order[start::2]] for start in (0, 1)]
    whole = _commonest(others or scored)
    right = sum(
        _n_right(half, _by_group(others), _by_group([*others, *rest]), whole=whole)
        for half, rest in (halves, halves[::-1])
    )
    return right / len(scored)


def _n_right(rows: Sequence[Accepted], *known: dict[str, list[Accepted]], whole: str) -> int:
    """Return how many rows the answer of their group gets right: of the first of `known` that has enough rows."""
    answer: dict[str, str] = {}
    for row in rows:
        if row.group not in answer:
            enough = (each[row.group] for each in known if len(each.get(row.group, ())) >= _ENOUGH)
            of_group = next(enough, None)
            answer[row.group] = whole if of_group is None else _commonest(of_group)
    return sum(answer[row.group] in row.answers for row in rows)


def _by_group(rows: Iterable[Accepted]) -> dict[str, list[Accepted]]:
    found: dict[str, list[Accepted]] = {}
    for row in rows:
        found.setdefault(row.group, []).append(row)
    return found


def _commonest(rows: Iterable[Accepted]) -> str:
    """Return the most common answer, the first by text among equals; empty if there is none."""
    counts = Counter(text for row in rows for text in row.answers)
    return min(counts, key=lambda text: (-counts[text], text), default="")
