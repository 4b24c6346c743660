"""The choice of exemplars: a draw that all items share, or with leave-one-out the other rows of each item."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pa_lite.errors import InputError
from pa_lite.tasks.data import RowReference, source_name
from pa_lite.tasks.rendering import Formatter, Item
from pa_lite.tasks.spec import TaskSpec

_MOST_CANDIDATES = 2000  # rows that leave-one-out draws from: each is rendered
_SEED = 20250418  # of the candidates among more rows


def draw_shared(
    spec: TaskSpec, formatter: Formatter, pool: Sequence[RowReference], n: int, seed: int | None, forbidden: set[str]
) -> list[RowReference]:
    """Return n rows of the pool with distinct texts, none of them forbidden; in file order if the seed is None."""
    order: Iterable[int] = _order(len(pool), seed)
    if spec.sampler == "balanced":
        items = ((i, formatter.item(i, pool[i])) for i in order)
        order = _in_turn((i, _answer(item)) for i, item in items if item.key not in forbidden)
    chosen: list[RowReference] = []
    seen = set(forbidden)
    for i in order:
        if len(chosen) == n:
            break
        if (key := formatter.item(i, pool[i]).key) not in seen:
            seen.add(key)
            chosen.append(pool[i])
    if len(chosen) < n:
        unusable = f" ({len(pool) - len(chosen)} of them are duplicates or scored)" if len(chosen) < len(pool) else ""
        most = f"{len(chosen)} or fewer" if chosen else "0"
        raise InputError(
            f"task {spec.name}, {source_name(spec)}: {n} shots requested, but split {spec.shots_split!r} has "
            f"{len(pool)} rows{unusable}. Use --shots {most}, or add rows to the split."
        )
    return chosen


def _order(n: int, seed: int | None) -> Iterable[int]:
    return range(n) if seed is None else map(int, np.random.default_rng(seed).permutation(n))


def _answer(item: Item) -> str:
    return f"{item.answer}" if len(item.contexts) > 1 else item.target


def _in_turn(answers: Iterable[tuple[int, str]]) -> list[int]:
    """Return indices so that every answer comes once before any comes twice, and so on, else in the given order."""
    seen, ranks = Counter[str](), []
    for i, answer in answers:
        ranks.append((seen[answer], i))
        seen[answer] += 1
    return [i for _, i in sorted(ranks, key=lambda rank: rank[0])]


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A row that may be an exemplar: its text without case and repeated spaces, its answer, its cluster."""

    ref: RowReference
    text: str
    answer: str
    cluster: str

    def is_like(self, text: str, cluster: str) -> bool:
        """Return whether it is the item with this text itself, asks the same, or is of the same cluster."""
        return self.text == text or bool(cluster and cluster == self.cluster)


class OtherRows:
    """The rows of one group from which the exemplars of each of its items are drawn: all but the item's own.

    Rows that ask the same as the item, or share its cluster, are left out too. All items of a draw share one order of
    the rows, so that most of them have the same exemplars and the model reads these once; an item that would be its own
    exemplar gets the next row in its place.
    """

    def __init__(self, spec: TaskSpec, formatter: Formatter, pool: Sequence[RowReference], n: int) -> None:
        """Render the candidates, at most 2,000 of the pool, for drawing `n` of them."""
        self._spec, self._formatter, self._n = spec, formatter, n
        kept: Sequence[int] = range(len(pool))
        if len(pool) > _MOST_CANDIDATES:
            chosen = np.random.default_rng(_SEED).choice(len(pool), _MOST_CANDIDATES, replace=False)
            kept = sorted(map(int, chosen))
        items = [(pool[i], formatter.item(i, pool[i])) for i in kept]
        self._candidates = [
            _Candidate(ref=ref, text=_plain(item), answer=_answer(item), cluster=item.cluster) for ref, item in items
        ]
        self._solved: dict[int, str] = {}

    def before(self, items: Sequence[Item], seed: int | None) -> list[str]:
        """Return the solved exemplars before each item, for one draw; in file order if the seed is None.

        Raises InputError if there are too few rows for an item.
        """
        order: dict[str, int] = {}
        for i in _order(len(self._candidates), seed):
            order.setdefault(self._candidates[i].text, i)  # one row of each text
        distinct = list(order.values())
        shared = self._first(distinct)
        return [self._texts(shared if self._fits(shared, item) else self._without(distinct, item)) for item in items]

    def _fits(self, chosen: Sequence[int], item: Item) -> bool:
        text = _plain(item)
        return len(chosen) == self._n and not any(self._candidates[i].is_like(text, item.cluster) for i in chosen)

    def _without(self, distinct: Sequence[int], item: Item) -> list[int]:
        text = _plain(item)
        others = [i for i in distinct if not self._candidates[i].is_like(text, item.cluster)]
        if len(others) < self._n:
            raise InputError(
                f"task {self._spec.name}, {item.where}: {self._n} shots requested, but only {len(others)} other rows "
                f"ask something else. Use --shots {len(others)} or fewer, or add rows."
            )
        return self._first(others)

    def _first(self, order: Sequence[int]) -> list[int]:
        if self._spec.sampler == "balanced":
            order = _in_turn((i, self._candidates[i].answer) for i in order)
        return list(order[: self._n])

    def _texts(self, chosen: Sequence[int]) -> str:
        for i in chosen:
            if i not in self._solved:
                self._solved[i] = self._formatter.solved(self._candidates[i].ref)
        return "".join(self._solved[i] for i in chosen)


def _plain(item: Item) -> str:
    return " ".join(item.key.casefold().split())
