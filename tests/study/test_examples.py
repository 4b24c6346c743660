"""Own rows in a study: the numbers of the task file that they amount to, and staleness when the table changes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import pa_lite
from pa_lite.checkpoints.pairs import models_folder
from pa_lite.study.plan import StudyOptions, plan_study
from tests.cli.test_cli import run


def towns(folder: Path, n: int = 30) -> Path:
    """Write n evenly spaced rows of the demo family `town` as a user would: a CSV of questions and answers."""
    lines = (models_folder() / "demo/data/town.jsonl").read_text("utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["split"] == "test"]
    rows = [rows[i * len(rows) // n] for i in range(n)]
    path = folder / "towns.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "answer"])
        writer.writerows([row["query"], row["choices"][row["answer"]]] for row in rows)
    return path


def test_thirty_rows_show_the_trade_off_and_the_task_file_gives_the_same_numbers(tmp_path: Path) -> None:
    table = towns(tmp_path)
    study = pa_lite.sweep("demo", examples=table, lams=(0, 0.7), run=tmp_path / "run").document()
    assert [task["name"] for task in study["tasks"]] == ["towns"]
    before, after = (average["value"] for average in study["averages"] if average["group"] == "few-shot")
    assert before < 0.8 < 0.9 < after
    written = pa_lite.new_task(table)
    again = pa_lite.sweep("demo", tasks=str(written), lams=(0, 0.7), run=tmp_path / "again").document()
    assert (again["averages"], again["differences"]) == (study["averages"], study["differences"])
    with pa_lite.load("demo@0") as model:
        scored, from_file = model.score(examples=table).tasks[0], model.score(str(written)).tasks[0]
    assert scored.items == from_file.items
    assert scored.accuracy == before


def test_the_table_is_an_input_of_the_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, run_folder = towns(tmp_path, 12), tmp_path / "run"
    options = StudyOptions(lams=(0.0, 1.0), examples=table)  # type: ignore[arg-type]
    pa_lite.sweep("demo", options, run_folder)
    done = pa_lite.plan_sweep("demo", options, run_folder)
    assert (done.items_left, done.stale) == (0, {})
    text = table.read_text("utf-8")
    table.write_text(text.replace("Kyoto", "Paris"), "utf-8")
    changed = pa_lite.plan_sweep("demo", options, run_folder)
    assert changed.items_left == 24
    assert changed.stale == {"other items or exemplars (--limit, --shots, --seed, --seeds)": ["towns"]}
    table.write_text(text.replace("question,answer", "name of it,answer"), "utf-8")  # prompts of lines do not show it
    assert pa_lite.plan_sweep("demo", options, run_folder).items_left == 24
    table.write_text(text, "utf-8")
    assert pa_lite.plan_sweep("demo", options, run_folder).items_left == 0
    table.write_text(text.replace("Kyoto", "Paris"), "utf-8")
    status, out, _ = run(capsys, "sweep", "demo", "--examples", table, "--lam", "0,1", "--run", run_folder, "--dry-run")
    assert status == 0
    assert "24 items, 24 of them to be measured" in out


def test_a_search_takes_examples_and_exemplars_are_the_same_at_every_lam(tmp_path: Path) -> None:
    table = towns(tmp_path, 12)
    found = pa_lite.search("demo", examples=table, lams=(0, 0.5, 1), budget=1.0).found
    assert found.lams == (0.0, 0.5, 1.0)
    assert found.few_shot[0] < found.few_shot[2]
    plan = plan_study("demo", StudyOptions(lams=(0.0, 1.0), examples=table))  # type: ignore[arg-type]
    assert len({plan.cells[i].cell.inputs["work"]["items"] for i in (0, 1)}) == 1


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(pa_lite.PaLiteError, match=r"no task given \(--tasks, or --examples for a table of your own"):
        pa_lite.sweep("demo")
