"""Cases about the search for a lam: how much worse than the best its answer is, and how sure it says it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from pa_lite.study.goal import Goal
from pa_lite.study.search.halving import Arms, SearchOptions, search_lam
from tools.coverage.table import Case, Check, Numbers, Rng
from tools.coverage.worlds import LAMS, Values, flat, lam_items, peaked


def _search(rng: Rng, rates: Sequence[float], sizes: Sequence[int]) -> Mapping[str, Numbers]:
    """Compare the lam found with the best, with what the whole grid would have found, and its confidence with truth."""
    tables = [lam_items(rng, rates, n) for n in sizes]
    skill = np.array(rates)

    def evaluate(lam: int, task: int, items: Sequence[int]) -> Values:
        values: Values = tables[task][lam, list(items)]
        return values

    found = search_lam(
        Arms(lams=LAMS, sizes=tuple(sizes), has_follow=False, evaluate=evaluate),
        Goal(),
        SearchOptions(seed=int(rng.integers(1 << 30))),
    )
    at = LAMS.index(found.lam)
    grid = int(np.mean([t.mean(axis=1) for t in tables], axis=0).argmax())
    near = skill[max(0, at - 1) : at + 2].max() >= skill.max() - 1e-9
    regret = float(skill.max() - skill[at])
    return {
        "regret": {"reported": regret, "grid": float(skill.max() - skill[grid])},
        "regret beyond the grid's": {"reported": regret - float(skill.max() - skill[grid])},
        "confidence less how often it is right": {"reported": found.confidence - float(near)},
        "share of the grid spent": {"reported": found.spent / found.grid},
    }


def cases() -> list[Case]:
    """Return the cases about the search."""
    checks = (
        Check(name="regret", quantity="regret", low=0, high=100),
        Check(name="regret beyond the grid's", quantity="regret", low=-100, high=0.5),
        Check(name="share of the grid spent", quantity="share", low=0, high=100),
    )
    # too low by up to 20 points is on the safe side: curves are smoother than the search takes for granted
    calibrated = Check(name="confidence less how often it is right", quantity="bias", low=-20, high=5)
    curves = (
        ("narrow peak of 6 points", peaked(0.6, 0.06, 0.5, 0.08), (*checks, calibrated)),
        ("peak of 8 points", peaked(0.65, 0.08), (*checks, calibrated)),
        ("flat curve", flat(0.6), checks),
    )
    sizes = (
        ("one task of 40", (40,)),
        ("one task of 100", (100,)),
        ("one task of 800", (800,)),
        ("21 tasks of 40", (40,) * 21),
        ("8 tasks of 150", (150,) * 8),
    )
    return [
        Case(name=f"search, {told}, {size}", checks=wanted, runs=150, once=partial(_search, rates=rates, sizes=each))
        for told, rates, wanted in curves
        for size, each in sizes
    ]
