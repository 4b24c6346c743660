"""Tests of a study's judge with known preferences: on its own pairs, on other pairs, resumed, reported, and refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pa_lite
from pa_lite.alpaca.known import read_known
from pa_lite.alpaca.win_rate import FULL
from pa_lite.errors import InputError, OutputError
from pa_lite.study.export import item_rows, to_document
from pa_lite.study.goal import Goal
from pa_lite.study.judged_workloads import CalibrationWorkload
from pa_lite.study.plan import StudyOptions, plan_study
from pa_lite.study.report.publish import ReportOptions, publish
from pa_lite.study.results import load_study
from pa_lite.study.store import open_store, read_store
from pa_lite.study.summary import best_for, readings
from pa_lite.study.sweep import estimate_pair, sweep_pair
from pa_lite.tasks.scoring import ScoreOptions
from tests.cli.test_cli import run
from tests.support.alpaca_files import write_rows

OPTIONS = StudyOptions(
    lams=(0.0, 1.0), tasks=("demo_kind",), score=ScoreOptions(limit=8), alpaca="demo", alpaca_limit=24, judge="demo@0.5"
)
SMALL = replace(OPTIONS, alpaca_limit=4)
OTHERS = [
    {"instruction": f"Count to {i}.", "output_1": f"{i}", "output_2": f"{i} or so", "preference": 1 + i % 2}
    for i in range(21)
]  # fmt: skip


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judged") / "run"
    sweep_pair("demo", OPTIONS, folder)
    return folder


def known_rows(folder: Path, agrees: bool) -> list[dict[str, Any]]:
    """Return preferences for all pairs at lam 0: the judge's own, or always the longer answer's."""
    with read_store(folder) as store:
        cells = {(c.kind, c.lam): c for c in store.cells()}
        first, last, verdicts = (store.items(cells[key].key) for key in (("answers", 0), ("answers", 1), ("wins", 0)))
    rows = []
    for a, b, v in zip(first, last, verdicts, strict=True):
        preference = (
            v["preference"]
            if agrees
            else 1.5 + (len(a["output"]) > len(b["output"])) / 2 - (len(a["output"]) < len(b["output"])) / 2
        )
        rows.append({
            "instruction": a["instruction"], "output_1": b["output"], "output_2": a["output"],
            "preference": preference, "annotator": "people",
        })  # fmt: skip
    return rows


def test_lams_are_ranked_by_a_judge_that_agrees_with_known_preferences(run_folder: Path, tmp_path: Path) -> None:
    known = write_rows(tmp_path / "known.json", known_rows(run_folder, agrees=True))
    before = pa_lite.open_study(run_folder)
    assert before.curves.judge_check is None
    with pytest.raises(InputError, match="was not compared with known preferences"):
        best_for(before.curves, Goal(weight=0.5))
    study = pa_lite.open_study(run_folder, calibration=known)
    check = study.curves.judge_check
    assert check is not None
    assert check.n >= 20
    assert check.agreement.value == 1.0
    assert check.is_trusted
    assert best_for(study.curves, Goal(weight=0.5)).lam in (0.0, 1.0)
    assert not any("not compared" in r.sentence for r in readings(study.curves))
    assert any(remark.startswith("Calibration: on ") for remark in study.remarks)
    adjusted = [remark for remark in study.remarks if remark.startswith("Win rates adjusted by the known preferences")]
    assert len(adjusted) == 1
    assert "lam 0 " in adjusted[0]
    assert "lam 1 " not in adjusted[0]  # its pairs are not among the known ones
    assert to_document(study)["judge_check"]["n"] == check.n


def test_lams_are_not_ranked_by_a_judge_that_length_beats(run_folder: Path, tmp_path: Path) -> None:
    known = write_rows(tmp_path / "known.json", known_rows(run_folder, agrees=False))
    page = tmp_path / "report.html"
    _, study = publish(run_folder, ReportOptions(output=page, calibration=known))
    check = study.curves.judge_check
    assert check is not None
    assert not check.beats_length
    assert check.by_length.value == 1.0
    text = page.read_text("utf-8")
    assert ", so lams are not ranked by it" in text
    assert "Pareto-optimal" not in text.partition("<script")[0]


def test_sweep_stores_known_preferences_of_its_pairs(run_folder: Path, tmp_path: Path) -> None:
    known = write_rows(tmp_path / "known.json", [*known_rows(run_folder, agrees=True), *OTHERS])
    study = sweep_pair("demo", replace(OPTIONS, calibration=known), tmp_path / "run")
    assert study.curves.judge_check == pa_lite.open_study(run_folder, calibration=known).curves.judge_check
    with read_store(tmp_path / "run") as store:
        assert "calibration" not in {c.kind for c in store.cells()}  # 20 known pairs are enough
    known.unlink()
    assert pa_lite.open_study(tmp_path / "run").curves.judge_check == study.curves.judge_check
    again = sweep_pair("demo", OPTIONS, tmp_path / "run")
    assert again.curves.judge_check is None  # as last run


def test_judge_of_a_study_judges_other_known_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = write_rows(tmp_path / "known.json", OTHERS)
    options, folder = replace(SMALL, calibration=known), tmp_path / "run"
    assert estimate_pair("demo", options, folder).calibration == 21
    real, is_full = CalibrationWorkload.run, True

    def failing(self: CalibrationWorkload, *words: Any) -> Any:
        if is_full:
            raise OutputError("the disk is full")
        return real(self, *words)

    monkeypatch.setattr(CalibrationWorkload, "run", failing)
    with pytest.raises(OutputError, match="the disk is full"):
        sweep_pair("demo", options, folder)
    assert pa_lite.open_study(folder).curves.judge_check is None
    is_full = False
    study = sweep_pair("demo", options, folder)
    check = study.curves.judge_check
    assert check is not None
    assert (check.n, check.by_length.value, check.win_rate) == (21, 0.5, None)
    assert study.curves.lams == (0.0, 1.0)
    assert not any("adjusted" in remark for remark in study.remarks)
    with open_store(folder) as store:
        cells = {c.key: c.seconds for c in store.cells()}
        (cell,) = (c for c in store.cells() if c.kind == "calibration")
        assert (cell.name, cell.n_items) == ("known, judged by demo@0.5", 21)
        rows = [r for r in item_rows(store) if r["kind"] == "calibration"]
        assert {(r["type"], r["lam"]) for r in rows} == {(None, None)}
        verdicts = store.items(cell.key)
    right = [
        [(v["preference"] > 1.5) == bool(i % 2) for i, v in enumerate(verdicts) if i % 2 == side] for side in (0, 1)
    ]
    assert check.agreement.value == pytest.approx(sum(sum(side) / len(side) for side in right) / 2)
    sweep_pair("demo", options, folder)
    with read_store(folder) as store:
        assert {c.key: c.seconds for c in store.cells()} == cells  # nothing was judged again

    words = ["demo", "--lam", "0,1", "--tasks", "demo_kind", "--limit", 8, "--alpaca", "demo", "--alpaca-limit", 4]
    words += ["--judge", "demo@0.5", "--calibration", known, "--run", folder]
    status, out, _ = run(capsys, "sweep", *words, "--dry-run")
    assert status == 0
    assert (
        "the judge also judges the 21 pairs of --calibration, unless at least 20 of them are among the study's" in out
    )
    out = run(capsys, "sweep", *words)[1]
    assert "on 21 pairs the judge agrees with known preferences in" in out
    document = json.loads(run(capsys, "report", folder, "--json")[1])
    assert document["judge_check"]["n"] == 21


def test_signs_of_an_undecided_judge_are_shown(run_folder: Path, tmp_path: Path) -> None:
    sweep_pair("demo", SMALL, tmp_path)
    with open_store(tmp_path) as store:
        store._connection.execute(
            "UPDATE items SET record = json_set(record, '$.preference', 1.5, '$.answer_mass', 0.2, "
            "'$.reference_first', 0.1, '$.model_first', 0.9) WHERE cell IN (SELECT key FROM cells WHERE kind = 'wins')"
        )
        study = load_study(store)
    assert [sign.split()[2] for sign in study.curves.judge_signs] == ["prefers", "would", "prefers", "gives"]
    assert "Warning: the judge prefers neither answer in 100% of pairs." in study.remarks
    assert to_document(study)["judge_signs"] == list(study.curves.judge_signs)
    with open_store(tmp_path) as store:  # records of other versions may lack all of this
        store._connection.execute(
            "UPDATE items SET record = json_object('preference', 1.5) "
            "WHERE cell IN (SELECT key FROM cells WHERE kind = 'wins')"
        )
        assert load_study(store).curves.judge_signs == ()


def test_verdicts_of_an_older_version_get_keys_of_pairs(run_folder: Path, tmp_path: Path) -> None:
    known = write_rows(tmp_path / "known.json", known_rows(run_folder, agrees=True))
    folder = tmp_path / "run"
    whole = sweep_pair("demo", replace(OPTIONS, calibration=known), folder)
    with open_store(folder) as store:
        store._connection.execute(
            "UPDATE cells SET summary = json_set(json_remove(summary, '$.pairs'), '$.version', 2) WHERE kind = 'wins'"
        )
        assert load_study(store).curves.judge_check is None
        with pytest.raises(InputError, match="an older pa-lite judged it and did not record the pairs"):
            load_study(store, known=read_known(known))
        before = {c.key: c.seconds for c in store.cells()}
    again = sweep_pair("demo", replace(OPTIONS, calibration=known), folder)
    assert again.curves.judge_check == whole.curves.judge_check
    with read_store(folder) as store:
        assert {c.key: c.seconds for c in store.cells()} == before  # nothing was judged again


def test_length_controlled_rates_of_different_forms_are_not_one_curve(run_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder, tmp_path / "run")
    with open_store(tmp_path / "run") as store:
        keys = [c.key for c in sorted(store.cells(), key=lambda c: c.lam) if c.kind == "wins"]

        def forms(*given: str) -> None:
            for key, form in zip(keys, given, strict=True):
                control = json.dumps({"value": 0.4, "stderr": 0.0, "fit_stderr": 0.1, "form": form, "note": None})
                store._connection.execute(
                    "UPDATE cells SET summary = json_set(summary, '$.length_controlled', json(?)) WHERE key = ?",
                    (control, key),
                )

        for given, is_minimal in (((FULL, FULL), False), (("length_controlled_minimal", "by definition"), True)):
            forms(*given)
            found = load_study(store)
            assert len(found.curves.length_controlled) == 2
            assert found.curves.is_minimal_control == is_minimal
            groups = {row["group"] for row in to_document(found)["averages"]}
            assert ("preferred, length-controlled" in groups) != is_minimal
            assert ("preferred, length-controlled (minimal)" in groups) == is_minimal
        forms(FULL, "length_controlled_minimal")
        mixed = load_study(store)
    assert mixed.curves.length_controlled == ()
    assert "they have the full form at some lams, the minimal at others." in " ".join(mixed.remarks)


def test_unusable_calibrations_are_refused(run_folder: Path, tmp_path: Path) -> None:
    others = write_rows(tmp_path / "others.json", OTHERS)
    with pytest.raises(InputError, match=r"has none of the pairs that the judge of .* judged"):
        pa_lite.open_study(run_folder, calibration=others)
    with pytest.raises(InputError, match="--calibration compares a judge with known preferences: add --alpaca"):
        plan_study("demo", replace(OPTIONS, alpaca="", judge="", calibration=others))
    empty = write_rows(tmp_path / "empty.json", [{**OTHERS[0], "preference": None}])
    with pytest.raises(InputError, match="none of its 1 entries has a preference"):
        sweep_pair("demo", replace(SMALL, calibration=empty), tmp_path / "run")
    rows = [{**r, "annotator": "demo@0.5"} for r in OTHERS]
    with pytest.raises(InputError, match="the judge itself"):
        sweep_pair("demo", replace(SMALL, calibration=write_rows(tmp_path / "own.json", rows)), tmp_path / "own")
    plain = sweep_pair("demo", StudyOptions(lams=(0.0, 1.0), tasks=("demo_kind",), score=OPTIONS.score), tmp_path / "p")
    assert plain.curves.wins is None
    with pytest.raises(InputError, match="the study has no judge to compare with"):
        pa_lite.open_study(tmp_path / "p", calibration=others)


@pytest.mark.parametrize(("change", "message"), [
    ("UPDATE cells SET summary = json_set(summary, '$.pairs', json('[\"x\"]')) WHERE kind = 'wins'",
     "'pairs' of summary is not a list of keys of pairs"),
    ("UPDATE cells SET summary = json_remove(summary, '$.pairs[0]') WHERE kind = 'wins'",
     "summary has 23 pairs for 24 items"),
    ("REPLACE INTO facts VALUES ('known', '{\"x\": [1, 1]}')", "value is not an object of known preferences"),
    ("REPLACE INTO facts VALUES ('known', '{\"' || substr(hex(zeroblob(24)), 1, 48) || '\": [1, 2]}')",
     "value is not an object of known preferences"),
])  # fmt: skip
def test_damaged_values_are_named(run_folder: Path, tmp_path: Path, change: str, message: str) -> None:
    shutil.copytree(run_folder, tmp_path / "run")
    with open_store(tmp_path / "run") as store:
        store._connection.execute(change)
        with pytest.raises(InputError, match="the results are damaged") as e:
            load_study(store)
    assert message in str(e.value)
