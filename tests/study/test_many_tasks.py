"""Tests of studies with hundreds of tasks and thousands of lams: proportional time, tables instead of panels."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from pa_lite.errors import InputError
from pa_lite.study.cells import Cell
from pa_lite.study.curves import MOST_PANELS, MOST_TASKS, Curves, Series, pareto_optimal
from pa_lite.study.plan import StudyOptions, plan_study
from pa_lite.study.report.matplotlib_charts import figure_names
from pa_lite.study.report.page import to_html
from pa_lite.study.report.shapes import labels_apart
from pa_lite.study.results import load_study
from pa_lite.study.store import open_store, read_store
from pa_lite.study.summary import StudySummary


def study(n: int) -> StudySummary:
    rng = np.random.default_rng(0)
    tasks = tuple(
        Series(name=f"task{i}", area="a", values=rng.integers(0, 2, (3, 12)).astype(np.float64), majority=0.5)
        for i in range(n)
    )
    return StudySummary(pair="tiny", type="F16", curves=Curves(lams=(0.0, 0.5, 1.0), tasks=tasks))


def test_many_tasks_get_a_table_instead_of_panels() -> None:
    few, many = study(MOST_PANELS), study(MOST_PANELS + 1)
    page = to_html(many)
    assert f"as there are more than\n{MOST_PANELS}" in page
    assert 'id="panels"' not in page
    assert page.count("<td>task") == MOST_PANELS + 1
    assert figure_names(few) == ["curves", "tasks"]
    assert figure_names(many) == ["curves"]


def test_report_time_is_proportional_to_the_number_of_tasks() -> None:
    seconds = []
    to_html(study(MOST_PANELS + 1))  # imports and caches are not timed
    for n in (MOST_PANELS + 50, 4 * (MOST_PANELS + 50)):
        start = time.process_time()
        to_html(study(n))
        seconds.append(time.process_time() - start)
    assert seconds[1] < 8 * seconds[0]


def slow_pareto(first: list[float], second: list[float]) -> list[int]:
    points = list(zip(first, second, strict=True))
    return [i for i, (a, b) in enumerate(points) if not any(c >= a and d >= b and (c > a or d > b) for c, d in points)]


@pytest.mark.parametrize("seed", range(20))
def test_pareto_optimal_points_match_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = (rng.integers(0, 6, 40) / 5 for _ in range(2))  # many are equal
    assert pareto_optimal(first, second) == slow_pareto(first.tolist(), second.tolist())


def test_pareto_optimal_points_of_thousands_of_lams_are_fast() -> None:
    x = np.linspace(0, 1, 100_000)
    start = time.process_time()
    assert len(pareto_optimal(x, 1 - x)) == len(x)
    shown = labels_apart(list(zip(x.tolist(), x.tolist(), strict=True)), [False] * len(x))
    assert shown[0]
    assert shown[-1]
    assert 5 < sum(shown) < 20
    assert time.process_time() - start < 10


def test_too_many_tasks_are_refused_when_planning_and_reading(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"q": "a", "a": "b"}\n' * 3)
    head = '[tasks.t{}]\ndata = "rows.jsonl"\nkind = "G"\ntemplate = "{{{{{{{{ q }}}}}}}}"\nanswers = "a"\n'
    (tmp_path / "many.toml").write_text("".join(head.format(i) for i in range(MOST_TASKS + 1)))
    options = StudyOptions(lams=(0.5,), tasks=(str(tmp_path / "many.toml"),))
    with pytest.raises(InputError, match="1001 tasks given"):
        plan_study("demo", options)
    record = {0: {"metric": "acc", "metrics": {"acc": 1.0}}}
    cells = [Cell(lam=0.5, type="F16", kind="task", name=f"t{i}", n_items=1, inputs={}) for i in range(MOST_TASKS + 1)]
    facts = {"pair": "x", "cells": [c.key for c in cells], "schedule": "", "seed": 0, "limit": None, "parameters": 1}
    with open_store(tmp_path / "run") as store:
        store.enter(cells, {})
        store.note(facts)
        store.add(cells[0].key, record, 0.1)
    with (
        read_store(tmp_path / "run") as store,
        pytest.raises(InputError, match=r"1001 tasks, more than the 1001 lams and"),
    ):
        load_study(store)
