"""A task's prompts: which rows are scored, and which solved ones stand before them. Knows no model."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pa_lite.errors import InputError
from pa_lite.tasks.data import DataFiles, RowReference, commits, load_split, source_name, split_names
from pa_lite.tasks.rendering import Formatter, Item
from pa_lite.tasks.sandbox import size_of
from pa_lite.tasks.spec import TaskSpec

_log = logging.getLogger(__name__)
_MOST_KEPT = 1 << 30  # bytes of a data set's rows and prompts
_LONGEST_ITEM = 40_000_000  # characters of an item's prompts, each choice's counted: a quarter of them is tokens
_SAMPLE_SEED = 20250416  # a suite's fixed samples must not move with --seed


@dataclass(frozen=True)
class Prepared:
    """A task's items, how many rows its split had (of each group, too), and how many exemplars stand before each.

    `commits` are those of the Hub's repository that the rows came from.
    """

    spec: TaskSpec
    items: tuple[Item, ...]
    n_rows: int
    group_rows: Mapping[str, int]
    shots: int
    commits: tuple[str, ...] = ()


def prepare_task(
    spec: TaskSpec, shots: int | None = None, limit: int | None = None, seed: int = 0, split: str | None = None
) -> Prepared:
    """The task's items in file order, each behind its group's exemplars.

    Exemplars are drawn from the shots split by `seed` (or are its first), and no item is among them: where the two
    splits are one, rows with an exemplar's text are not scored; elsewhere candidates with a scored item's text are
    passed over. `limit` takes the first items, of a task with groups as many of each group as it can. Raises InputError
    when rows, exemplars or columns are missing or a template fails.
    """
    with closing(Formatter(spec)) as formatter, closing(DataFiles(formatter.columns)) as files:
        return _prepare(spec, formatter, files, shots, limit, seed, split or spec.split)


def _prepare(
    spec: TaskSpec,
    formatter: Formatter,
    files: DataFiles,
    shots: int | None,
    limit: int | None,
    seed: int,
    split: str,
) -> Prepared:
    rows = _scored_rows(spec, files, split)
    same = split == spec.shots_split
    n_shots = spec.shots if shots is None else shots
    pools: dict[str, list[RowReference]] = {}
    if n_shots:
        for place in [place for _, place in rows] if same else load_split(spec, spec.shots_split, files):
            pools.setdefault(place.group, []).append(place)
    # a task whose rows bring their own exemplars has no split to draw from, and --shots does not concern it
    if spec.shots == 0 and not pools:
        n_shots = 0
    group_rows = Counter(place.group for _, place in rows)
    exemplars: dict[str, list[RowReference]] = {}
    taken: set[str] = set()
    if same and n_shots:
        for group in group_rows:
            exemplars[group] = _draw(spec, formatter, pools.get(group, []), n_shots, seed, set())
        taken = {formatter.item(0, place).key for places in exemplars.values() for place in places}
        if spec.sample or (limit is not None and spec.grouped):  # chosen among all those that are no exemplars
            rows = [(i, place) for i, place in rows if formatter.item(0, place).key not in taken]
    rows = _sampled(rows, spec.sample)
    kept = _DataSize(spec)
    items: list[Item] = []
    places = []
    for i, place in _in_turn(rows, limit) if spec.grouped else rows:
        if limit is not None and len(items) == limit:
            break
        item = formatter.item(i, place)
        if item.key not in taken:
            kept.add([item.row, item.contexts, item.continuations, item.golds], item.where)
            items.append(replace(item, lead=kept.once(formatter.prefix(place), item.where)))
            places.append(place)
    if not items:
        raise InputError(f"{source_name(spec)}: every row of split {split!r} is an exemplar; none is left to score.")
    if not same and n_shots:
        keys = {item.key for item in items}
        for group in dict.fromkeys(item.group for item in items):
            exemplars[group] = _draw(spec, formatter, pools.get(group, []), n_shots, seed, keys)
    solved = {}
    for group, of_group in exemplars.items():
        solved[group] = kept.once("".join(map(formatter.solved, of_group)), of_group[0].where)
    for n, item in enumerate(items):
        items[n] = replace(item, lead=kept.once(item.lead + solved.get(item.group, ""), item.where))
        _check_length(items[n])
    return Prepared(spec, tuple(items), group_rows.total(), group_rows, n_shots, commits(places))


class _DataSize:
    """What is kept of a data set, all rows and prompts together, in bytes of memory."""

    def __init__(self, spec: TaskSpec) -> None:
        self._spec, self._size = spec, 0
        self._texts: dict[str, str] = {}

    def add(self, value: Any, where: str) -> None:
        """Count a value of the row that is there. Raises InputError for too much."""
        self._size += size_of(value)
        if self._size > _MOST_KEPT:
            raise InputError(
                f"{where}: with it, the rows and prompts of task {self._spec.name} take more than {_MOST_KEPT >> 20} "
                "MB of memory, the limit for all together. Score fewer rows (--limit), or make them or the exemplars "
                "shorter."
            )

    def once(self, text: str, where: str) -> str:
        """Return the text, one string for all rows that have it, counted once. Raises InputError for too much."""
        if text not in self._texts:
            self._texts[text] = text
            self.add(text, where)
        return self._texts[text]


def _check_length(item: Item) -> None:
    """Raise InputError for an item whose prompts are too long, those of all choices together."""
    if (length := item.length) > _LONGEST_ITEM:
        raise InputError(
            f"{item.where}: the prompts of all its choices have {length} characters together; the limit is "
            f"{_LONGEST_ITEM}. Give it fewer choices, or shorter texts."
        )


def build_items(
    spec: TaskSpec, shots: int | None = None, limit: int | None = None, seed: int = 0, split: str | None = None
) -> list[Item]:
    """The items of `prepare_task`."""
    return list(prepare_task(spec, shots, limit, seed, split).items)


def _scored_rows(spec: TaskSpec, files: DataFiles, split: str) -> list[tuple[int, RowReference]]:
    """The split's rows with their places in it. Raises InputError when there are none."""
    rows = list(enumerate(load_split(spec, split, files)))
    if not rows:
        names = "" if spec.hub else f"; it has {', '.join(split_names(spec)) or 'no rows at all'}"
        raise InputError(f"{source_name(spec)}: has no rows of split {split!r}{names}.")
    if spec.rows and split == spec.split and len(rows) != spec.rows:
        _log.warning("%s: split %s has %d rows, %d were expected", source_name(spec), split, len(rows), spec.rows)
    if spec.only:
        of_group = [(i, place) for i, place in rows if place.group == spec.only]
        if not of_group:
            raise InputError(f"{source_name(spec)}: split {split!r} has no group {spec.only!r}.")
        return of_group
    return rows


