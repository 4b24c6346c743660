"""The lam at which a chat or a server starts: the one given, that of a study, or 0.6."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pa_lite
from pa_lite.errors import InputError
from pa_lite.serving.start import best_start, starting_reference
from pa_lite.study.curves import Curves, Series
from tests.study.test_summary import FALLING, RISING, TRUSTED, equal

DEMO = pa_lite.pairs()["demo"]
FIVE = (0.0, 0.25, 0.5, 0.75, 1.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a study of the demo pair in which only lam 1 keeps 95% of following."""
    folder = tmp_path_factory.mktemp("study")
    pa_lite.sweep("demo", tasks="demo_kind", follow="demo", lams="0,1", limit=12, follow_limit=12, run=folder)
    return folder


def test_a_pair_starts_at_the_lam_given_else_at_0_6() -> None:
    assert str(starting_reference("demo")) == "demo@0.6"
    assert str(starting_reference("demo", "0.45")) == "demo@0.45"
    assert starting_reference((str(DEMO.base), str(DEMO.instruct)), 0.3).lam == 0.3
    assert starting_reference(DEMO).lam == 0.6
    assert starting_reference("demo", 1.5, extrapolate=True).lam == 1.5


def test_a_fixed_lam_and_a_file_stay(tmp_path: Path) -> None:
    assert starting_reference("demo@0.25").lam == 0.25
    path = pa_lite.merge(lam=0.7, type="q8_0", output=tmp_path / "m.gguf")
    assert starting_reference(str(path)).file == path
    assert starting_reference(starting_reference(str(path))).file == path


def test_a_registered_pair_is_preferred_to_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert str(starting_reference("demo")) == "demo@0.6"


def test_a_study_gives_its_best_lam(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert starting_reference("demo", study=run).lam == 1.0
    assert starting_reference((DEMO.base, DEMO.instruct), study=str(run)).lam == 1.0  # the same checkpoints
    monkeypatch.chdir(run.parent)
    run.rename(run.with_name("demo-study"))
    try:
        assert starting_reference("demo", study="demo").lam == 1.0
    finally:
        run.with_name("demo-study").rename(run)


@pytest.mark.parametrize(
    ("model", "lam", "said"),
    [
        ("demo", 0.5, "lam 0.5 and study .* are both given: leave one of them out"),
        ("demo@0.5", None, "demo@0.5 is at a lam already, so the study .* cannot choose one"),
        ((DEMO.instruct, DEMO.base), None, "is a study of the pair demo, not of base"),
    ],
)
def test_a_study_is_refused_where_it_cannot_choose(run: Path, model: str, lam: float | None, said: str) -> None:
    with pytest.raises(InputError, match=said):
        starting_reference(model, lam, run)


def test_a_study_is_refused_for_a_file_and_without_results(run: Path, tmp_path: Path) -> None:
    path = pa_lite.merge(lam=0.7, type="q8_0", output=tmp_path / "m.gguf")
    with pytest.raises(InputError, match=r"m\.gguf is a file, whose lam is fixed"):
        starting_reference(str(path), study=run)
    with pytest.raises(InputError, match="no study was found"):
        starting_reference("demo", study="nowhere")


def at_lams(*rates: float) -> Series:
    rng = np.random.default_rng(3)
    luck = rng.random(300)
    return Series(name="t", area="a", values=(luck < np.array(rates)[:, None]).astype(np.float64))


def test_the_best_lam_keeps_following_where_it_was_measured() -> None:
    falling, rising = at_lams(0.9, 0.8, 0.7, 0.6, 0.3), at_lams(0.1, 0.3, 0.6, 0.9, 0.9)
    assert best_start(Curves(lams=FIVE, tasks=(falling,))) == 0.0
    assert best_start(Curves(lams=FIVE, tasks=(falling,), follow=rising)) == 0.75
    # preferences of a judge count only if the judge can be trusted
    lams = (0.0, 0.5, 1.0)
    assert best_start(Curves(lams=lams, tasks=(FALLING,), wins=RISING)) == 0.0
    assert best_start(Curves(lams=lams, tasks=(FALLING,), wins=RISING, judge_check=TRUSTED)) == 1.0


def test_without_a_measurable_difference_it_is_the_lam_nearest_to_0_6() -> None:
    assert best_start(Curves(lams=(0.0, 0.5, 1.0), tasks=(equal("t", 1, 40),))) == 0.5
    assert best_start(Curves(lams=(0.0, 0.6, 1.0), tasks=(equal("t", 1, 40),))) == 0.6
