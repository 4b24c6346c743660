"""A task's prompts: which rows are scored, and which exemplars come before them. Uses no model."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pa_lite.errors import InputError
from pa_lite.tasks.baselines import majority_share, read_some
from pa_lite.tasks.data import DataFiles, RowReference, commits, load_split, source_name, split_names
from pa_lite.tasks.exemplars import OtherRows, draw_shared
from pa_lite.tasks.rendering import Formatter, Item
from pa_lite.tasks.sandbox import size_of
from pa_lite.tasks.spec import TaskSpec

_log = logging.getLogger(__name__)
_MOST_KEPT = 1 << 30  # bytes of memory for a data set's rows and prompts
_LONGEST_ITEM = 40_000_000  # characters of an item's prompts over all choices; about a quarter as many tokens
_SAMPLE_SEED = 20250416  # --seed must not change a suite's fixed samples


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A task's items, the rows in its split (total and by group), and the exemplars before each item.

    `commits` are those of the Hub repository that the rows came from; `majority` is the accuracy of the most common
    answer of rows that are not scored (`majority_share`). `is_drawn` is whether another seed gives other exemplars.
    """

    spec: TaskSpec
    items: tuple[Item, ...]
    n_rows: int
    group_rows: Mapping[str, int]
    shots: int
    majority: float
    commits: tuple[str, ...] = ()
    is_drawn: bool = False


def prepare_task(
    spec: TaskSpec, shots: int | None = None, limit: int | None = None, seed: int = 0, split: str | None = None
) -> Prepared:
    """Return the task's items in file order, each with its group's exemplars.

    Exemplars are chosen from the shots split by the task's sampler, and are never among the items: if both come from
    one split, rows with an exemplar's text are not scored; otherwise candidates with a scored item's text are skipped.
    With leave-one-out every row is scored, and those of `OtherRows` come before it.
    `limit` keeps the first items, spread evenly over the groups. Raises InputError if rows, exemplars or columns are
    missing or a template fails.
    """
    return prepare_draws(spec, shots, limit, range(seed, seed + 1), split)[0]


# items -> the indices, in their order, of those that are held out
Apart = Callable[[Sequence[Item]], Collection[int]]


def prepare_parts(
    spec: TaskSpec, apart: Apart, shots: int | None = None, limit: int | None = None, seed: int = 0,
    split: str | None = None,
) -> tuple[Prepared, Prepared]:  # fmt: skip
    """Return the items of `prepare_task` in two parts: those that are not held out, and those that are.

    No held-out row is an exemplar of any item. With leave-one-out and too few other rows, there are fewer exemplars.
    Raises InputError as `prepare_task`.
    """
    held: set[int] = set()

    def choose(items: Sequence[Item]) -> Collection[int]:
        held.update(apart(items))
        return held

    with closing(Formatter(spec)) as formatter, closing(DataFiles(formatter.columns)) as files:
        (whole,) = _prepare(spec, formatter, files, shots, limit, range(seed, seed + 1), split or spec.split, choose)
    parts = ([item for i, item in enumerate(whole.items) if (i in held) == is_held] for is_held in (False, True))
    kept, others = (replace(whole, items=tuple(part)) for part in parts)
    return kept, others


def prepare_draws(
    spec: TaskSpec,
    shots: int | None = None,
    limit: int | None = None,
    seeds: Sequence[int] = (0,),
    split: str | None = None,
) -> tuple[Prepared, ...]:
    """Return the task with one draw of exemplars for each seed: the same items, as from `prepare_task`.

    No draw's exemplars are among the items. A task has one draw if the seed chooses none: without exemplars,
    with exemplars in its rows, or with a sampler that takes them in file order. Raises InputError as `prepare_task`.
    """
    with closing(Formatter(spec)) as formatter, closing(DataFiles(formatter.columns)) as files:
        return _prepare(spec, formatter, files, shots, limit, seeds, split or spec.split)


