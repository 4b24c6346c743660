"""Rows about single averages: proportions, groups, passages, classes, several draws of exemplars."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from pa_lite.statistics import (
    DRAWS,
    FloatArray,
    bootstrap_means,
    interval,
    measured_classes,
    measured_groups,
    measured_mean,
)
from pa_lite.tasks.draws import measure_draws
from pa_lite.tasks.metrics import weighted_f1
from tools.coverage.table import Case, Numbers, Rng, coverage, covers
from tools.coverage.worlds import Integers, Values, grouped_items, passage_items, seeded_items

_FPB = np.array([0.12, 0.6, 0.28])  # shares of the classes, as in fpb
_CONFUSED = np.array([[0.7, 0.2, 0.1], [0.05, 0.85, 0.1], [0.05, 0.35, 0.6]])


def _mean(rng: Rng, values: Values, truth: float, of: Integers | None = None) -> Numbers:
    """Compare the reported interval of a mean with the textbook's: percentiles of resampled items."""
    found = measured_mean(values.tolist(), None if of is None else of.tolist())
    return {
        "reported": covers((found.low, found.high), truth),
        "naive": covers(interval(bootstrap_means(values, rng)), truth),
    }


def _proportion(rng: Rng, n: int, low: float, high: float) -> Numbers:
    rate = rng.uniform(low, high)
    return _mean(rng, (rng.random(n) < rate).astype(np.float64), rate)


def _graded(rng: Rng, n: int) -> Numbers:
    """Draw F1 that is 1 for 80% of answers, 0 for 5%, in between for the rest."""
    u = rng.random(n)
    return _mean(rng, np.where(u < 0.8, 1.0, np.where(u < 0.85, 0.0, rng.random(n))), 0.8 + 0.15 / 2)


def _groups(rng: Rng, average: str, n_items: int, n_groups: int, spread: float, stratified: bool) -> Numbers:
    """Sample a task of groups; the truth is the average over the task. Naive: resampling within each group."""
    found = grouped_items(rng, n_items, n_groups, 0.5, spread, stratified)
    i = ("micro", "macro").index(average)
    measured = measured_groups(found.groups, found.n_groups)[i]
    sizes = np.array([len(g) for g in found.groups], np.float64)
    weights = (sizes / sizes.sum(), np.full(len(sizes), 1 / len(sizes)))[i]
    drawn: FloatArray = weights @ np.stack([bootstrap_means(g, rng) for g in found.groups])
    return {
        "reported": covers((measured.low, measured.high), found.truth),
        "naive": covers(interval(drawn), found.truth),
    }


def _passages(rng: Rng, sizes: Callable[[Rng], Sequence[int]], mean: float, rho: float) -> Numbers:
    values, of = passage_items(rng, sizes(rng), mean, rho)
    return _mean(rng, values, mean, of)


def _classes(rng: Rng, n: int) -> Numbers:
    golds = rng.choice(3, n, p=_FPB)
    picks = (rng.random(n)[:, None] > np.cumsum(_CONFUSED, axis=1)[golds]).sum(axis=1)
    joint = _FPB[:, None] * _CONFUSED
    many = np.round(joint * 1e6).astype(np.int64).ravel()
    truth = float(weighted_f1(np.repeat(np.arange(3), 3), np.tile(np.arange(3), 3), many[None, :])[0])
    found = measured_classes(golds.tolist(), picks.tolist(), weighted_f1, rng)
    pairs, counts = np.unique(np.array([golds, picks]), axis=1, return_counts=True)
    drawn = weighted_f1(pairs[0], pairs[1], rng.multinomial(n, counts / n, size=DRAWS))
    return {"reported": covers((found.low, found.high), truth), "naive": covers(interval(drawn), truth)}


def _seeds(rng: Rng, n_seeds: int, n_items: int) -> Numbers:
    values: Values = seeded_items(rng, n_seeds, n_items, 0.6, 0.15, 0.5)
    draws = [measured_mean(each.tolist()) for each in values]
    found = measure_draws(draws, values, n_items)
    return {
        "reported": covers((found.low, found.high), 0.6),
        "naive": covers((draws[0].low, draws[0].high), 0.6),  # one draw of exemplars
    }


def _first_of_drop(rng: Rng) -> list[int]:
    """Sample the first 100 rows: about five passages of about twenty questions."""
    sizes = rng.integers(8, 33, 30)
    kept = np.minimum(sizes, np.maximum(0, 100 - np.concatenate([[0], np.cumsum(sizes)[:-1]])))
    return [int(n) for n in kept if n]


def _whole_drop(rng: Rng) -> list[int]:
    return [int(n) for n in rng.integers(4, 33, 60)]


def _case(name: str, once: Callable[[Rng], Numbers], runs: int = 400, high: float = 98.0) -> Case:
    def whole(rng: Rng) -> Mapping[str, Numbers]:
        return {"interval": once(rng)}

    return Case(name=name, checks=(coverage("interval", high),), runs=runs, once=whole)


def cases() -> list[Case]:
    """Return the cases about averages."""
    out = [
        _case(f"share of right answers {low:g} to {high:g}, {n} items", partial(_proportion, n=n, low=low, high=high))
        for n in (20, 40, 100)
        for low, high in ((0.9, 0.995), (0.4, 0.6), (0.005, 0.1))
    ]
    out += [
        # a single share gives few different counts of right answers, so no interval covers it in just 95 percent
        _case(f"share of right answers {p:g}, {n} items", partial(_proportion, n=n, low=p, high=p), high=100.0)
        for p in (0.98, 0.99)
        for n in (20, 40)
    ]
    out += [
        _case("F1, mostly 1, 20 items", partial(_graded, n=20)),
        _case("F1, mostly 1, 100 items", partial(_graded, n=100)),
        _case("weighted F1 of three classes, 40 items", partial(_classes, n=40), 300),
        _case("weighted F1 of three classes, 400 items", partial(_classes, n=400), 300),
    ]
    designs: list[tuple[str, int, int, float, bool]] = [
        ("40 items drawn from 57 groups (mmlu)", 40, 57, 0.15, False),
        ("40 items drawn from 27 groups (bbh)", 40, 27, 0.22, False),
        ("54 items, two of each of 27 groups", 54, 27, 0.22, True),
        ("2850 items, fifty of each of 57 groups", 2850, 57, 0.15, True),
    ]
    for told, n, k, spread, stratified in designs:
        for average in ("micro", "macro"):
            once = partial(_groups, average=average, n_items=n, n_groups=k, spread=spread, stratified=stratified)
            out.append(_case(f"{average} average, {told}", once))
    passages: list[tuple[str, Callable[[Rng], Sequence[int]], float, float]] = [
        ("first 100 questions on five passages (drop)", _first_of_drop, 0.5, 0.2),
        ("1000 questions on 60 passages (drop)", _whole_drop, 0.5, 0.2),
        ("500 questions, five a passage (squadv2)", lambda _rng: [5] * 100, 0.6, 0.25),
        (
            "200 rows, each question once to three times (triviaqa)",
            lambda rng: rng.integers(1, 4, 100).tolist(),
            0.5,
            0.95,
        ),
    ]
    out += [_case(told, partial(_passages, sizes=sizes, mean=mean, rho=rho)) for told, sizes, mean, rho in passages]
    out += [_case(f"300 items, {s} draws of exemplars", partial(_seeds, n_seeds=s, n_items=300)) for s in (3, 5)]
    return out
