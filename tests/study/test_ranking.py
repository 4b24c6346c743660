"""Tests that a judge's preferences rank lams only where the judge is known to beat answer length."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pa_lite.cli.study import show_study
from pa_lite.errors import InputError
from pa_lite.study.curves import Curves, Series
from pa_lite.study.export import to_document
from pa_lite.study.goal import Goal
from pa_lite.study.judging import judge_remarks
from pa_lite.study.ranking import judge_statement, ranked, refusal
from pa_lite.study.report.matplotlib_charts import curves_svg
from pa_lite.study.report.page import to_html
from pa_lite.study.report.shapes import plane
from pa_lite.study.summary import StudySummary, against_ends, best_for, comparisons, conclusion, readings
from tests.study.test_summary import FALLING, LAMS, RISING, TRUSTED

STATEMENT = "this judge was not compared with known preferences: lams are not ranked by it (--calibration FILE)"
UNKNOWN = Curves(lams=LAMS, tasks=(FALLING,), wins=RISING)


def test_an_unknown_judge_ranks_no_lam(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(UNKNOWN) == STATEMENT
    assert ranked(UNKNOWN) is None
    found = readings(UNKNOWN)
    assert {r.name: r.best and r.best.lam for r in found} == {
        "keep 95% of following": None, "few-shot only": 0.0, "balanced": None,
    }  # fmt: skip
    assert [STATEMENT in r.sentence for r in found] == [True, False, True]
    assert conclusion(UNKNOWN).endswith(f"T{STATEMENT[1:]}.")
    assert "preferred" not in conclusion(UNKNOWN)
    assert set(comparisons(UNKNOWN)) == {"few-shot"}
    assert "following" not in against_ends(UNKNOWN)
    assert not any(point.is_optimal for point in plane(UNKNOWN, found))
    for goal in (Goal(keep_follow=0.95), Goal(weight=0.5)):
        with pytest.raises(InputError, match="no best lam for this goal: this judge was not compared"):
            best_for(UNKNOWN, goal)
    assert best_for(UNKNOWN, Goal()).lam == 0.0

    study = StudySummary(pair="tiny", type="F16", curves=UNKNOWN)
    show_study(study, False)
    assert "preferred %" in capsys.readouterr().out  # the curve is shown
    page = to_html(study)
    assert STATEMENT[1:] in page
    assert "Pareto-optimal" not in page
    document = to_document(study)
    assert (document["judge_check"], document["judge_signs"]) == (None, [])
    assert {r["group"] for r in document["averages"]} >= {"preferred"}
    flat = replace(UNKNOWN, tasks=(Series(name="t", area="a", values=np.ones((3, 40))),))
    assert "no measurable difference between the lams in few-shot accuracy" in curves_svg(flat, "title")


def test_a_judge_that_beats_chance_and_length_ranks_lams() -> None:
    curves = replace(UNKNOWN, judge_check=TRUSTED)
    assert refusal(curves) == ""
    assert ranked(curves) is RISING
    assert {r.best is not None for r in readings(curves)} == {True}
    assert best_for(curves, Goal(keep_follow=0.95)).lam == 1.0
    assert any(point.is_optimal for point in plane(curves, ()))
    assert judge_remarks(curves) == [
        "Calibration: on 100 pairs the judge agrees with known preferences in 75.0% (s.e. 4.0), the longer answer in "
        "60.0% (s.e. 5.0), either side counted equally: the judge is measurably better than chance and answer length."
    ]


@pytest.mark.parametrize(("n", "reason"), [
    (100, "the judge is not measurably better than answer length, so lams are not ranked by it"),
    (12, "fewer than 20 pairs show nothing, so lams are not ranked by it"),
])  # fmt: skip
def test_a_judge_that_does_not_beat_length_ranks_none(n: int, reason: str) -> None:
    curves = replace(UNKNOWN, judge_check=replace(TRUSTED, n=n, beats_length=False))
    assert refusal(curves) == reason
    assert readings(curves)[0].best is None
    assert conclusion(curves).endswith(f"{reason[0].upper()}{reason[1:]}.")
    assert judge_remarks(curves)[0].startswith(f"Calibration: on {n} pairs the judge agrees")


def test_checked_instructions_are_unaffected_by_the_judge() -> None:
    curves = replace(UNKNOWN, follow=RISING, judge_signs=("the judge prefers neither answer in 90% of pairs",))
    without = Curves(lams=LAMS, tasks=(FALLING,), follow=RISING)
    assert readings(curves) == readings(without)
    assert conclusion(curves) == conclusion(without)
    assert refusal(curves) == ""
    assert judge_statement(curves) == STATEMENT
    assert judge_remarks(curves) == [
        "Warning: the judge prefers neither answer in 90% of pairs.", f"T{STATEMENT[1:]}."
    ]  # fmt: skip