def _draw(
    spec: TaskSpec, formatter: Formatter, pool: Sequence[RowReference], n: int, seed: int, forbidden: set[str]
) -> list[RowReference]:
    """n rows of the pool, no two with the same text and none with a forbidden one."""
    order: Iterable[int] = range(len(pool))
    if spec.sampler == "seed":
        order = map(int, np.random.default_rng(seed).permutation(len(pool)))
    chosen: list[RowReference] = []
    seen = set(forbidden)
    for i in order:
        if len(chosen) == n:
            break
        if (key := formatter.item(i, pool[i]).key) not in seen:
            seen.add(key)
            chosen.append(pool[i])
    if len(chosen) < n:
        some = f" ({len(pool) - len(chosen)} of them repeat or are scored)" if len(chosen) < len(pool) else ""
        raise InputError(
            f"task {spec.name}, {source_name(spec)}: {n} shots asked for, split {spec.shots_split!r} has {len(pool)} "
            f"rows{some}. Ask for {len(chosen)} at most (--shots), or give the split more rows."
        )
    return chosen


def _sampled(rows: list[tuple[int, RowReference]], sample: int) -> list[tuple[int, RowReference]]:
    """A fixed draw of so many rows, in their order; all of them where 0 or fewer are there."""
    if not 0 < sample < len(rows):
        return rows
    chosen = np.random.default_rng(_SAMPLE_SEED).choice(len(rows), sample, replace=False)
    return [rows[i] for i in sorted(map(int, chosen))]


def _in_turn(rows: list[tuple[int, RowReference]], limit: int | None) -> list[tuple[int, RowReference]]:
    """The rows that a limit takes: one of each group in turn until there are so many, in their order."""
    if limit is None or limit >= len(rows):
        return rows
    rank: dict[str, int] = {}
    order = []
    for n, (_, place) in enumerate(rows):
        rank[place.group] = rank.get(place.group, -1) + 1
        order.append((rank[place.group], n))
    return [rows[n] for n in sorted(n for _, n in sorted(order)[:limit])]


def majority_rate(items: Sequence[Item]) -> float:
    """The share of items that are right if one answer is always given: within each group the one right most often.

    MC compares answer texts; partial scoring and its single continuation, the choices' places; G any accepted answer.
    """
    counts: dict[str, dict[str, int]] = {}
    for item in items:
        told = {", ".join(g) for g in item.golds} or {f"{item.answer}" if len(item.contexts) > 1 else item.target}
        of_group = counts.setdefault(item.group, {})
        for text in told:
            of_group[text] = of_group.get(text, 0) + 1
    return sum(max(c.values()) for c in counts.values()) / len(items)