def _prepare(
    spec: TaskSpec,
    formatter: Formatter,
    files: DataFiles,
    shots: int | None,
    limit: int | None,
    seeds: Sequence[int],
    split: str,
    apart: Apart | None = None,
) -> tuple[Prepared, ...]:
    rows = every = _scored_rows(spec, files, split)
    leaves_out = spec.leave_one_out
    same = leaves_out or split == spec.shots_split
    n_shots = spec.shots if shots is None else shots
    # in file order where exemplars are taken from the scored rows, so that the seed does not change what is scored
    in_order = spec.sampler == "first" or (spec.sampler == "balanced" and same and not leaves_out)
    pools: dict[str, list[RowReference]] = {}
    elsewhere = load_split(spec, spec.shots_split, files) if n_shots and not same else []
    if n_shots:
        for ref in [ref for _, ref in rows] if same else elsewhere:
            pools.setdefault(ref.group, []).append(ref)
    # a task whose rows contain their own exemplars has no shots split, so --shots does not apply
    if spec.shots == 0 and not pools:
        n_shots = 0
    orders: Sequence[int | None] = seeds if n_shots and not in_order else [None]
    group_rows = Counter(ref.group for _, ref in rows)
    draws: list[dict[str, list[RowReference]]] = [{} for _ in orders]  # each one's exemplars by group
    taken: set[str] = set()
    if same and n_shots and not leaves_out:
        for order, exemplars in zip(orders, draws, strict=True):
            for group in group_rows:
                exemplars[group] = draw_shared(spec, formatter, pools.get(group, []), n_shots, order, set())
        taken = {formatter.item(0, ref).key for exemplars in draws for refs in exemplars.values() for ref in refs}
        if spec.sample or (limit is not None and spec.grouped):  # chosen among the rows that are not exemplars
            rows = [(i, ref) for i, ref in rows if formatter.item(0, ref).key not in taken]
    rows = _sampled(rows, spec.sample)
    kept = _DataSize(spec)
    items: list[Item] = []
    refs = []
    for i, ref in _in_turn(rows, limit) if spec.grouped else rows:
        if limit is not None and len(items) == limit:
            break
        item = formatter.item(i, ref)
        if item.key not in taken:
            kept.add([item.row, item.contexts, item.continuations, item.golds], item.where)
            items.append(replace(item, lead=kept.once(formatter.prefix(ref), item.where)))
            refs.append(ref)
    if not items:
        raise InputError(f"{source_name(spec)}: every row of split {split!r} is an exemplar, so none can be scored.")
    if not same and n_shots:
        keys = {item.key for item in items}
        for order, exemplars in zip(orders, draws, strict=True):
            for group in dict.fromkeys(item.group for item in items):
                exemplars[group] = draw_shared(spec, formatter, pools.get(group, []), n_shots, order, keys)
    if leaves_out and n_shots and apart is not None:
        gone = {id(refs[i]) for i in apart(items)}
        pools = {group: [ref for ref in pool if id(ref) not in gone] for group, pool in pools.items()}
        if shots is None:
            n_shots = max(1, min(n_shots, *(len(pool) - 1 for pool in pools.values())))
    elif apart is not None:
        apart(items)
    if leaves_out and n_shots:
        others_of = {g: OtherRows(spec, formatter, pools[g], n_shots) for g in dict.fromkeys(i.group for i in items)}
        prepared = [_with_others(items, others_of, order, kept) for order in orders]
    else:
        prepared = [_with_exemplars(items, exemplars, formatter, kept) for exemplars in draws]
    indices = {item.index for item in items}
    others = elsewhere + [ref for i, ref in every if i not in indices]
    majority = majority_share([formatter.accepted_of(item) for item in items], read_some(others, formatter.accepted))
    return tuple(
        Prepared(
            spec=spec, items=each, n_rows=group_rows.total(), group_rows=group_rows, shots=n_shots, majority=majority,
            commits=commits(refs), is_drawn=orders[0] is not None,
        )
        for each in prepared
    )  # fmt: skip


def _with_exemplars(
    items: Sequence[Item], exemplars: Mapping[str, Sequence[RowReference]], formatter: Formatter, kept: _DataSize
) -> tuple[Item, ...]:
    """Return the items with the solved exemplars of their group before them."""
    solved = {}
    for group, of_group in exemplars.items():
        solved[group] = kept.once("".join(map(formatter.solved, of_group)), of_group[0].where)
    out = []
    for item in items:
        out.append(replace(item, lead=kept.once(item.lead + solved.get(item.group, ""), item.where)))
        _check_length(out[-1])
    return tuple(out)


