"""A judge's preferences in a sweep: ties with the reference itself, resumed, and what cannot be judged left out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pa_lite.alpaca.journal import digest
from pa_lite.alpaca.prompts import Prompt
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.errors import InputError
from pa_lite.study.export import item_rows, to_csv
from pa_lite.study.plan import StudyOptions, plan_study
from pa_lite.study.results import load_study
from pa_lite.study.store import open_store, read_store
from pa_lite.study.sweep import sweep_pair
from pa_lite.study.workloads import AnswersWorkload
from pa_lite.tasks.scoring import ScoreOptions

OPTIONS = StudyOptions(
    lams=(0.0, 1.0), tasks=("demo_kind",), score=ScoreOptions(limit=8), alpaca="demo", alpaca_limit=6, judge="demo@1.0"
)


def test_answers_are_judged_against_instructs_own(tmp_path: Path) -> None:
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
        # one verdict without a preference: its pair is left out at every lam
        key = next(c.key for c in store.cells() if c.kind == "wins")
        store._connection.execute(
            "UPDATE items SET record = json_set(record, '$.preference', json('null')) WHERE cell = ? AND number = 2",
            (key,),
        )
        again = load_study(store)
    assert again.curves.wins is not None
    assert again.curves.wins.n == 5
    assert not np.isnan(again.curves.wins.values).any()
    assert "1 of 6 pairs could not be judged" in again.remarks[0]


def test_every_answer_and_verdict_is_in_the_csv(tmp_path: Path) -> None:
    sweep_pair("demo", OPTIONS, tmp_path)
    with read_store(tmp_path) as store:
        rows = list(item_rows(store))
        outputs = {c.lam: [a["output"] for a in store.items(c.key)] for c in store.cells() if c.kind == "answers"}
    answers = [r for r in rows if r["kind"] == "answers"]
    assert [r["output"] for r in answers] == [*outputs[0.0], *outputs[1.0]]
    lines = to_csv(answers).splitlines()
    assert lines[1].startswith("answers,demo,F16,0.0,0,,")  # an answer has no value of its own
    assert [r["value"] for r in rows if r["kind"] == "wins" and r["lam"] == 1] == [0.5] * 6


def test_a_prompts_system_prompt_is_part_of_its_cell_and_of_what_is_judged(tiny_ggufs: dict[str, Path]) -> None:
    plain, brief = (
        AnswersWorkload(name="x", prompts=(Prompt("the man", None, system),), max_tokens=4)
        for system in ("", "Be brief.")
    )
    assert plain.facts["prompts"] == digest(["the man"])  # as before there were any
    assert brief.facts["prompts"] != plain.facts["prompts"]
    with Model(tiny_ggufs["F32"], EngineOptions(threads=1)) as model:
        records = [work.run(model, [0])[0] for work in (plain, brief)]
    assert [r["instruction"] for r in records] == ["the man", "Be brief.\n\nthe man"]


def test_when_nothing_could_be_judged_there_is_no_curve_of_it(tmp_path: Path) -> None:
    sweep_pair("demo", OPTIONS, tmp_path)
    with open_store(tmp_path) as store:
        store._connection.execute(
            "UPDATE items SET record = json_set(record, '$.preference', json('null')) "
            "WHERE cell IN (SELECT key FROM cells WHERE kind = 'wins')"
        )
        study = load_study(store)
    assert study.curves.wins is None
    assert "6 of 6 pairs could not be judged" in study.remarks[0]


def test_a_reference_of_ones_own(tmp_path: Path) -> None:
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


def test_what_does_not_go_together() -> None:
    for change, told in (
        ({"judge": ""}, "a judge belong together"),
        ({"alpaca": ""}, "a judge belong together"),
        ({"lams": (0.0, 0.5)}, "lam 1 must be among the lams"),
        ({"judge": "nothing.gguf"}, "is not a model"),
    ):
        with pytest.raises(InputError, match=told):
            plan_study("demo", replace(OPTIONS, **change))
