"""A search that is interrupted continues from its folder, with the same result and without repeating work."""

from __future__ import annotations

from pathlib import Path

import pytest

import pa_lite
from pa_lite.api.searching import plan_search
from pa_lite.errors import InputError
from pa_lite.study.goal import Goal
from pa_lite.study.plan import StudyOptions
from pa_lite.study.search.halving import SearchOptions
from pa_lite.study.store import read_store
from pa_lite.study.worker import LocalWorker
from pa_lite.tasks.scoring import ScoreOptions

OPTIONS = StudyOptions(
    lams=(0.0, 0.5, 1.0), tasks=("demo_town", "demo_kind"), follow="demo", follow_limit=20, score=ScoreOptions(limit=30)
)
GOAL = Goal(keep_follow=0.95)


def items_in(folder: Path) -> int:
    with read_store(folder) as store:
        return sum(map(len, store.done().values()))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of items of each evaluation on the model."""
    sizes: list[int] = []
    run = LocalWorker.run

    def counting(self: LocalWorker, *words: object, **named: object) -> object:
        sizes.append(len(words[3]))  # type: ignore[arg-type]
        return run(self, *words, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(LocalWorker, "run", counting)
    return sizes


@pytest.mark.parametrize("schedules", [False, True])
def test_an_interrupted_search_continues(tmp_path: Path, counted: list[int], schedules: bool) -> None:
    whole = pa_lite.search("demo", OPTIONS, GOAL, schedules=schedules, run=tmp_path / "whole")
    n_evaluations, n_items = len(counted), sum(counted)
    counted.clear()
    stop_at = n_evaluations // 2

    def progress(_phase: str, _done: int, _total: int, _unit: str) -> None:
        if len(counted) > stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pa_lite.search("demo", OPTIONS, GOAL, schedules=schedules, run=tmp_path / "run", progress=progress)
    kept = items_in(tmp_path / "run")
    assert 0 < kept < n_items
    counted.clear()
    assert pa_lite.search("demo", OPTIONS, GOAL, schedules=schedules, run=tmp_path / "run") == whole
    assert sum(counted) == n_items - kept
    counted.clear()
    assert pa_lite.search("demo", OPTIONS, GOAL, schedules=schedules, run=tmp_path / "run") == whole
    assert counted == []
    assert pa_lite.search("demo", OPTIONS, GOAL, schedules=schedules) == whole  # without a folder


def test_other_options_evaluate_anew(tmp_path: Path, counted: list[int]) -> None:
    first = pa_lite.search("demo", OPTIONS, GOAL, run=tmp_path)
    n = sum(counted)
    counted.clear()
    other = pa_lite.search("demo", OPTIONS, Goal(), SearchOptions(seed=1), run=tmp_path)
    assert sum(counted) > 0
    counted.clear()
    assert pa_lite.search("demo", OPTIONS, GOAL, run=tmp_path) == first
    assert pa_lite.search("demo", OPTIONS, Goal(), SearchOptions(seed=1), run=tmp_path) == other
    assert counted == []
    assert items_in(tmp_path) > n


def test_folders_of_sweeps_and_of_searches_are_not_mixed(tmp_path: Path) -> None:
    options = StudyOptions(lams=(0.0, 1.0), tasks=("demo_kind",), score=ScoreOptions(limit=5))
    pa_lite.sweep("demo", options, tmp_path / "sweep")
    with pytest.raises(InputError, match="contains the results of a sweep"):
        pa_lite.search("demo", OPTIONS, run=tmp_path / "sweep")
    pa_lite.search("demo", options, run=tmp_path / "search")
    with pytest.raises(InputError, match="contains a search, not a study"):
        pa_lite.open_study(tmp_path / "search")
    for refused in (pa_lite.sweep, pa_lite.plan_sweep):
        with pytest.raises(InputError, match="contains a search, not a study"):
            refused("demo", options, tmp_path / "search")
    assert pa_lite.search("demo", options, run=tmp_path / "search").lam in options.lams


def test_the_estimate_of_a_search_counts_its_evaluations() -> None:
    found = plan_search("demo", OPTIONS, Goal(), SearchOptions())
    assert (found.items, found.workers) == (3 * 80, 1)  # too few items for a race: all of them
    assert found.seconds is not None
    half = plan_search("demo", OPTIONS, Goal(), SearchOptions(budget=0.5))
    assert half.items == 3 * 40
