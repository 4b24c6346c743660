"""Tests of what a study says without labels: fewer bits are better, gains are bits saved, stand-ins are named."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from pa_lite.cli.study import show_study
from pa_lite.errors import InputError
from pa_lite.statistics import items_to_show, mean_interval, spread_of_mean, t_quantile, unit_sums
from pa_lite.study.comparisons import band, best_lam, compare_lams, differences, kept_lams
from pa_lite.study.curves import Curves, Row, Series, averages, means
from pa_lite.study.export import reading_rows, to_document
from pa_lite.study.goal import Goal
from pa_lite.study.measures import AGREEMENT, ANSWERS, FEW_SHOT, FOLLOWING, PREFERRED, TEXT
from pa_lite.study.report.matplotlib_charts import curves_svg, figure_names
from pa_lite.study.report.page import to_html
from pa_lite.study.report.plotly_charts import curves_figure, plane_figure
from pa_lite.study.report.shapes import charts, plane
from pa_lite.study.resampling import unit_draws
from pa_lite.study.selection import Interval, paired_p, paired_spread
from pa_lite.study.sentences import _gain, conclusion
from pa_lite.study.summary import StudySummary, best_for, comparisons, intervals_in_words, labels, readings, table
from tests.study.test_summary import FALLING, LAMS, RISING, TRUSTED, equal


def text(*bits: float, n: int = 40, seed: int = 1, clusters: int = 0) -> Series:
    """Return passages of uneven length with about these bits per byte; lams share what makes a passage hard."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(0, 0.3, n) + rng.normal(0, 0.005, (len(bits), n))
    weights = tuple(map(float, rng.integers(200, 3000, n)))
    of = tuple(i * clusters // n for i in range(n)) if clusters else None
    values = np.array(bits)[:, None] + hard
    return Series(name="notes", area="", values=values, weights=weights, clusters=of, is_share=False)


def agreement(*shares: float, n: int = 60, seed: int = 2) -> Series:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(5, 120, n)
    values = np.array([rng.binomial(tokens, share) / tokens for share in shares])
    return Series(name="everyday", area="", values=values, weights=tuple(map(float, tokens)))


PEAK = text(1.2, 1.0, 1.4)
AGREED = agreement(0.4, 0.8, 1.0)
NATS = replace(text(3.0, 1.0, 0.1, n=60, seed=2), weights=AGREED.weights)
WITHOUT = Curves(lams=LAMS, tasks=(), text=PEAK, agreement=AGREED, answers=NATS)


def test_the_fewest_bits_are_the_best() -> None:
    best = best_lam(WITHOUT, Goal())
    assert best.lam == 0.5
    assert best.ties == ()
    assert best.text is not None
    assert best.text.low < best.text.value < best.text.high
    assert best.text.value == pytest.approx(PEAK.averages()[1], abs=0.05)
    assert np.isnan(best.few_shot.value)
    assert best.gain_over_base is not None
    assert best.gain_over_instruct is not None
    assert best.gain_over_base.value == pytest.approx(0.2, abs=0.02)
    assert best.gain_over_instruct.value == pytest.approx(0.4, abs=0.02)
    assert best.gain_over_base.low > 0.18
    assert WITHOUT.skill_measure is TEXT
    assert means(WITHOUT.skill) == pytest.approx(-PEAK.averages())
    assert max(best.shares) == 1.0


def test_conclusion_and_readings() -> None:
    said = conclusion(WITHOUT)
    assert re.match(r"Bits per byte of text are lowest at lam 0\.5: [01]\.\d{3} \(95% interval", said)
    assert re.search(r", 0\.(39|40)\d fewer than instruct \(0\.\d{3} to 0\.\d{3}\), 0\.(19|20)\d fewer than base", said)
    assert "on windows that did not choose it." in said
    assert "Agreement with instruct: 4" in said
    assert said.endswith(
        "Stand-ins without labels: bits per byte of text for few-shot accuracy, agreement with instruct for "
        "instructions followed."
    )
    found = readings(WITHOUT)
    assert [r.name for r in found] == ["keep 95% of agreement", "text only", "balanced"]
    assert labels(found)[0.5] == ["fewest bits"]
    assert labels(found)[1.0][0] == "keep 95% of agreement"
    assert "few-shot" not in " ".join(r.sentence for r in found)
    best = best_for(WITHOUT, Goal(keep_follow=0.5))
    assert best.lam == 0.5
    assert "fewest bits per byte of text with at least 50% of instruct's agreement beyond base's kept" in best.sentence
    assert best.text is not None


def test_shares_are_kept_of_the_agreement_that_base_does_not_have() -> None:
    """0.8 is 80% of 1.0, but two thirds of the way from base's 0.4."""
    assert WITHOUT.kept is not None
    assert WITHOUT.kept.averages() == pytest.approx(AGREED.averages() - AGREED.averages()[0])
    assert kept_lams(WITHOUT, Goal(keep_follow=0.6, sure=None)) == (1, 2)
    assert kept_lams(WITHOUT, Goal(keep_follow=0.75, sure=None)) == (2,)
    half = replace(WITHOUT, lams=(0.2, 0.5, 1.0))
    assert half.kept is None
    with pytest.raises(InputError, match="lam 0 is missing"):
        best_for(half, Goal(keep_follow=0.5))
    assert [r.name for r in readings(half)] == ["text only"]


def test_equal_texts_have_no_best() -> None:
    flat = replace(WITHOUT, text=text(1.0, 1.0, 1.0))
    said = conclusion(flat)
    assert "No measurable difference between the lams in bits per byte of text (" in said
    assert re.search(r"40 windows\); it takes about \d+ windows to show a difference of 0\.01 bits per byte", said)
    assert [r.best for r in readings(flat)][1] is None
    assert not best_for(flat, Goal()).differs
    found = comparisons(flat)["text"]
    assert found.items == 40
    assert found.low == pytest.approx(1.0, abs=0.2)
    assert not found.differs


def test_tasks_and_following_come_first_where_they_were_measured() -> None:
    both = replace(WITHOUT, tasks=(FALLING,), follow=RISING)
    assert both.skill == (FALLING,)
    assert (both.skill_measure, both.compliance_measure) == (FEW_SHOT, FOLLOWING)
    plain = Curves(lams=LAMS, tasks=(FALLING,), follow=RISING)
    assert [r.sentence for r in readings(both)] == [r.sentence for r in readings(plain)]
    said = conclusion(both)
    assert said.startswith(conclusion(plain).split(". ")[0])
    assert "Bits per byte of text: 1." in said
    assert "Agreement with instruct: 4" in said
    assert "tand-ins" not in said
    text_only = replace(WITHOUT, follow=RISING, agreement=None, answers=None)
    assert [r.name for r in readings(text_only)] == ["keep 95% of following", "text only", "balanced"]
    assert conclusion(text_only).endswith("Stand-ins without labels: bits per byte of text for few-shot accuracy.")
    with_tasks = replace(WITHOUT, tasks=(FALLING,), text=None)
    assert [r.name for r in readings(with_tasks)] == ["keep 95% of agreement", "few-shot only", "balanced"]
    assert best_for(with_tasks, Goal(keep_follow=0.6)).text is None


def test_agreement_takes_the_place_of_an_untrusted_judge_only() -> None:
    judged = replace(WITHOUT, wins=RISING)
    assert judged.compliance_measure is AGREEMENT
    assert replace(judged, judge_check=TRUSTED).compliance_measure is PREFERRED
    assert replace(judged, agreement=None).compliance_measure is PREFERRED
    assert "lams are not ranked by it" not in conclusion(judged)


def test_a_study_of_prompts_alone_names_no_best_lam() -> None:
    alone = replace(WITHOUT, text=None)
    assert readings(alone) == []
    assert conclusion(alone).startswith("Agreement with instruct: ")
    assert plane(alone, []) == []
    with pytest.raises(InputError, match=r"a best lam requires few-shot tasks \(--tasks\), or text \(--text\)"):
        best_for(alone, Goal())
    assert "<svg" in curves_svg(alone, "title")
    assert "Pareto" not in to_html(StudySummary(pair="p", type="F16", curves=alone))


def test_single_lams_and_single_windows_are_described() -> None:
    one = Curves(lams=(0.5,), tasks=(), text=text(1.25, n=3))
    assert re.match(r"Bits per byte of text: 1\.\d+ at lam 0\.5; with a single lam", conclusion(one))
    single = Curves(lams=LAMS, tasks=(), text=text(1.2, 1.0, 1.4, n=1))
    assert "o measurable difference" in conclusion(single)
    assert to_html(StudySummary(pair="p", type="F16", curves=single))


def test_gains_in_bits_are_told_as_bits_saved() -> None:
    assert _gain(Interval(0.05, 0.04, 0.06), "base", TEXT) == "0.050 fewer than base (0.040 to 0.060)"
    assert _gain(Interval(-0.05, -0.06, -0.04), "base", TEXT) == "0.050 more than base (0.040 to 0.060)"
    assert _gain(Interval(-0.01, -0.03, 0.01), "base", TEXT) == (
        "0.010 more than base (0.030 more to 0.010 fewer; no measurable difference)"
    )


def test_weighted_means_are_ratios_of_sums_by_clusters() -> None:
    values, weights, clusters = np.array([1.0, 2.0, 4.0, 3.0]), (1.0, 3.0, 2.0, 2.0), (0, 0, 1, 2)
    sums, sizes = unit_sums(values, clusters, weights)
    assert sums.tolist() == [7.0, 8.0, 6.0]
    assert sizes.tolist() == [4.0, 2.0, 2.0]
    assert Row(values=values, clusters=clusters, weights=weights).mean() == 21 / 8
    left = sums - 21 / 8 * sizes
    spread = spread_of_mean(values, clusters, weights)
    assert spread.stderr == pytest.approx(np.sqrt((left**2).sum() * 3 / 2) / 8)
    assert spread.df == pytest.approx(64 / 24 - 1)
    assert spread_of_mean(values, None, (2.0,) * 4).stderr == pytest.approx(spread_of_mean(values).stderr)
    low, high = mean_interval(2.0, spread)
    assert high - 2 == pytest.approx(2 - low) == pytest.approx(t_quantile(0.975, spread.df) * spread.stderr)
    assert mean_interval(2.0, spread, 0.95, 1.0)[0] == pytest.approx(2 - spread.stderr)


def test_resampled_averages_are_weighted() -> None:
    series = text(1.2, 1.0, 1.4, n=300)
    drawn = unit_draws([series])
    assert drawn.mean(axis=0) == pytest.approx(series.averages(), abs=0.003)
    stderr = spread_of_mean(series.values[0], None, series.weights).stderr
    assert drawn[:, 0].std() == pytest.approx(stderr, rel=0.1)


@pytest.mark.parametrize("clusters", [6, 12, 60])
def test_few_documents_resample_as_widely_as_students_interval(clusters: int) -> None:
    series = text(1.2, 1.0, 1.4, n=300, clusters=clusters)
    spread = spread_of_mean(series.values[0], series.clusters, series.weights)
    excess = t_quantile(0.975, spread.df) / 1.96
    assert unit_draws([series])[:, 0].std() == pytest.approx(spread.stderr * excess, rel=0.1)
    if clusters == 6:
        assert excess > 1.2


def test_differences_of_bits_have_no_bounds_and_no_added_unit() -> None:
    found = differences(LAMS, [PEAK], 0)
    assert found[1].value == pytest.approx(0.2, abs=0.02)
    assert found[1].high - found[1].low < 0.02
    assert found[1].p_corrected < 1e-4
    gap = PEAK.gap(2, 0)
    assert paired_spread([gap]).stderr == gap.spread().stderr
    assert compare_lams(LAMS, [PEAK], measure=TEXT).differs
    far = replace(PEAK, values=PEAK.values * 5)
    assert differences(LAMS, [far], 0)[1].high > 1
    assert items_to_show(0.0, 0.01, is_share=False) == 2
    assert items_to_show(0.01, 0.01, is_share=False) == 785


def test_equal_windows_differ_by_the_test_of_signs() -> None:
    """Copies of one text have no spread, so Student's test says nothing."""
    copies = Row(values=np.full(12, 0.25), is_share=False)
    assert paired_p([copies]) == pytest.approx(2.0**-11)
    assert paired_p([Row(values=np.zeros(12), is_share=False)]) == 1.0


def test_tables_and_charts_have_their_units() -> None:
    shown = {a.measure: a for a in averages(WITHOUT)}
    assert list(shown) == [AGREEMENT, TEXT, ANSWERS]
    assert [[a.measure for a in group] for group in charts(WITHOUT)] == [[AGREEMENT], [TEXT], [ANSWERS]]
    assert band(shown[TEXT])[0][0] == shown[TEXT].bounds[0][0]
    assert band(shown[AGREEMENT])[0][0] == 100 * shown[AGREEMENT].bounds[0][0]
    assert {row["group"] for row in table(WITHOUT)} == {"agreement", "text", "instruct's answers"}
    assert "text over windows, with the documents fixed; instruct's answers over prompts" in intervals_in_words(WITHOUT)
    by_document = replace(WITHOUT, text=text(1.2, 1.0, 1.4, clusters=8))
    assert "text over documents" in intervals_in_words(by_document)
    figure = curves_figure(WITHOUT, readings(WITHOUT))
    assert [figure["layout"][axis]["title"]["text"] for axis in ("yaxis", "yaxis2", "yaxis3")] == [
        "percent", "bits per byte", "nats per token",
    ]  # fmt: skip
    assert [trace.get("yaxis", "y") for trace in figure["data"]] == ["y", "y", "y2", "y2", "y3", "y3"]
    assert figure["data"][3]["y"] == pytest.approx(PEAK.averages())
    flat = plane_figure(WITHOUT, readings(WITHOUT))
    assert flat["layout"]["yaxis"]["autorange"] == "reversed"
    assert flat["data"][0]["y"] == pytest.approx(PEAK.averages())
    assert [p.is_optimal for p in plane(WITHOUT, [])] == [False, True, True]
    assert figure_names(StudySummary(pair="p", type="F16", curves=WITHOUT)) == ["curves", "plane"]
    words = " ".join(ElementTree.fromstring(curves_svg(WITHOUT, "title")).itertext())
    for expected in ("bits per byte of text", "nats per token", "fewest bits: lam 0.5"):
        assert expected in words


def test_page_and_terminal_show_bits(capsys: pytest.CaptureFixture[str]) -> None:
    study = StudySummary(pair="tiny", type="F16", curves=WITHOUT)
    show_study(study, False)
    out = capsys.readouterr().out
    assert "text bits/byte" in out
    assert f"{PEAK.averages()[1]:.3f}" in out
    page = to_html(study)
    own = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert "bits per byte of text (fewer is better)" in own
    assert f"<td>{PEAK.averages()[1]:.3f}</td>" in own
    assert "differences in bits per byte, paired by window" in own
    assert "over 0 tasks" not in own
    document = to_document(study)
    assert json.dumps(document, allow_nan=False)
    assert document["readings"][1]["text"]["value"] == pytest.approx(PEAK.averages()[1], abs=0.05)
    assert document["readings"][1]["few_shot"] == {"value": None, "low": None, "high": None}
    (row,) = [r for r in reading_rows(readings(WITHOUT)) if r["name"] == "text only"]
    assert row["text"] == pytest.approx(PEAK.averages()[1], abs=0.05)
    plain = reading_rows(readings(Curves(lams=LAMS, tasks=(equal("t", 1, 40),))))
    assert "text" not in plain[0]
