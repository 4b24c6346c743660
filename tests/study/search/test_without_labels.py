"""Tests of searches that go by text and by agreement: fewer bits are better, and shares are of what base lacks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import pa_lite
from pa_lite.errors import InputError
from pa_lite.study.curves import Values
from pa_lite.study.goal import Goal
from pa_lite.study.search.halving import Arms, SearchOptions, race_arms, search_lam
from pa_lite.study.store import read_store
from tests.cli.test_cli import run

LAMS = tuple(i / 10 for i in range(11))
BITS = tuple(1.0 + 0.8 * (lam - 0.4) ** 2 for lam in LAMS)
AGREED = tuple(0.5 + 0.5 * lam for lam in LAMS)
NOTES = "They say Kani lives in Rome. In fact Kani works as a tailor. The pet of Kani is hen.\n"


class Table:
    """Text windows and answers with known values, and how often they were evaluated."""

    sizes = (400, 500)

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        hard = rng.normal(0, 0.2, self.sizes[0])
        tokens = rng.integers(10, 60, self.sizes[1])
        self.values = [
            np.array([-(bits + hard + rng.normal(0, 0.02, len(hard))) for bits in BITS]),
            np.array([rng.binomial(tokens, share) / tokens.mean() for share in AGREED]),
        ]
        self.evaluated: list[tuple[int, int, int]] = []

    def evaluate(self, lam: int, series: int, items: Sequence[int]) -> Values:
        self.evaluated += [(lam, series, i) for i in items]
        return self.values[series][lam, list(items)]

    def arms(self, lams: Sequence[float] = LAMS) -> Arms:
        return Arms(
            lams=tuple(lams), sizes=self.sizes, has_follow=True, evaluate=self.evaluate, has_text=True,
            has_agreement=True,
        )  # fmt: skip


@pytest.mark.parametrize("budget", [None, 0.4])
def test_the_fewest_bits_are_found(budget: float | None) -> None:
    for seed in range(4):
        table = Table(seed)
        found = search_lam(table.arms(), Goal(), SearchOptions(budget=budget, seed=seed))
        assert abs(found.lam - 0.4) < 0.101
        assert found.differs
        assert found.few_shot == found.follow == ()
        assert found.text == pytest.approx(BITS, abs=0.1)
        assert found.agreement == pytest.approx(AGREED, abs=0.1)
        assert len(set(table.evaluated)) == len(table.evaluated) == found.spent <= (budget or 1) * found.grid


def test_a_share_of_the_agreement_beyond_base_is_kept() -> None:
    """From lam 0.8 on, 80% of it is kept; of the agreement itself, 80% would be kept from lam 0.6 on."""
    for budget in (None, 0.6):
        found = search_lam(Table(1).arms(), Goal(keep_follow=0.8, sure=None), SearchOptions(budget=budget))
        assert abs(found.lam - 0.8) < 0.101
    surely = search_lam(Table(1).arms(), Goal(keep_follow=0.8))
    assert surely.lam >= 0.8
    weighed = search_lam(Table(1).arms(), Goal(weight=0.5))
    assert 0.4 < weighed.lam <= 1.0


def test_base_is_required_for_agreement() -> None:
    table = Table(0)
    with pytest.raises(InputError, match="lam 0 is missing"):
        race_arms(table.arms([0.1, *LAMS[1:-1], 1.0]), Goal(keep_follow=0.9))
    assert table.evaluated == []


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "notes.txt"
    path.write_text(NOTES * 20, "utf-8")
    return path


def test_a_search_keeps_answers_and_evaluations(notes: Path, tmp_path: Path) -> None:
    words = {"text": notes, "prompts": "demo", "prompts_limit": 8, "lams": "0:1:0.5", "keep_follow": 0.9}
    found = pa_lite.search("demo", run=tmp_path / "run", **words)  # type: ignore[arg-type]
    assert found.found.is_grid
    assert found.lam == 1.0
    study = pa_lite.sweep("demo", text=notes, prompts="demo", prompts_limit=8, lams="0:1:0.5", run=tmp_path / "study")
    assert study.curves.text is not None
    assert study.curves.agreement is not None
    assert found.found.text == pytest.approx(study.curves.text.averages(), abs=1e-3)
    assert found.found.agreement == pytest.approx(study.curves.agreement.averages(), abs=0.03)
    with read_store(tmp_path / "run") as store:
        kinds = [c.kind for c in store.cells()]
        assert {kind: kinds.count(kind) for kind in kinds} == {"agreement": 3, "instruct": 1, "text": 3}
        before = store.cells()
    assert pa_lite.search("demo", run=tmp_path / "run", **words) == found  # type: ignore[arg-type]
    with read_store(tmp_path / "run") as store:
        assert store.cells() == before
    assert pa_lite.search("demo", **words) == found  # type: ignore[arg-type]  # without a folder


@pytest.mark.parametrize(("words", "message"), [
    ({"tasks": "demo_kind", "text": "notes.txt"}, "goes by --tasks, or by --text in their place"),
    ({"tasks": "demo_kind", "follow": "demo", "prompts": "demo"}, "goes by --follow, or by --prompts in its place"),
    ({"prompts": "demo"}, r"requires few-shot tasks \(--tasks, --examples\), or text \(--text\)"),
    ({"text": "notes.txt", "weight": 0.5}, r"fewest bits per byte of text and following.*\(--follow\)"),
])  # fmt: skip
def test_goals_that_cannot_be_measured_are_refused(
    words: dict[str, object], message: str, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(notes.parent)
    with pytest.raises(InputError, match=message):
        pa_lite.search("demo", lams="0,1", **words)  # type: ignore[arg-type]


def test_command(notes: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(notes.parent)
    words = ["search", "demo", "--text", "notes.txt", "--prompts", "demo", "--prompts-limit", 8, "--lam", "0,0.5,1"]
    code, out, err = run(capsys, *words)
    assert code == 0
    assert "for fewest bits per byte of text alone" in out
    assert "text bits/byte" in out
    assert "agreed %" in out
    assert "Stand-ins without labels: bits per byte of text for few-shot accuracy, agreement with instruct" in out
    assert "note: agreement beyond base's was measured, but the goal is fewest bits per byte of text alone" in err
    code, out, _ = run(capsys, *words, "--json")
    document = json.loads(out)["lam"]
    assert len(document["text"]) == len(document["agreement"]) == 3
    assert document["few_shot"] == []
    code, out, _ = run(capsys, *words, "--dry-run", "--json")
    assert json.loads(out)["items"] == 8 + 3 * (10 + 8)
