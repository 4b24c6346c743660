"""Tests of a judge's preferences in a sweep: against lam 1 and files, resumed, and without unjudged pairs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pa_lite
from pa_lite.alpaca.journal import digest
from pa_lite.alpaca.prompts import Prompt
from pa_lite.engine.chat_options import ChatOptions
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.engine.model_reference import open_model
from pa_lite.errors import EngineError, InputError, OutputError
from pa_lite.study.export import item_rows, to_csv, to_document
from pa_lite.study.judges import describe_judge
from pa_lite.study.plan import StudyOptions, plan_study
from pa_lite.study.report.page import to_html
from pa_lite.study.results import load_study
from pa_lite.study.store import open_store, read_store
from pa_lite.study.sweep import sweep_pair
from pa_lite.study.workloads import AnswersWorkload, WinsWorkload
from pa_lite.tasks.scoring import ScoreOptions

OPTIONS = StudyOptions(
    lams=(0.0, 1.0), tasks=("demo_kind",), score=ScoreOptions(limit=8), alpaca="demo", alpaca_limit=6, judge="demo@1.0"
)


def test_answers_are_judged_against_those_at_lam_1(tmp_path: Path) -> None:
    study = sweep_pair("demo", OPTIONS, tmp_path)
    wins = study.curves.wins
    assert wins is not None
    assert wins.name == "demo, judged by demo@1.0"
    assert wins.values.shape == (2, 6)
    assert wins.values[1].tolist() == [0.5] * 6  # instruct against itself
    assert set(wins.values[0]) != {0.5}
    assert study.curves.compliance is wins
    assert study.examples[0].outputs[0][0] == 0.0
    with open_store(tmp_path) as store:
        assert {c.kind for c in store.cells()} == {"task", "answers", "wins"}
        before = {c.key: c.seconds for c in store.cells()}
    sweep_pair("demo", OPTIONS, tmp_path)
    with open_store(tmp_path) as store:
        assert {c.key: c.seconds for c in store.cells()} == before  # nothing was judged again
        # a pair without a preference at one lam is left out at every lam
        key = next(c.key for c in store.cells() if c.kind == "wins")
        store._connection.execute(
            "UPDATE items SET record = json_set(record, '$.preference', json('null')) WHERE cell = ? AND number = 2",
            (key,),
        )
        again = load_study(store)
    assert again.curves.wins is not None
    assert again.curves.wins.n == 5
    assert not np.isnan(again.curves.wins.values).any()
    assert "1 of 6 pairs were not judged" in again.remarks[0]


def test_csv_contains_every_answer_and_verdict(tmp_path: Path) -> None:
    sweep_pair("demo", OPTIONS, tmp_path)
    with read_store(tmp_path) as store:
        rows = list(item_rows(store))
        outputs = {c.lam: [a["output"] for a in store.items(c.key)] for c in store.cells() if c.kind == "answers"}
    answers = [r for r in rows if r["kind"] == "answers"]
    assert [r["output"] for r in answers] == [*outputs[0.0], *outputs[1.0]]
    lines = to_csv(answers).splitlines()
    assert lines[1].startswith("answers,demo,F16,0.0,0,,")  # an answer has no value
    assert [r["value"] for r in rows if r["kind"] == "wins" and r["lam"] == 1] == [0.5] * 6


def test_system_prompt_is_part_of_cell_and_judged_request(tiny_ggufs: dict[str, Path]) -> None:
    plain, brief = (
        AnswersWorkload(name="x", prompts=(Prompt("the man", None, system),), max_tokens=4)
        for system in ("", "Be brief.")
    )
    assert plain.facts["prompts"] == digest(["the man"])  # the same as before system prompts were supported
    assert brief.facts["prompts"] != plain.facts["prompts"]
    with Model(tiny_ggufs["F32"], EngineOptions(threads=1)) as model:
        records = [work.run(model, [0])[0] for work in (plain, brief)]
    assert [r["instruction"] for r in records] == ["the man", "Be brief.\n\nthe man"]


def test_no_preference_curve_when_nothing_was_judged(tmp_path: Path) -> None:
    sweep_pair("demo", OPTIONS, tmp_path)
    with open_store(tmp_path) as store:
        store._connection.execute(
            "UPDATE items SET record = json_set(record, '$.preference', json('null')) "
            "WHERE cell IN (SELECT key FROM cells WHERE kind = 'wins')"
        )
        study = load_study(store)
    assert study.curves.wins is None
    assert "6 of 6 pairs were not judged" in study.remarks[0]


def test_reference_file(tmp_path: Path) -> None:
    study = sweep_pair("demo", OPTIONS, tmp_path / "a")
    assert study.curves.wins is not None
    with open_store(tmp_path / "a") as store:
        cell = next(c for c in store.cells() if c.kind == "answers" and c.lam == 0.0)
        answers = store.items(cell.key)
    reference = tmp_path / "reference.json"
    reference.write_text(json.dumps([{**a, "generator": "x"} for a in answers]), "utf-8")
    own = sweep_pair("demo", replace(OPTIONS, reference=reference), tmp_path / "b")
    assert own.curves.wins is not None
    assert own.curves.wins.values[0].tolist() == [0.5] * 6
    reference.write_text(json.dumps([{**a, "generator": "x"} for a in answers[:5]]), "utf-8")
    with pytest.raises(InputError, match="has no output for the instruction"):
        sweep_pair("demo", replace(OPTIONS, reference=reference), tmp_path / "c")


def verdicts(folder: Path) -> dict[float, list[Any]]:
    with read_store(folder) as store:
        return {c.lam: store.items(c.key) for c in store.cells() if c.kind == "wins"}


def test_verdicts_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    for workers in (1, 2):
        sweep_pair("demo", replace(OPTIONS, workers=workers), tmp_path / str(workers))
    assert verdicts(tmp_path / "1") == verdicts(tmp_path / "2")


def test_interrupted_judging_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep_pair("demo", OPTIONS, tmp_path / "whole")
    real, judged, is_full = WinsWorkload.run, list[str](), True

    def failing(self: WinsWorkload, model: Model, items: Any) -> Any:
        if judged and is_full:
            raise OutputError("the disk is full")
        judged.append(self.model)
        return real(self, model, items)

    one = replace(OPTIONS, workers=1)
    monkeypatch.setattr(WinsWorkload, "run", failing)
    with pytest.raises(OutputError, match="the disk is full"):
        sweep_pair("demo", one, tmp_path / "run")
    with read_store(tmp_path / "run") as store:
        assert load_study(store).curves.wins is None  # lams count as finished without their preferences
    is_full = False
    sweep_pair("demo", one, tmp_path / "run")
    assert judged == ["demo@0", "demo@1"]
    assert verdicts(tmp_path / "run") == verdicts(tmp_path / "whole")


def test_length_controlled_win_rates_equal_those_of_judge_and_win_rate(tmp_path: Path) -> None:
    study = sweep_pair("demo", replace(OPTIONS, alpaca_limit=12), tmp_path / "run")
    with read_store(tmp_path / "run") as store:
        answers = {c.lam: store.items(c.key) for c in store.cells() if c.kind == "answers"}
    for lam, items in answers.items():
        entries = [{**item, "generator": f"demo@{lam:g}"} for item in items]
        (tmp_path / f"{lam:g}.json").write_text(json.dumps(entries), "utf-8")
    judged = tmp_path / "judged.json"
    pa_lite.judge(tmp_path / "0.json", tmp_path / "1.json", "demo@1.0", judged, allow_empty=True)
    rate = pa_lite.win_rate(judged)
    assert rate.length_controlled is not None
    base, instruct = study.curves.length_controlled
    assert 100 * base.value == pytest.approx(rate.length_controlled.value)
    assert 100 * base.stderr == pytest.approx(rate.length_controlled.fit_stderr)
    assert (instruct.value, instruct.stderr) == (0.5, 0.0)  # by definition
    rows = {(row["group"], row["lam"]): row for row in to_document(study)["averages"]}
    assert rows["preferred, length-controlled (minimal)", 0.0]["value"] == base.value
    assert 100 * rows["preferred", 0.0]["value"] == pytest.approx(rate.win_rate)
    assert dict(study.setting)["length control"] == "by definition, length_controlled_minimal"
    page = to_html(study)
    assert "<th>length-controlled (minimal) %</th>" in page
    assert "<th>length-controlled %</th>" not in page  # that is AlpacaEval's name for the full form


def test_verdicts_of_an_older_version_get_a_length_controlled_rate(tmp_path: Path) -> None:
    whole = sweep_pair("demo", OPTIONS, tmp_path)
    with open_store(tmp_path) as store:
        store._connection.execute("UPDATE cells SET summary = json_remove(summary, '$.length_controlled', '$.version')")
        before = {c.key: c.seconds for c in store.cells()}
        assert load_study(store).curves.length_controlled == ()
    again = sweep_pair("demo", OPTIONS, tmp_path)
    assert again.curves.length_controlled == whole.curves.length_controlled != ()
    assert not any("older pa-lite" in remark for remark in again.remarks)
    with read_store(tmp_path) as store:
        assert {c.key: c.seconds for c in store.cells()} == before  # nothing was judged again


def test_judge_that_differs_from_the_plan_is_refused() -> None:
    with open_model("demo@1.0") as one, open_model("demo@0.5") as other:
        judge = describe_judge(one, "demo@1.0", ChatOptions())
        judge.check(one)
        with pytest.raises(EngineError, match="differs from the one that the study was planned with"):
            judge.check(other)


def test_contradictory_options_are_refused() -> None:
    for change, message in (
        ({"judge": ""}, "--alpaca and --judge require each other"),
        ({"alpaca": ""}, "--alpaca and --judge require each other"),
        ({"lams": (0.0, 0.5)}, "those at lam 1, which is missing"),
        ({"judge": "nothing.gguf"}, "is not a model"),
    ):
        with pytest.raises(InputError, match=message):
            plan_study("demo", replace(OPTIONS, **change))
