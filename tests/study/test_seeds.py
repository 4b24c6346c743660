"""Tests of studies with several draws of exemplars: numbering, values by seed, exports, estimates, and old folders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pa_lite
from pa_lite.errors import InputError
from pa_lite.statistics import spread_over_seeds
from pa_lite.study.export import item_rows, lm_eval_document
from pa_lite.study.plan import StudyOptions, plan_study
from pa_lite.study.results import load_study
from pa_lite.study.rows import read_cell
from pa_lite.study.store import read_store
from pa_lite.study.sweep import estimate_pair, sweep_pair
from pa_lite.study.workloads import TaskWorkload
from pa_lite.tasks.scoring import ScoreOptions

SCORE = ScoreOptions(limit=12, seed=2, seeds=3)
OPTIONS = StudyOptions(lams=(0.3, 0.6), tasks=("demo_kind", "demo_labels"), score=SCORE)
ONE = replace(OPTIONS, score=replace(SCORE, seeds=1))
ONE_DRAW = "e795b3c282b6fce963dbc2e3f3880320"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeds")
    sweep_pair("demo", OPTIONS, folder)
    return folder


def task_of(options: StudyOptions) -> TaskWorkload:
    workload = plan_study("demo", options).workloads[0]
    assert isinstance(workload, TaskWorkload)
    return workload


def test_items_are_numbered_draw_by_draw(run: Path) -> None:
    workload = task_of(OPTIONS)
    assert (workload.seeds, workload.n_items) == (3, 36)
    assert workload.items[12].key == workload.items[0].key
    assert workload.items[12].prompt != workload.items[0].prompt
    with pa_lite.load("demo@0.3") as model:
        scored = model.score("demo_kind", SCORE).tasks[0]
    with read_store(run) as store:
        study = load_study(store)
    kind, labels = study.curves.tasks
    assert kind.by_seed is not None
    assert kind.by_seed.shape == (3, 2, 12)
    assert kind.by_seed[:, 0].tolist() == [[i.value for i in draw.items] for draw in scored.draws]
    assert np.array_equal(kind.values, kind.by_seed.mean(axis=0))
    assert labels.by_seed is None
    assert labels.values.shape == (2, 12)
    assert "Scored once, not with 3 draws of exemplars, as no exemplars are drawn: demo_labels." in study.remarks
    assert dict(study.setting)["seeds for exemplars"] == "2 to 4: each item with 3 draws of exemplars"


def test_summaries_have_the_number_of_seeds_and_the_error_of_both(run: Path) -> None:
    with read_store(run) as store:
        study = load_study(store)
        cells = {(c.name, c.lam): c for c in store.cells()}
    kind = study.curves.tasks[0]
    assert kind.by_seed is not None
    cell = cells["demo_kind", 0.6]
    assert cell.summary is not None
    assert (cell.summary["seeds"], cell.summary["n"], cell.n_items) == (3, 12, 36)
    assert cell.summary["value"] == pytest.approx(kind.values[1].mean())
    assert cell.summary["stderr"] == pytest.approx(spread_over_seeds(kind.by_seed[:, 1]).stderr)
    assert cells["demo_labels", 0.6].seeds == 1


def test_exports_name_item_and_seed_and_average_over_draws(run: Path) -> None:
    with read_store(run) as store:
        rows = [r for r in item_rows(store) if r["name"] == "demo_kind" and r["lam"] == 0.3]
        document = lm_eval_document(store, "F16", 0.3)
        study = load_study(store)
    assert [(r["item"], r["seed"]) for r in rows] == [(i, seed) for seed in (2, 3, 4) for i in range(12)]
    assert document["n-samples"]["demo_kind"] == {"original": 12, "effective": 12}
    values = study.curves.tasks[0].values[0]
    assert document["results"]["demo_kind"]["acc,none"] == pytest.approx(values.mean())
    assert document["results"]["demo_kind"]["acc_stderr,none"] == pytest.approx(values.std(ddof=1) / 12**0.5)


def test_inputs_for_one_draw_are_those_of_earlier_versions() -> None:
    facts = task_of(ONE).facts
    assert set(facts) == {"items", "spec", "shots", "mutual_info", "parallel"}
    # the digest of the release before --seeds
    assert facts["items"] == ONE_DRAW
    assert task_of(OPTIONS).facts["items"] != facts["items"]
    assert task_of(OPTIONS).facts["seeds"] == 3


def test_estimate_counts_items_of_all_draws_and_names_the_change(run: Path) -> None:
    estimate = estimate_pair("demo", OPTIONS, None)
    assert estimate.items == 2 * (3 * 12 + 12)
    changed = estimate_pair("demo", ONE, run)
    assert changed.items == 48
    assert changed.items_left == 24  # demo_labels is the same for any number of draws
    assert changed.stale == {"other items or exemplars (--limit, --shots, --seed, --seeds)": ["demo_kind"]}


def cell_row(n_items: int, seeds: Any, where: str) -> dict[str, Any]:
    table = json.dumps({"seeds": seeds})
    inputs, summary = (f'{{"work": {table}}}', None) if where == "work" else ("{}", table)
    return {
        "key": "0" * 64, "lam": 0.5, "type": "F16", "kind": "task", "name": "t", "n_items": n_items, "n_done": n_items,
        "inputs": inputs, "environment": "{}", "started": 0, "seconds": 0, "summary": summary,
    }  # fmt: skip


@pytest.mark.parametrize("where", ["work", "summary"])
def test_number_of_seeds_in_a_folder_is_checked(where: str) -> None:
    assert read_cell(cell_row(12, 3, where), ["task"])["n_items"] == 12
    for seeds in (0, 1001, 1.5, True, "3"):
        with pytest.raises(ValueError, match=f"'seeds' of {where} is not a number of seeds"):
            read_cell(cell_row(12, seeds, where), ["task"])
    with pytest.raises(ValueError, match="its 12 items cannot be divided over 5 seeds"):
        read_cell(cell_row(12, 5, where), ["task"])


def test_too_many_seeds_are_refused() -> None:
    with pytest.raises(InputError, match="seeds is 2000"):
        pa_lite.plan_sweep("demo", tasks="demo_kind", seeds=2000)