def _with_others(
    items: Sequence[Item], others: Mapping[str, OtherRows], order: int | None, kept: _DataSize
) -> tuple[Item, ...]:
    """Return the items, each with solved other rows of its group before it."""
    leads: dict[int, str] = {}
    for group, rows in others.items():
        own = [item for item in items if item.group == group]
        leads |= zip((item.index for item in own), rows.before(own, order), strict=True)
    out = []
    for item in items:
        out.append(replace(item, lead=kept.once(item.lead + leads[item.index], item.where)))
        _check_length(out[-1])
    return tuple(out)


class _DataSize:
    """The memory in bytes taken by a data set's rows and prompts."""

    def __init__(self, spec: TaskSpec) -> None:
        self._spec, self._size = spec, 0
        self._texts: dict[str, str] = {}

    def add(self, value: Any, where: str) -> None:
        """Add the size of a value from the row at `where`. Raises InputError beyond the limit."""
        self._size += size_of(value)
        if self._size > _MOST_KEPT:
            raise InputError(
                f"{where}: up to this row, the rows and prompts of task {self._spec.name} take more than "
                f"{_MOST_KEPT >> 20} MB of memory, the limit for a task. Score fewer rows (--limit), or shorten them "
                "or the exemplars."
            )

    def once(self, text: str, where: str) -> str:
        """Return one shared string for all equal texts, counted once. Raises InputError beyond the limit."""
        if text not in self._texts:
            self._texts[text] = text
            self.add(text, where)
        return self._texts[text]


def _check_length(item: Item) -> None:
    """Raise InputError if the prompts of an item's choices are too long in total."""
    if (length := item.length) > _LONGEST_ITEM:
        raise InputError(
            f"{item.where}: the prompts of its choices have {length} characters in total; the limit is "
            f"{_LONGEST_ITEM}. Use fewer choices or shorter texts."
        )


def build_items(
    spec: TaskSpec, shots: int | None = None, limit: int | None = None, seed: int = 0, split: str | None = None
) -> list[Item]:
    """Return the items of `prepare_task`."""
    return list(prepare_task(spec, shots, limit, seed, split).items)


def _scored_rows(spec: TaskSpec, files: DataFiles, split: str) -> list[tuple[int, RowReference]]:
    """Return the split's rows with their indices. Raises InputError if there are none."""
    rows = list(enumerate(load_split(spec, split, files)))
    if not rows:
        names = "" if spec.hub else f"; it has {', '.join(split_names(spec)) or 'no rows'}"
        raise InputError(f"{source_name(spec)}: has no rows of split {split!r}{names}.")
    if spec.rows and split == spec.split and len(rows) != spec.rows:
        _log.warning("%s: split %s has %d rows, expected %d", source_name(spec), split, len(rows), spec.rows)
    if spec.only:
        of_group = [(i, ref) for i, ref in rows if ref.group == spec.only]
        if not of_group:
            raise InputError(f"{source_name(spec)}: split {split!r} has no group {spec.only!r}.")
        return of_group
    return rows


def _sampled(rows: list[tuple[int, RowReference]], sample: int) -> list[tuple[int, RowReference]]:
    """Return a fixed random sample of rows in file order; all rows if `sample` is 0 or there are not more."""
    if not 0 < sample < len(rows):
        return rows
    chosen = np.random.default_rng(_SAMPLE_SEED).choice(len(rows), sample, replace=False)
    return [rows[i] for i in sorted(map(int, chosen))]


def _in_turn(rows: list[tuple[int, RowReference]], limit: int | None) -> list[tuple[int, RowReference]]:
    """Return `limit` rows in file order, chosen from the groups in turn."""
    if limit is None or limit >= len(rows):
        return rows
    rank: dict[str, int] = {}
    order = []
    for n, (_, ref) in enumerate(rows):
        rank[ref.group] = rank.get(ref.group, -1) + 1
        order.append((rank[ref.group], n))
    return [rows[n] for n in sorted(n for _, n in sorted(order)[:limit])]
