"""Tests of searches on real models: evaluations are reported, and schedules differ from their lam in one group."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import pa_lite
from pa_lite.errors import InputError
from pa_lite.merging.schedule import parse_schedule
from pa_lite.study.goal import Goal
from pa_lite.study.plan import plan_study
from pa_lite.study.search.halving import SearchOptions
from pa_lite.study.search.run import candidate_schedules, find_lam, find_schedule
from tests.cli.test_cli import run
from tests.study.test_sweep import OPTIONS
from tests.support.reports import Reports


def test_find_lam_reports_its_evaluations() -> None:
    plan, reports = plan_study("demo", OPTIONS), Reports()
    found = find_lam(plan, Goal(keep_follow=0.9), SearchOptions(budget=0.9), reports)
    assert found.lam in OPTIONS.lams
    assert reports[-1] == ("search", found.spent, int(0.9 * 180), "items")
    assert found.grid == 180
    assert found.spent <= 0.9 * found.grid
    assert len(found.few_shot) == len(found.follow) == len(found.evaluated) == 3


def test_few_items_are_all_measured_and_a_remark_comes_first(caplog: pytest.LogCaptureFixture) -> None:
    plan, reports = plan_study("demo", OPTIONS), Reports()
    found = find_lam(plan, Goal(), progress=reports)
    assert caplog.messages[-1] == (
        "there are too few items for a search within 40% of the grid (60 items): measuring every lam"
    )
    assert found.is_grid
    assert reports[-1] == ("search", 180, 180, "items")
    find_schedule(plan, 0.9, Goal())
    assert caplog.messages[-1].endswith("(60 items): measuring every schedule")
    find_lam(plan, Goal(), SearchOptions(budget=0.5))
    assert caplog.messages[-1].startswith("a budget of 50% may miss a narrow peak with so few items (60)")


def test_several_draws_of_exemplars_are_refused() -> None:
    options = replace(OPTIONS, score=replace(OPTIONS.score, seeds=2))
    with pytest.raises(InputError, match=r"a search draws exemplars once: omit --seeds"):
        find_lam(plan_study("demo", options), Goal())


def test_goal_with_following_requires_an_instruction_set() -> None:
    with pytest.raises(InputError, match=r"this goal requires an instruction set \(--follow\)"):
        find_lam(plan_study("demo", replace(OPTIONS, follow="")), Goal(weight=0.5))


def test_command_keeps_following_surely_or_by_the_point_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["search", "demo", "--tasks", "demo_kind", "--follow", "demo", "--lam", "0,1", "--limit", 12, "--json"]
    for sure, expected in ((None, 0.95), ("0.8", 0.8), ("none", None), ("None", None)):
        given = [] if sure is None else ["--sure", sure]
        code, out, _ = run(capsys, *words, "--follow-limit", 12, "--keep-follow", 0.9, "--budget", 1, *given)
        assert code == 0
        assert json.loads(out)["goal"] == {"weight": 0.0, "keep_follow": 0.9, "sure": expected}
    code, _, error = run(capsys, *words, "--sure", "most")
    assert code == 2
    assert "'most' is not a number or none" in error
    code, _, error = run(capsys, *words, "--sure", "95")
    assert code == 1
    assert "sure 95 is outside [0.5, 1)" in error


def test_find_schedule_around_a_lam() -> None:
    plan = plan_study("demo", OPTIONS)
    assert [s.text for s in candidate_schedules(plan, 0.9)] == [
        "embeddings: 0.7", "attention: 0.7", "ffn: 0.7", "norms: 0.7",
    ]  # fmt: skip
    raced = find_schedule(plan, 0.9, Goal(keep_follow=0.9), SearchOptions(budget=0.5))
    assert raced.candidates == ("lam 0.9", *(s.text for s in candidate_schedules(plan, 0.9)), "lam 1")
    assert raced.text in ("", *raced.candidates)
    assert 0 < raced.spent <= 0.5 * raced.grid


def test_schedules_require_a_plan_without_a_schedule() -> None:
    options = replace(OPTIONS, schedule=parse_schedule("ffn: 0.2"))
    with pytest.raises(InputError, match="omit --schedule, or --schedules"):
        pa_lite.search("demo", options, schedules=True)
