"""Tests of a study's claims: the best lam where lams differ measurably, otherwise how many items would show it."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from pa_lite.alpaca.calibration import JudgeCheck
from pa_lite.cli.study import show_curves, show_study
from pa_lite.statistics import Mean, items_to_show
from pa_lite.study.comparisons import best_lam, compare_lams, differences
from pa_lite.study.curves import Curves, Row, Series
from pa_lite.study.export import to_document
from pa_lite.study.goal import Goal
from pa_lite.study.report.matplotlib_charts import curves_svg
from pa_lite.study.report.page import to_html
from pa_lite.study.report.plotly_charts import curves_figure, plane_figure
from pa_lite.study.selection import Interval, paired_p
from pa_lite.study.sentences import _gain
from pa_lite.study.summary import (
    StudySummary,
    best_for,
    comparisons,
    conclusion,
    exemplars_in_words,
    intervals_in_words,
    labels,
    readings,
)

LAMS = (0.0, 0.5, 1.0)
KEEP, FEW_SHOT, BALANCED = "keep 95% of following", "few-shot only", "balanced"


def series(name: str, seed: int, n: int, *rates: float, same_luck: bool = True) -> Series:
    """Return items that are right at each lam with these rates; with `same_luck` all lams share random numbers."""
    rng = np.random.default_rng(seed)
    luck = np.tile(rng.random(n), (len(rates), 1)) if same_luck else rng.random((len(rates), n))
    return Series(name=name, area="a", values=(luck < np.array(rates)[:, None]).astype(np.float64))


def equal(name: str, seed: int, n: int) -> Series:
    return series(name, seed, n, 0.5, 0.5, 0.5)


def sentences(curves: Curves) -> dict[str, str]:
    return {reading.name: reading.sentence for reading in readings(curves)}


def best_lams(curves: Curves) -> dict[str, float | None]:
    return {each.name: None if each.best is None else each.best.lam for each in readings(curves)}


TRUSTED = JudgeCheck(
    n=100, n_model=40, n_reference=60, agreement=Mean(0.75, 0.04), by_length=Mean(0.6, 0.05), beats_length=True,
    beats_chance=True,
)  # fmt: skip
RISING = series("follow", 8, 300, 0.1, 0.5, 0.9)
FALLING = series("task", 9, 300, 0.8, 0.6, 0.4)


def test_equal_lams_have_no_best(capsys: pytest.CaptureFixture[str]) -> None:
    study = StudySummary(
        pair="tiny",
        type="F16",
        curves=Curves(lams=LAMS, tasks=(equal("t", 1, 40), equal("u", 2, 20)), follow=equal("f", 3, 30)),
    )
    curves = study.curves
    assert best_lams(curves) == {KEEP: None, FEW_SHOT: None, BALANCED: None}
    text = conclusion(curves)
    assert "No measurable difference between the lams in few-shot accuracy" in text
    assert "60 items); it takes at least 385 items to show a difference of 2 points (80% power)" in text
    assert "30 prompts); it takes at least 385 prompts to show a difference of 2 points" in text
    assert "So following excludes no lam" in sentences(curves)[KEEP]

    document = to_document(study)
    assert [r["lam"] for r in document["readings"]] == [None, None, None]
    assert set(document["readings"][0]) == {
        "name", "goal", "lam", "low", "high", "shares", "ties", "few_shot", "gain_over_base", "gain_over_instruct",
        "sentence",
    }  # fmt: skip
    average = pytest.approx(np.mean([task.values[0].mean() for task in curves.tasks]))
    assert document["comparisons"]["few-shot"] == {
        "differs": False, "low": average, "high": average, "items": 60, "needed": 385,
    }  # fmt: skip
    assert "highest" not in json.dumps(document)

    show_study(study, False)
    shown = capsys.readouterr().out
    assert not re.search("best|highest|keep 95% of following$", shown, re.MULTILINE)
    assert "at least 385 items" in shown

    drawn = " ".join(ElementTree.fromstring(curves_svg(curves, "title")).itertext())
    assert "no measurable difference between the lams" in drawn
    assert "best" not in drawn
    assert curves_figure(curves, readings(curves))["layout"]["annotations"] == []
    assert plane_figure(curves, readings(curves))["data"][0]["hovertext"] == ["0", "0.5", "1"]
    own = re.sub(r"<script>.*?</script>", "", to_html(study), flags=re.DOTALL)
    assert 'class="best"' not in own
    assert "best for" not in own


def test_needed_items_follow_from_the_variance_of_paired_differences() -> None:
    tasks = [series(f"t{i}", i, n, 0.5, 0.5, 0.5, same_luck=False) for i, n in ((1, 80), (2, 50))]
    found = compare_lams(LAMS, tasks)
    assert not found.differs
    spreads = [np.mean([np.var(t.values[a] - t.values[b], ddof=1) for t in tasks]) for a, b in ((1, 0), (2, 0), (1, 2))]
    assert found.needed == math.ceil((1.959964 + 0.841621) ** 2 * max(spreads) / 0.02**2)
    assert 8000 < found.needed < 12000  # about 7.85 * 0.5 / 0.0004
    assert found.items == 130
    curves = Curves(lams=LAMS, tasks=tuple(tasks))
    assert f"about {found.needed} items to show" in sentences(curves)[FEW_SHOT]
    assert best_lams(curves) == {FEW_SHOT: None}


def test_items_to_show_gives_80_percent_power() -> None:
    """In simulations with that many items, a paired test at 5% finds the difference in 80% of studies."""
    assert items_to_show(0.5, 0.1) == math.ceil(7.848879 * 0.5 / 0.01)
    rng = np.random.default_rng(0)
    n = items_to_show(0.24, 0.1)
    hits = []
    for _ in range(1500):
        # +1 in 17.5%, -1 in 7.5%: mean 0.1, variance 0.25 - 0.01
        gaps = rng.choice([1.0, -1.0, 0.0], n, p=[0.175, 0.075, 0.75])
        hits.append(abs(gaps.mean()) > 1.959964 * gaps.std(ddof=1) / math.sqrt(n))
    assert np.mean(hits) == pytest.approx(0.8, abs=0.03)


def test_items_to_show_assumes_a_minimum_variance() -> None:
    """With binary items 2 points are 2 changed items in 100: 385 items have 8 of them, and 6 are significant."""
    assert items_to_show(0.0) == items_to_show(0.0196) == 385
    rng = np.random.default_rng(1)
    changed = rng.binomial(385, 0.02, 400)
    found = [paired_p([Row(np.ones(k))], draws=2000) < 0.05 if k else False for k in changed]
    assert 0.7 < np.mean(found) < 0.9


def test_single_items_use_the_default_variance() -> None:
    one = Series(name="t", area="a", values=np.array([[1.0], [0.0], [1.0]]))
    found = compare_lams(LAMS, [one])
    assert (found.differs, found.items, found.needed) == (False, 1, math.ceil(7.848879 * 0.5 / 0.0004))
    assert "(0.0% to 100.0%, 1 items)" in conclusion(Curves(lams=LAMS, tasks=(one,)))


def test_equal_few_shot_accuracy_leaves_the_decision_to_following() -> None:
    curves = Curves(lams=LAMS, tasks=(equal("t", 1, 60),), follow=RISING)
    assert best_lams(curves) == {KEEP: 1.0, FEW_SHOT: None, BALANCED: 1.0}  # only lam 1 keeps it
    flat_top = Curves(lams=LAMS, tasks=(equal("t", 1, 60),), follow=series("f", 8, 300, 0.1, 0.9, 0.9))
    assert best_lams(flat_top)[KEEP] is None
    assert sentences(flat_top)[KEEP].startswith(
        "Keep 95% of following: kept by lam 0.5, 1, with no measurable difference between them in few-shot accuracy ("
    )
    assert "at least 385 items to show" in sentences(flat_top)[KEEP]


def test_lams_that_keep_following_must_differ_in_few_shot_accuracy() -> None:
    follow = series("f", 8, 300, 0.1, 0.9, 0.9)
    apart = Curves(lams=LAMS, tasks=(FALLING,), follow=follow)
    assert best_lams(apart) == {KEEP: 0.5, FEW_SHOT: 0.0, BALANCED: 0.5}
    together = Curves(lams=LAMS, tasks=(series("t", 5, 300, 0.9, 0.5, 0.5),), follow=follow)
    assert best_lams(together)[KEEP] is None
    assert best_lams(together)[FEW_SHOT] == 0.0


def test_equal_following_excludes_no_lam() -> None:
    curves = Curves(lams=LAMS, tasks=(FALLING,), follow=equal("f", 3, 50))
    assert best_lams(curves) == {KEEP: None, FEW_SHOT: 0.0, BALANCED: 0.0}
    assert sentences(curves)[KEEP].startswith(
        "Keep 95% of following: no measurable difference between the lams in instructions followed ("
    )
    assert "highest at lam 0" in conclusion(curves)
    never = Curves(lams=LAMS, tasks=(FALLING,), follow=series("f", 3, 50, 0.0, 0.0, 0.0))
    assert "in instructions followed (0.0% at each, 50 prompts)" in conclusion(never)
    assert best_lams(never)[KEEP] is None


def test_preferences_are_used_as_following() -> None:
    curves = Curves(lams=LAMS, tasks=(FALLING,), follow=None, wins=equal("w", 3, 50), judge_check=TRUSTED)
    assert "in preferred over the reference" in sentences(curves)[KEEP]


def test_study_without_following_has_only_the_few_shot_reading() -> None:
    assert best_lams(Curves(lams=LAMS, tasks=(FALLING,))) == {FEW_SHOT: 0.0}
    assert set(comparisons(Curves(lams=LAMS, tasks=(FALLING,)))) == {"few-shot"}
    assert best_lams(Curves(lams=LAMS, tasks=(equal("t", 1, 9),))) == {FEW_SHOT: None}


def test_single_lam_has_no_readings(capsys: pytest.CaptureFixture[str]) -> None:
    task, follow = series("t", 1, 30, 0.5), series("f", 2, 30, 0.5)
    for lam in (0.0, 0.3, 1.0):
        curves = Curves(lams=(lam,), tasks=(task,), follow=follow)
        assert readings(curves) == []
        assert conclusion(curves) == (
            f"Few-shot accuracy: {100 * task.values.mean():.1f}% at lam {lam:g}; with a single lam there is nothing to "
            f"compare. Instructions followed: {100 * follow.values.mean():.0f}% at lam {lam:g}."
        )
        study = StudySummary(pair="tiny", type="F16", curves=curves)
        show_study(study, False)
        assert to_document(study)["readings"] == []
        assert "best" not in capsys.readouterr().out


def test_measurable_differences_are_reported() -> None:
    curves = Curves(lams=LAMS, tasks=(series("t", 1, 160, 0.3, 0.9, 0.4),), follow=series("f", 2, 160, 0.1, 0.5, 0.9))
    text = conclusion(curves)
    best = best_lam(curves)
    assert best.gain_over_instruct is not None
    accuracy, gain = best.few_shot, best.gain_over_instruct
    assert text.startswith(
        f"Few-shot accuracy is highest at lam 0.5: {100 * accuracy.value:.1f}% (95% interval {100 * accuracy.low:.1f}% "
        f"to {100 * accuracy.high:.1f}%), {100 * gain.value:.1f} points above instruct ({100 * gain.low:.1f} to "
        f"{100 * gain.high:.1f}), "
    )
    assert ", on items that did not choose it. Instructions followed: " in text
    assert "no measurable difference" not in text
    near = Curves(lams=LAMS, tasks=(series("t", 1, 160, 0.89, 0.9, 0.4),))
    assert re.search(r"(above|below) base \(.*; no measurable difference\), on items", conclusion(near))
    at_instruct = Curves(lams=LAMS, tasks=(series("t", 1, 160, 0.3, 0.4, 0.9),))
    assert re.search(r"at lam 1: [\d.]+% \(.*\), [\d.]+ points above base \(.*\), on items", conclusion(at_instruct))


def test_a_gain_below_0_is_worded_as_a_loss() -> None:
    assert _gain(Interval(-0.003, -0.02, 0.011), "base") == (
        "0.3 points below base (2.0 below to 1.1 above; no measurable difference)"
    )
    assert _gain(Interval(-0.03, -0.05, -0.01), "base") == "3.0 points below base (1.0 to 5.0)"
    assert _gain(Interval(0.02, 0.004, 0.039), "instruct") == "2.0 points above instruct (0.4 to 3.9)"
    assert _gain(Interval(math.nan, 0.0, 0.1), "base") == "an unknown gain over base"


def test_a_task_of_one_item_leaves_the_best_lams_interval_unknown() -> None:
    one = Series(name="one", area="a", values=np.array([[0.0], [1.0], [0.0]]))
    curves = Curves(lams=LAMS, tasks=(series("t", 1, 160, 0.3, 0.9, 0.4), one))
    assert "(interval unknown), on the items that chose it" in conclusion(curves)
    assert "(interval unknown)" in sentences(curves)[FEW_SHOT]
    assert to_document(StudySummary(pair="tiny", type="F16", curves=curves))["readings"][0]["few_shot"]["value"] is None


def test_the_price_of_keeping_following_surely_is_stated() -> None:
    follow, task = series("f", 6, 200, 0.2, 0.78, 0.8, same_luck=False), series("t", 4, 300, 0.9, 0.7, 0.5)
    curves = Curves(lams=LAMS, tasks=(task,), follow=follow)
    few_shot = task.values.mean(axis=1)
    text = sentences(curves)[KEEP]
    assert text.startswith("Keep 95% of following: lam 1 (the best lam is among 0.5, 1), few-shot ")
    price = f"{100 * (few_shot[1] - few_shot[2]):.1f} few-shot points"
    assert f"this costs {price} against keeping it by the point estimate (lam 0.5)" in text
    assert "no other lam keeps it in 95% of resamplings" in text
    point = best_for(curves, Goal(keep_follow=0.95, sure=None))
    assert (point.lam, "this costs" in point.sentence) == (0.5, False)
    sure = best_for(curves, Goal(keep_follow=0.95))
    assert sure.lam == 1.0
    assert "kept in 95% of resamplings: lam 1" in sure.sentence
    assert sure.few_shot == best_lam(curves, Goal(keep_follow=0.95)).few_shot
    assert sure.gain_over_base is not None
    assert sure.gain_over_base.high < 0 == sure.gain_over_instruct.value  # type: ignore[union-attr]


def test_few_prompts_do_not_show_that_following_is_kept() -> None:
    """Following differs by luck alone: no lam is excluded by a test, and only instruct keeps it surely."""
    follow = series("f", 1, 40, 0.5, 0.5, 0.5, same_luck=False)
    text = sentences(Curves(lams=LAMS, tasks=(FALLING,), follow=follow))[KEEP]
    assert "lam 1" in text
    assert "no other lam keeps it in 95% of resamplings (no measurable difference in instructions followed; " in text


def test_what_intervals_allow_for_is_said() -> None:
    one = Curves(lams=LAMS, tasks=(FALLING,))
    assert intervals_in_words(one) == (
        "95%, over items with the tasks fixed; one draw of exemplars; its effect is not in the intervals (--seeds N "
        "measures it)"
    )
    several = replace(FALLING, by_seed=np.stack([FALLING.values] * 3), clusters=tuple(range(300)))
    assert intervals_in_words(Curves(lams=LAMS, tasks=(several,))) == (
        "95%, over items (those of one passage or question together) with the tasks fixed; 3 draws of exemplars, which "
        "the intervals include"
    )
    assert exemplars_in_words(Curves(lams=LAMS, tasks=(several, FALLING))) == (
        "3 draws of exemplars, for 1 of 2 tasks one, whose effect is not in the intervals"
    )


def test_nothing_is_computed_twice() -> None:
    curves = Curves(lams=LAMS, tasks=(FALLING,), follow=RISING)
    assert readings(curves)[0] is readings(curves)[0]
    assert comparisons(curves) is comparisons(curves)
    assert best_lam(curves) is best_lam(curves, Goal())
    assert replace(curves)._known == {}


def test_lams_between_the_ends_are_compared() -> None:
    base = np.zeros(100)
    up, down = base.copy(), base.copy()
    base[:50] = 1
    up[:55], down[:45] = 1, 1
    lams = (0.0, 0.25, 0.75, 1.0)
    wave = [Series(name="t", area="a", values=np.array([base, up, down, base]))]
    ends = [d.p_corrected for reference in (0, 3) for d in differences(lams, wave, reference)]
    assert min(ends) > 0.05  # 5 points from either end are not significant
    assert compare_lams((0.0, 1.0), [Series(name="t", area="a", values=np.array([up, down]))]).differs  # 10 points are
    assert compare_lams(lams, wave).differs
    without_ends = compare_lams((0.2, 0.5, 0.8), [FALLING])
    assert without_ends.differs


def test_equal_lams_are_rarely_called_different() -> None:
    """The tests are corrected for comparing eleven equally good lams with independent noise."""
    lams = tuple(i / 10 for i in range(11))
    found = [
        compare_lams(lams, [series("t", seed, 100, *[0.5] * 11, same_luck=False)], seed).differs for seed in range(60)
    ]
    assert sum(found) <= 9  # two families of tests at 5% each, and the extremes: less than 15% of 60


def test_readings_mark_table_and_chart(capsys: pytest.CaptureFixture[str]) -> None:
    lams = (0.0, 0.25, 0.5, 0.75, 1.0)
    tasks = (series("t", 1, 300, 0.7, 0.75, 0.65, 0.5, 0.3),)
    curves = Curves(lams=lams, tasks=tasks, follow=series("f", 3, 300, 0.1, 0.1, 0.3, 0.83, 0.85))
    found = readings(curves)
    assert [reading.name for reading in found] == [KEEP, FEW_SHOT, BALANCED]
    assert labels(found) == {0.75: [KEEP, BALANCED], 0.25: ["best few-shot"]}
    show_curves(curves, found[:2])
    rows = [line for line in capsys.readouterr().out.splitlines() if re.match(r" 0|  1", line)]
    assert rows[3].rstrip().endswith("keep 95% of following")
    assert rows[1].rstrip().endswith("best few-shot")
    assert [i for i, row in enumerate(rows) if re.search("[a-z]", row)] == [1, 3]
    drawn = " ".join(ElementTree.fromstring(curves_svg(curves, "title")).itertext())
    assert f"{KEEP}, balanced: lam 0.75" in drawn
    assert "best few-shot: lam 0.25" in drawn
    notes = [note["text"] for note in curves_figure(curves, found)["layout"]["annotations"]]
    assert notes == [f"{KEEP}, balanced: lam 0.75", "best few-shot: lam 0.25"]
    page = to_html(StudySummary(pair="tiny", type="F16", curves=replace(curves)))
    assert re.search(r'<tr class="best"><td>0\.75</td>.*<td>keep 95% of following, balanced</td></tr>', page, re.DOTALL)
