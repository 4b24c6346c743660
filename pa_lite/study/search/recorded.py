"""Evaluations of a search kept in a run folder, so that an interrupted search continues where it stopped.

A search evaluates the same lists of items in the same order each time. Each list is stored as a whole, under cells that
also name the search's options: items that share a batch change each other's scores by rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pa_lite.errors import InputError
from pa_lite.merging.schedule import Schedule
from pa_lite.study.cells import Cell
from pa_lite.study.goal import Goal
from pa_lite.study.plan import StudyPlan, environment, plan_cell
from pa_lite.study.records import Record
from pa_lite.study.search.halving import SearchOptions
from pa_lite.study.store import Store


class Recorded:
    """The evaluations of one plan and one search in a store."""

    def __init__(self, plan: StudyPlan, store: Store, search: Mapping[str, Any]) -> None:
        """Take the store; `search` has the options, as JSON values, that decide which items are evaluated together."""
        self._plan, self._store, self._search = plan, store, dict(search)
        self._known: dict[str, dict[int, Record]] = {}
        self._cells: dict[tuple[float, int, str], Cell] = {}

    def evaluate(
        self, lam: float, workload: int, items: Sequence[int], schedule: Schedule, run: Callable[[], dict[int, Record]]
    ) -> dict[int, Record]:
        """Return the records of the items: the stored ones if all are stored, else those of `run`, which are stored."""
        key = lam, workload, schedule.text
        if key not in self._cells:
            self._cells[key] = self._cell(lam, workload, schedule)
        cell = self._cells[key]
        known = self._records(cell)
        if not known.keys() >= set(items):
            start = time.perf_counter()
            records = run()
            new = {i: record for i, record in records.items() if i not in known}
            self._store.add(cell.key, new, time.perf_counter() - start)
            known.update(new)
        return {i: known[i] for i in items}

    def _cell(self, lam: float, workload: int, schedule: Schedule) -> Cell:
        weight_type, merge = next(iter(self._plan.merges.items()))
        cell = plan_cell(merge, self._plan.options, weight_type, lam, self._plan.workloads[workload], self._plan.chunk)
        inputs = {
            **cell.inputs, "identity": merge.at(lam, schedule).identity, "schedule": schedule.text,
            "search": self._search,
        }  # fmt: skip
        return Cell(lam=lam, type=cell.type, kind=cell.kind, name=cell.name, n_items=cell.n_items, inputs=inputs)

    def _records(self, cell: Cell) -> dict[int, Record]:
        """Return the stored records of a cell, by item; the cell is entered if it is new."""
        if cell.key not in self._known:
            self._store.enter([cell], environment())
            numbers = sorted(self._store.done().get(cell.key, set()))
            self._known[cell.key] = dict(zip(numbers, self._store.items(cell.key), strict=True)) if numbers else {}
        return self._known[cell.key]


def search_facts(options: SearchOptions, goal: Goal) -> dict[str, Any]:
    """Return what decides which items a search evaluates together, as JSON values."""
    return {"budget": options.budget, "seed": options.seed, "goal": asdict(goal)}


def check_is_search(store: Store) -> None:
    """Raise InputError when the folder holds the results of a sweep."""
    if store.facts().get("cells"):
        raise InputError(f"{store.path.parent}: contains the results of a sweep. Name another folder (--run).")
