"""The simulation says the same twice, its worlds have the truth that they name, and a few of its checks hold."""

from __future__ import annotations

import numpy as np
import pytest

from tools.coverage import along_lam, averages, judging, searching, texts
from tools.coverage.__main__ import cases
from tools.coverage.table import measure, summary
from tools.coverage.worlds import (
    LAMS,
    flat,
    following,
    graded,
    grouped_items,
    lam_items,
    passage_items,
    peaked,
    seeded_items,
    seeded_lams,
    skewed_gaps,
)

_AVERAGES = ("share of right answers 0.98, 20 items", "40 items drawn from 57 groups", "first 100 questions on five")
_QUICK = ("flat curve, one task of 100", "F1, rare losses, 1 x 20", "95% of slow following, 250")


def test_worlds_have_their_truth() -> None:
    rng = np.random.default_rng(0)
    rates = peaked(0.7, 0.2)
    assert lam_items(rng, rates, 40_000).mean(axis=1) == pytest.approx(rates, abs=0.01)
    of = np.repeat(np.arange(4000), 4)
    assert lam_items(rng, [0.3, 0.6], 16_000, of=of).mean(axis=1) == pytest.approx([0.3, 0.6], abs=0.02)
    values, of = passage_items(rng, [5] * 4000, 0.6, 0.3)
    assert values.mean() == pytest.approx(0.6, abs=0.02)
    means = values.reshape(-1, 5).mean(axis=1)
    assert means.var() > 1.3 * 0.24 / 5  # the questions of a passage are correlated
    assert seeded_items(rng, 400, 400, 0.6, 0.15, 0.5).mean() == pytest.approx(0.6, abs=0.02)
    assert seeded_lams(rng, 40, 20_000).mean(axis=(0, 2)) == pytest.approx([0.598, 0.598], abs=0.03)
    for kind in ("rare losses", "rare gains"):
        gaps = skewed_gaps(rng, 200_000, kind)
        assert gaps.mean() == pytest.approx(0, abs=0.005)
        first, second = graded(rng, gaps)
        assert second - first == pytest.approx(gaps)
        assert min(first.min(), second.min()) >= 0
        assert max(first.max(), second.max()) <= 1
    found = grouped_items(rng, 400, 20, 0.5, 0.2, True)
    assert [len(g) for g in found.groups] == [20] * 20
    assert max(following("slow")) == max(following("linear")) == pytest.approx(0.8)
    assert flat(0.4) == [0.4] * len(LAMS)


def test_every_case_has_a_name_of_its_own_and_all_its_checks() -> None:
    every = cases()
    assert len({case.name for case in every}) == len(every)
    for module in (averages, along_lam, texts, searching, judging):
        case = module.cases()[0]
        found = case.once(np.random.default_rng(1))
        assert {check.name for check in case.checks} <= set(found)


def test_a_seed_gives_the_same_numbers() -> None:
    case = next(c for c in cases() if c.name.startswith("first 100 questions"))
    first, second, other = (list(measure(case, seed, 0.05)) for seed in (3, 3, 4))
    assert first == second != other


@pytest.mark.parametrize("name", _AVERAGES)
def test_what_is_reported_of_averages_holds(name: str) -> None:
    case = next(c for c in cases() if name in c.name)
    found = list(measure(case, 0, 0.25))
    assert [f for f in found if f.method == "reported" and not f.holds] == []
    assert [f for f in found if f.method == "naive" and not f.holds] != []


@pytest.mark.parametrize("name", _QUICK)
def test_what_is_reported_along_lam_holds(name: str) -> None:
    case = next(c for c in cases() if name in c.name)
    found = list(measure(case, 0, 0.25))
    assert [f for f in found if f.method == "reported" and not f.holds] == []
    assert [f for f in found if f.method == "naive" and not f.holds] != []


@pytest.mark.parametrize("judge", ["good", "useless"])
def test_what_is_reported_of_a_judge_holds(judge: str) -> None:
    case = next(c for c in judging.cases() if f"judge ({judge})" in c.name)
    found = list(measure(case, 0, 0.25))
    assert [f for f in found if f.method == "reported" and not f.holds] == []
    assert {f.check for f in found if f.method == "naive" and not f.holds} >= {"win rate"}


def test_the_summary_has_a_row_for_each_check() -> None:
    case = next(c for c in cases() if c.name.startswith("first 100 questions"))
    found = list(measure(case, 0, 0.02))
    lines = summary(found).splitlines()
    assert lines[0] == "| check | cases | naive | reported | wanted |"
    assert len(lines) == 2 + len({f.check for f in found})
    (value,) = [f.value for f in found if f.method == "reported" and f.check == found[0].check]
    assert f"| {value:.1f} to {value:.1f} |" in lines[2]
