"""Pairs and models on the command line, in every form; old spellings keep working."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

import pa_lite
from tests.cli.test_cli import run

MODELS = Path(str(pa_lite.pairs()["demo"].base)).parent
SIDES = (MODELS / "base", MODELS / "instruct")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_model_is_named_in_three_ways(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    demo = pa_lite.pairs()["demo"]
    found = []
    for words in (["demo@0.7"], ["demo", "--lam", "0.7"], [str(demo.base), str(demo.instruct), "--lam", "0.7"]):
        status, out, err = run(capsys, "score", *words, "--tasks", "demo_kind", "--limit", 8, "--json", "--threads", 1)
        assert (status, err) == (0, "")
        found.append(json.loads(out))
    assert [document["model_name"] for document in found] == ["demo@0.7", "demo@0.7", "instruct@0.7"]
    assert found[0]["results"] == found[1]["results"] == found[2]["results"]
    assert found[0]["pa_lite"]["identity"] == found[2]["pa_lite"]["identity"]


@pytest.mark.parametrize(
    "command", ["score demo --tasks demo", "follow demo", "generate demo --prompts demo", "harness demo --tasks x"]
)
def test_measuring_a_pair_needs_a_lam(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    if command.startswith("harness"):
        pytest.importorskip("lm_eval")
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *command.split())
    assert (status, out) == (1, "")
    assert err == ("error: 'demo' is a pair, and a model needs a lam: write demo@0.6, or add --lam 0.6.\n")


def test_three_arguments_are_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("score", "follow"):
        status, _, err = run(
            capsys, command, "a", "b", "c", "--lam", "0.5", *(["--tasks", "demo"] if command == "score" else [])
        )
        assert status == 2
        assert "got 3 arguments for MODEL: give one, or BASE and INSTRUCT." in err


def test_a_pair_is_named_in_two_ways(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sides = [str(MODELS / "base"), str(MODELS / "instruct")]
    diffs = [run(capsys, "diff", *words, "--json") for words in (["demo"], sides)]
    assert diffs[0][:2] == diffs[1][:2]
    assert diffs[0][0] == 0
    for words in (["demo"], sides, ["--pair", "demo"]):
        assert run(capsys, "merge", *words, "--lam", "0.5", "--type", "q8_0")[0] == 0
        (name,) = os.listdir(tmp_path)
        assert name.endswith("-pa0.50-Q8_0.gguf")
        os.unlink(name)
    for words, folder in ((["demo"], "demo-study"), (sides, "instruct-study")):
        status, _, err = run(
            capsys, "sweep", *words, "--tasks", "demo_kind", "--lam", "0,1", "--limit", 4, "--type", "f16"
        )
        assert status == 0
        assert err.startswith(f"see it: pa-lite report {folder}\nundecided: the lams do not differ measurably.")
        assert (tmp_path / folder / "study.sqlite").is_file()
    status, out, _ = run(capsys, "search", *sides, "--tasks", "demo", "--lam", "0,0.5,1", "--limit", 30, "--json")
    assert status == 0
    assert json.loads(out)["lam"]["lam"] in (0.0, 0.5, 1.0)


@pytest.mark.parametrize("command", ["merge ./Base --lam 0.5", "diff ./Base", "sweep ./Base --tasks demo"])
def test_one_location_is_not_a_pair(capsys: pytest.CaptureFixture[str], command: str) -> None:
    status, _, err = run(capsys, *command.split())
    assert status == 1
    assert err == "error: './Base' is one location, but a pair has two: give both BASE and INSTRUCT.\n"


def test_the_backend_option_has_its_old_name_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for word in ("--backend", "--engine"):
        status, _, _ = run(
            capsys,
            "sweep",
            "demo",
            "--tasks",
            "demo_kind",
            "--lam",
            "0,1",
            "--limit",
            4,
            word,
            "local",
            "--run",
            tmp_path,
        )
        assert status == 0
        assert run(capsys, "sweep", "demo", "--tasks", "demo_kind", word, "rays", "--run", tmp_path)[0] == 2
    status, out, _ = run(capsys, "sweep", "--help")
    assert "--backend [local|ray]" in out
    assert "--engine" not in out


def test_defaults_of_options_are_those_of_the_option_classes() -> None:
    from pa_lite import cli
    from pa_lite.api.serving import CHAT_GENERATION

    classes: dict[str, list[object]] = {
        "generate": [pa_lite.GenerationOptions()], "compare": [pa_lite.GenerationOptions(), pa_lite.EngineOptions()],
        "chat": [CHAT_GENERATION, pa_lite.EngineOptions()], "sweep": [pa_lite.ScoreOptions(), pa_lite.EngineOptions()],
        "search": [pa_lite.SearchOptions(), pa_lite.ScoreOptions()],
        "merge": [pa_lite.PlanOptions(), pa_lite.MergeOptions()],
        "score": [pa_lite.ScoreOptions(), pa_lite.EngineOptions()], "judge": [pa_lite.JudgeOptions()],
        "harness": [pa_lite.EngineOptions()], "follow": [pa_lite.EngineOptions(), pa_lite.GenerationOptions()],
    }  # fmt: skip
    compared = 0
    for name, options in classes.items():
        for parameter in cli.cli.commands[name].params:
            for one in options:
                if hasattr(one, parameter.name or "") and (name, parameter.name) not in {
                    ("follow", "max_tokens"), ("follow", "seed"), ("merge", "max_memory"), ("merge", "tensor_types"),
                    ("merge", "schedule"), ("score", "noise_sample"), ("generate", "stop"), ("compare", "stop"),
                    ("chat", "stop"),
                }:  # fmt: skip
                    assert parameter.default in (getattr(one, parameter.name or ""), None) or (
                        "Sentinel" in type(parameter.default).__name__
                    ), (name, parameter.name)
                    compared += 1
    assert compared > 25


def test_reports_find_a_pairs_study_and_name_those_here(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    common = ["--tasks", "demo_kind", "--lam", "0,1", "--limit", 4]
    assert run(capsys, "sweep", "demo", *common)[0] == 0
    assert run(capsys, "sweep", *(shutil.copytree(side, tmp_path / side.name) for side in SIDES), *common)[0] == 0
    assert run(capsys, "report", "demo")[1] == f"{Path('demo-study') / 'report.html'}\n"
    assert run(capsys, "report", "instruct-study")[0] == 0
    status, _, err = run(capsys, "report", "nosuchstudy")
    assert (status, err) == (1, "error: nosuchstudy: no study was found. Studies here: demo-study, instruct-study.\n")
    assert run(capsys, "report", "instruct")[1] == f"{Path('instruct-study') / 'report.html'}\n"
    status, _, err = run(capsys, "sweep", "demo", *common, "--run", "base")
    assert (status, "contains a model (config.json), not a study" in err) == (1, True)
    assert not (tmp_path / "base" / "study.sqlite").exists()


def test_sweeps_of_suspicious_pairs_are_remarked(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    common = ["--tasks", "demo_kind", "--lam", "0,1", "--limit", 2, "--dry-run"]
    assert run(capsys, "sweep", *SIDES[::-1], *common)[0] == 0
    assert "base and instruct may be swapped: only the base side has a chat template" in caplog.messages
    assert run(capsys, "search", SIDES[0], SIDES[0], *common)[0] == 0
    assert "base and instruct are the same model: every lam gives that model" in caplog.messages


@pytest.mark.parametrize("command", ["sweep", "search"])
def test_instructions_that_the_demo_cannot_follow_get_one_note(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["demo", "--tasks", "demo_kind", "--follow", "--follow-limit", 1, "--lam", "0,1", "--limit", 1]
    status, _, err = run(capsys, command, *words, "--dry-run")
    assert (status, err.count("note: the demo pair knows only its own instructions")) == (0, 1)


def test_search_says_that_following_is_not_its_goal(capsys: pytest.CaptureFixture[str]) -> None:
    common = ["search", "demo", "--tasks", "demo_kind", "--follow", "--follow-limit", 4, "--lam", "0,1", "--limit", 4]
    status, out, err = run(capsys, *common)
    assert status == 0
    assert "note: the demo pair knows only its own instructions: use --follow demo." in err
    assert "note: following was measured, but the goal is few-shot accuracy alone" in err
    assert "Results: demo-search" in out
