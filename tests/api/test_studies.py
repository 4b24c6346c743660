"""Studies through the API: sweeping with keywords, reading and writing results, searching, judging."""

from __future__ import annotations

import json
from csv import reader
from pathlib import Path

import pytest

import pa_lite
from pa_lite.errors import InputError, OutputError
from pa_lite.study.export import to_document
from pa_lite.study.goal import Goal
from tests.support.reports import Reports


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> pa_lite.Study:
    run = tmp_path_factory.mktemp("run")
    return pa_lite.sweep(
        "demo", tasks="demo_kind,demo_town", follow="demo", lams="0:1:0.5", limit=24, follow_limit=12, run=run
    )


def test_keywords_measure_what_options_measure(study: pa_lite.Study, tmp_path: Path) -> None:
    options = pa_lite.StudyOptions(
        lams=(0.0, 0.5, 1.0), tasks=("demo_kind", "demo_town"), follow="demo", follow_limit=12,
        score=pa_lite.ScoreOptions(limit=24),
    )  # fmt: skip
    old = pa_lite.sweep("demo", options, tmp_path / "run")
    assert [t.values.tolist() for t in old.curves.tasks] == [t.values.tolist() for t in study.curves.tasks]
    assert study.run is not None
    seen = Reports()
    again = pa_lite.sweep("demo", options, study.run, progress=seen)
    assert seen[0] == ("sweep", seen[0][2], seen[0][2], "items")  # everything was already measured
    assert again.curves.lams == study.curves.lams == (0.0, 0.5, 1.0)


def test_a_study_is_read_from_its_run_folder(study: pa_lite.Study) -> None:
    assert study.run is not None
    read = pa_lite.open_study(study.run)
    assert read.document() == study.document() == to_document(study)
    assert pa_lite.open_study(str(study.run), type="f16").type == "F16"
    with pytest.raises(InputError, match="type 'Q8_0' was not measured"):
        pa_lite.open_study(study.run, type="q8_0")


def test_the_best_lam_and_its_confidence(study: pa_lite.Study) -> None:
    best = study.best(keep_follow=0.95)
    assert best.lam == 1.0
    assert best.low <= best.lam <= best.high
    assert "95% of instruct's following" in best.sentence == str(best)
    assert best.few_shot.low <= best.few_shot.value <= best.few_shot.high
    assert best.gain_over_instruct is not None
    assert best.gain_over_instruct.value == 0
    by_point = study.best(keep_follow=0.95, sure=None)
    assert "95% of instruct's following kept: " in by_point.sentence
    assert "kept in 90% of resamplings" in study.best(keep_follow=0.95, sure=0.9).sentence
    with pytest.raises(InputError, match=r"sure 0\.2 is outside"):
        study.best(keep_follow=0.95, sure=0.2)
    alone = study.best()
    assert alone.lam in study.curves.lams
    assert isinstance(alone.differs, bool)
    with pytest.raises(InputError, match="outside"):
        study.best(keep_follow=95)


def test_files_of_a_study(study: pa_lite.Study, tmp_path: Path) -> None:
    csv = study.to_csv(tmp_path / "items.csv")
    with csv.open(encoding="utf-8", newline="") as file:
        rows = list(reader(file))
    assert rows[0][:6] == ["kind", "name", "type", "lam", "item", "value"]
    assert len(rows) == 1 + 3 * (2 * 24 + 12)
    page = study.report(tmp_path / "page.html")
    assert "<html" in page.read_text("utf-8")
    assert study.plot(tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert "<svg" in study.plot(tmp_path / "curves.svg").read_text("utf-8")
    with pytest.raises(InputError, match=r"a figure must be a \.png or \.svg file"):
        study.plot(tmp_path / "curves.gif")
    for write in (study.to_csv, study.plot, study.report):
        with pytest.raises(OutputError, match="exists already"):
            write(csv)
    assert study.to_csv(csv, force=True) == csv


def test_a_study_without_a_run_folder_is_an_error(study: pa_lite.Study, tmp_path: Path) -> None:
    bare = pa_lite.Study(pair=study.pair, type=study.type, curves=study.curves)
    assert bare.best(keep_follow=0.95).lam == 1.0
    with pytest.raises(InputError, match="has no run folder"):
        bare.to_csv(tmp_path / "items.csv")


def test_two_locations_are_a_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    demo = pa_lite.pairs()["demo"]
    sides = (demo.base, demo.instruct)
    planned = pa_lite.plan_sweep(sides, tasks="demo_kind", lams=[0, 1], limit=8)
    assert (planned.cells, planned.items) == (2, 16)
    study = pa_lite.sweep(sides, tasks=["demo_kind"], lams=[0, 1], limit=8)
    assert (study.pair, study.run) == ("instruct", Path("instruct-study"))
    assert (tmp_path / "instruct-study").is_dir()


def test_old_spellings_of_sweep_warn_and_work(tmp_path: Path) -> None:
    words = {"tasks": "demo_kind", "lams": [0.0, 1.0], "limit": 4}
    with pytest.deprecated_call(match="backend='local'"):
        pa_lite.sweep("demo", run=tmp_path / "a", engine="local", **words)  # type: ignore[arg-type]
    with pytest.deprecated_call(match="run="):
        pa_lite.sweep("demo", folder=tmp_path / "b", **words)  # type: ignore[arg-type]
    assert (tmp_path / "b").is_dir()
    with pytest.raises(InputError, match=r"unknown backend 'rays'\. Did you mean ray"):
        pa_lite.sweep("demo", run=tmp_path / "c", backend="rays", **words)  # type: ignore[arg-type]


def test_a_search_gives_its_lam_and_unpacks_as_before() -> None:
    found = pa_lite.search("demo", tasks="demo", follow="demo", lams="0:1:0.25", keep_follow=0.95)
    assert found.lam in (0.75, 1.0)
    assert 0 <= found.confidence <= 1
    options = pa_lite.StudyOptions(lams=(0.0, 0.25, 0.5, 0.75, 1.0), tasks=("demo",), follow="demo")
    lam, schedules = pa_lite.search("demo", options, Goal(keep_follow=0.95))
    assert schedules is None
    assert (lam.lam, lam.spent) == (found.lam, found.found.spent)


def test_judging_and_win_rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prompts = pa_lite.load_prompts("demo")[:12]
    options = pa_lite.GenerationOptions(max_tokens=12)
    for lam in (0.5, 1.0):
        pa_lite.load("demo", lam=lam).write_outputs(prompts, f"{lam}.json", options)
    judged = pa_lite.judge("0.5.json", "1.0.json", "demo", lam=1, type="f32", allow_empty=True)
    assert judged.judge == "demo@1"
    rate = pa_lite.win_rate("0.5-vs-1.0.json")
    assert rate.n_total == 12
    assert judged.win_rate is not None
    assert rate.win_rate == pytest.approx(100 * judged.win_rate.value)
    assert json.loads(Path("0.5-vs-1.0.json").read_text())[0]["annotator"] == "demo@1"
