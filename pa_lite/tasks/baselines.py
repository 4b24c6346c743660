"""The majority baseline: the accuracy of always giving the most common answer of other rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_ENOUGH = 50  # a group needs this many rows for its own most common answer; else the whole task's counts


@dataclass(frozen=True)
class Accepted:
    """A row's group and the answers that count as right, as texts that other rows' answers are compared with."""

    group: str
    answers: frozenset[str]


def majority_share(scored: Sequence[Accepted], others: Sequence[Accepted]) -> float:
    """Return the share of the scored rows that the most common answer of the other rows gets right, in [0, 1].

    Other rows are those of the exemplars' split, and those of the scored split that are not scored. Groups with enough
    of them have their own answer, other groups that of the whole task. The scored rows themselves are used only if
    there are no others, as their most common answer is right too often, in groups of one or two items nearly always.
    """
    known = others or scored
    whole, by_group = Counter[str](), dict[str, Counter[str]]()
    for row in known:
        whole.update(row.answers)
        by_group.setdefault(row.group, Counter()).update(row.answers)
    sizes = Counter(row.group for row in known)
    common = {group: _commonest(counts if sizes[group] >= _ENOUGH else whole) for group, counts in by_group.items()}
    default = _commonest(whole)
    return sum(common.get(row.group, default) in row.answers for row in scored) / len(scored)


def _commonest(counts: Counter[str]) -> str:
    """Return the most common answer, the first by text among equals; empty if there is none."""
    return min(counts, key=lambda text: (-counts[text], text), default="")
