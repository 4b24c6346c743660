"""Tests of the demonstration, a study on the embedded pair: its files, and the search compared with its grid."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pa_lite.errors import OutputError
from pa_lite.study.comparisons import chosen_lam
from pa_lite.study.curves import Values, means
from pa_lite.study.demo import LAMS, DemoResult, run_demo
from pa_lite.study.goal import Goal
from pa_lite.study.search.halving import Arms, SearchOptions, search_lam
from pa_lite.study.summary import conclusion, readings
from tests.cli.test_cli import run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    return run_demo(tmp_path_factory.mktemp("demo") / "out")


def test_demo_writes_a_study(demo: DemoResult) -> None:
    assert {p.name for p in demo.results.parent.iterdir()} == {
        "results.json", "chart.svg", "report.html", "study.sqlite", "study.lock",
    }  # fmt: skip
    document = json.loads(demo.results.read_text("utf-8"))
    assert document["lams"] == list(LAMS)
    assert document["conclusion"] == conclusion(demo.study.curves)
    assert document["tasks"][0]["name"] == "demo_town"
    assert len(document["setting"]["fingerprints"]) > 32
    words = " ".join(ET.fromstring(demo.chart.read_text("utf-8")).itertext())
    for expected in ("few-shot accuracy", "instructions followed", "best few-shot: lam", "keep 95% of following"):
        assert expected in words
    assert [r["name"] for r in document["readings"][:2]] == ["keep 95% of following", "few-shot only"]


def test_demo_pair_has_the_trade_off(demo: DemoResult) -> None:
    """The figures of the model card, with tolerance for rounding on other processors."""
    skill, follow = means(demo.study.curves.tasks), demo.study.curves.follow
    assert follow is not None
    followed = means([follow])
    assert skill.max() - skill[-1] > 0.15
    assert followed[0] < 0.2
    assert followed[-1] > 0.7


def shape(text: str) -> list[str]:
    """Return the text's lines without numbers, spaces and rules, as other processors round differently."""
    numbers = re.sub(r"(?:, )?-?\d+(?:\.\d+)?", "#", text)
    lines = (re.sub(r"#+", "#", re.sub(r"[\s─]+", " ", line)).strip() for line in numbers.splitlines())
    return [line for line in lines if line]


def test_command_prints_what_the_documents_show(demo: DemoResult, capsys: pytest.CaptureFixture[str]) -> None:
    code, output, _ = run(capsys, "demo", "-o", demo.results.parent)
    assert code == 0
    lines = shape(output.replace(str(demo.results.parent), "pa-lite-demo"))
    assert lines[0].startswith("Keep #% of following: lam #")
    assert lines[1].startswith("Few-shot only: lam #")
    rows = [line for line in output.splitlines() if re.match(r" [01](\.\d)? ", line)]
    assert len(rows) == 11
    marks = {reading.label: reading.best.lam for reading in readings(demo.study.curves)[:2] if reading.best}
    for row, lam in zip(rows, LAMS, strict=True):
        assert [label for label in marks if label in row] == [label for label, at in marks.items() if at == lam]
    text = (ROOT / "pa_lite" / "study" / "README.md").read_text("utf-8")
    shown = shape(text[text.index("```\nKeep 95%") + 4 :].partition("```")[0])
    assert [re.sub("#.*", "#", line) for line in shown] == [re.sub("#.*", "#", line) for line in lines]
    assert shown[0].partition(";")[0] == lines[0].partition(";")[0]
    assert sum("keep #% of following" in line for line in shown) == sum("best few-shot" in line for line in shown) == 1


def test_readme_chart_is_the_demos(demo: DemoResult) -> None:
    def words(svg: str) -> list[str]:
        texts = (text.strip() for text in ET.fromstring(svg).itertext())
        return [re.sub(r"[\d.]+$", "#", text) for text in texts if re.search("[a-z]", text)]

    shipped = (ROOT / "models" / "demo" / "chart.svg").read_text("utf-8")
    assert words(shipped) == words(demo.chart.read_text("utf-8"))


def test_second_run_reuses_results(demo: DemoResult) -> None:
    before = demo.results.read_text("utf-8")
    again = run_demo(demo.results.parent)
    assert again.results.read_text("utf-8") == before


@pytest.mark.parametrize("goal", [Goal(keep_follow=0.95), Goal(weight=0.5)])
def test_search_finds_a_lam_near_the_grids(demo: DemoResult, goal: Goal) -> None:
    """20 seeds with 40% of the grid's evaluations; values are looked up in the sweep's results."""
    curves = demo.study.curves
    assert curves.follow is not None
    series = [*curves.tasks, curves.follow]
    answer = LAMS[chosen_lam(curves, goal)]

    def look_up(lam: int, which: int, items: Sequence[int]) -> Values:
        return np.asarray(series[which].values[lam, list(items)])

    found = [
        search_lam(
            Arms(lams=LAMS, sizes=tuple(s.n for s in series), has_follow=True, evaluate=look_up),
            goal,
            SearchOptions(budget=0.4, seed=seed),
        )
        for seed in range(20)
    ]
    assert sum(abs(f.lam - answer) < 0.101 for f in found) >= 18
    assert max(f.spent / f.grid for f in found) <= 0.4


def test_file_instead_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine", "utf-8")
    with pytest.raises(OutputError, match="is not a folder"):
        run_demo(tmp_path / "x")


def test_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("mine", "utf-8")
    with pytest.raises(OutputError, match=r"results\.json: exists already, not from a demo"):
        run_demo(tmp_path)
    assert [(p.name, p.read_text("utf-8")) for p in tmp_path.iterdir()] == [("results.json", "mine")]
