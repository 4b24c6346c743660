"""What a guess that never looks at the item gets right: the answer that is the commonest elsewhere, always given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_ENOUGH = 50  # rows of a group that tell which of its answers is the commonest; else the whole task's is taken


@dataclass(frozen=True)
class Accepted:
    """A row's group and the answers that count as right, as texts that other rows' answers are compared with."""

    group: str
    answers: frozenset[str]


def majority_share(scored: Sequence[Accepted], others: Sequence[Accepted]) -> float:
    """Return the share of the scored rows that the commonest answer of the other rows gets right, in [0, 1].

    Other rows are those of the exemplars' split and those of the scored split that are not scored. A group with enough
    of them has its own answer, the others that of the whole task. The commonest answer of the scored rows
    themselves would be right too often: in groups of one or two items nearly always. They
    are what is taken only where there are no other rows.
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
    """Return the commonest answer, of equals the first by its text; nothing where there is no answer."""
    return min(counts, key=lambda text: (-counts[text], text), default="")
