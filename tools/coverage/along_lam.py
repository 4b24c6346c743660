"""Cases about lams: differences, their tests, what is gained at the best lam, the constraint on following, equals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from pa_lite.statistics import interval
from pa_lite.study.comparisons import best_lam, chosen_lam, compare_lams, differences
from pa_lite.study.curves import Curves, Row, Series, means
from pa_lite.study.export import difference_rows
from pa_lite.study.goal import Goal
from pa_lite.study.selection import paired_p
from pa_lite.study.summary import against_ends
from tools.coverage import textbook
from tools.coverage.table import Case, Check, Numbers, Rng, bias, coverage, covers, error
from tools.coverage.worlds import (
    LAMS,
    Integers,
    Values,
    flat,
    following,
    graded,
    lam_items,
    peaked,
    seeded_lams,
    skewed_gaps,
)

Pair = tuple[Values, Integers | None]  # a task's values at two lams, and each item's passage
Pairs = Callable[[Rng], list[Pair]]
_LAST = len(LAMS) - 1
_STUDIES = (("8 tasks of 150", 8, 150), ("21 tasks of 40", 21, 40), ("one task of 100", 1, 100))
_PLATEAU = [0.6 if i in (3, 4, 5, 6) else 0.5 for i in range(11)]


def _two_lams(rng: Rng, tasks: int, n: int, shared: float, gain: float = 0.0) -> list[Pair]:
    return [(lam_items(rng, [0.6, 0.6 + gain], n, shared, 0.5), None) for _ in range(tasks)]


def _of_passages(rng: Rng, passages: int, each: int) -> list[Pair]:
    of = np.repeat(np.arange(passages), each)
    return [(lam_items(rng, [0.6, 0.6], len(of), 0.5, 0.5, of, 0.3), of)]


def _graded_pair(rng: Rng, n: int, tasks: int, kind: str) -> list[Pair]:
    return [(np.stack(graded(rng, skewed_gaps(rng, n, kind))), None) for _ in range(tasks)]


def _series(number: int, values: Values, passages: Integers | None = None) -> Series:
    clusters = None if passages is None else tuple(passages.tolist())
    return Series(name=f"t{number}", area=f"area {number // 2}", values=values, clusters=clusters)


def _difference(rng: Rng, pairs: Pairs, truth: float) -> Mapping[str, Numbers]:
    tasks = pairs(rng)
    (found,) = differences((0.0, 1.0), [_series(i, *task) for i, task in enumerate(tasks)], 0)
    plain = [values for values, _ in tasks]
    return {
        "difference": {
            "naive": covers(textbook.difference_interval(plain), truth),
            "reported": covers((found.low, found.high), truth),
        },
        "test": {
            "naive": float(textbook.sign_flip_p([v[1] - v[0] for v in plain]) < 0.05),
            "reported": float(found.p < 0.05),
        },
    }


def _study(rng: Rng, rates: Sequence[float], tasks: int, n: int) -> Mapping[str, Numbers]:
    """Compute everything about the lam with the highest average, its equals, and whether lams differ."""
    curves = Curves(lams=LAMS, tasks=tuple(_series(i, lam_items(rng, rates, n)) for i in range(tasks)))
    average, drawn = means(curves.tasks), textbook.draws([task.values for task in curves.tasks])
    found = best_lam(curves)
    best, gain, accuracy = LAMS.index(found.lam), found.gain_over_instruct, found.few_shot
    assert gain is not None
    true_gain, top = rates[best] - rates[_LAST], {i for i, r in enumerate(rates) if r >= max(rates) - 1e-9}
    named, naive = {LAMS.index(lam) for lam in (found.lam, *found.ties)}, textbook.equals(drawn, best)
    true_best = LAMS[min(top)]
    return {
        "gain at the best lam": {
            "naive": float(average[best] - average[_LAST]) - true_gain,
            "reported": gain.value - true_gain,
        },
        "interval of the gain": {
            "naive": covers(interval(drawn[:, best] - drawn[:, _LAST]), true_gain),
            "reported": covers((gain.low, gain.high), true_gain),
        },
        "accuracy at the best lam": {
            "naive": float(average[best]) - rates[best],
            "reported": accuracy.value - rates[best],
        },
        "interval of the accuracy": {
            "naive": covers(interval(drawn[:, best]), rates[best]),
            "reported": covers((accuracy.low, accuracy.high), rates[best]),
        },
        "all the best lams named": {"naive": float(top <= naive), "reported": float(top <= named)},
        "range of the best lam": {
            "naive": covers(textbook.winners(drawn), true_best),
            "reported": covers((found.low, found.high), true_best),
        },
        "share named as equals": {"naive": (len(naive) - 1) / _LAST, "reported": len(found.ties) / _LAST},
        "a difference found": {"reported": float(compare_lams(LAMS, curves.tasks).differs)},
    }


def _keep(rng: Rng, kind: str, n: int) -> Mapping[str, Numbers]:
    """Keep 95% of following, where few-shot skill falls along lam: whether it is kept in truth, and at what price."""
    rates, skill = following(kind), [0.65 - 0.1 * lam for lam in LAMS]
    curves = Curves(
        lams=LAMS,
        tasks=tuple(_series(i, lam_items(rng, skill, 150)) for i in range(4)),
        follow=_series(0, lam_items(rng, rates, n)),
    )
    kept = [rate >= 0.95 * rates[_LAST] - 1e-9 for rate in rates]
    found = {
        "naive": chosen_lam(curves, Goal(keep_follow=0.95, sure=None)),
        "reported": LAMS.index(best_lam(curves, Goal(keep_follow=0.95)).lam),
    }
    ideal = max(s for s, k in zip(skill, kept, strict=True) if k)
    return {
        "not kept": {method: float(not kept[lam]) for method, lam in found.items()},
        "price": {method: ideal - skill[lam] if kept[lam] else float("nan") for method, lam in found.items()},
    }


def _file(rng: Rng, tasks: int, n: int) -> Mapping[str, Numbers]:
    """Return whether any row of the file of differences is significant on a flat curve."""
    curves = Curves(
        lams=LAMS,
        tasks=tuple(_series(i, lam_items(rng, flat(0.5), n)) for i in range(tasks)),
        follow=_series(0, lam_items(rng, flat(0.5), n)),
    )
    rows = difference_rows(against_ends(curves))
    return {
        "any row significant": {
            "naive": float(any(float(row["p_corrected"]) < 0.05 for row in rows)),
            "reported": float(any(float(row["p_corrected_file"]) < 0.05 for row in rows)),
        }
    }


def _seeds(rng: Rng, n_seeds: int, n: int) -> Mapping[str, Numbers]:
    """Compare two lams that are equal over all draws of exemplars, scored with some of these."""
    values = [seeded_lams(rng, n_seeds, n) for _ in range(4)]
    several = [Series(name=f"t{i}", area="a", values=v.mean(axis=0), by_seed=v) for i, v in enumerate(values)]
    (found,) = differences((0.0, 1.0), several, 0)
    (one,) = differences((0.0, 1.0), [replace(s, by_seed=None) for s in several], 0)
    return {
        "difference": {"naive": covers((one.low, one.high), 0.0), "reported": covers((found.low, found.high), 0.0)},
        "test": {"naive": float(one.p < 0.05), "reported": float(found.p < 0.05)},
    }


def _flips(rng: Rng) -> Mapping[str, Numbers]:
    """Run the test of right-or-wrong items as the search does."""
    gaps = [Row(values=v[1] - v[0]) for v, _ in _two_lams(rng, 3, 100, 0.5)]
    return {"test": {"reported": float(paired_p(gaps) < 0.05)}}


def _differences() -> list[Case]:
    """Return what two lams are compared on."""
    worlds: list[tuple[str, Pairs, float]] = [
        (f"{told} items, {word} differ", partial(_two_lams, tasks=tasks, n=n, shared=shared), 0.0)
        for told, tasks, n in (*_STUDIES, ("one task of 20", 1, 20), ("one task of 40", 1, 40))
        for word, shared in (("few", 0.95), ("many", 0.5))
    ]
    worlds += [
        ("8 tasks of 150, a gain of 5 points", partial(_two_lams, tasks=8, n=150, shared=0.8, gain=0.05), 0.05),
        ("one task of 40, a gain of 15 points", partial(_two_lams, tasks=1, n=40, shared=0.8, gain=0.15), 0.15),
        ("5 passages of 20 questions", partial(_of_passages, passages=5, each=20), 0.0),
        ("60 passages of 16 questions", partial(_of_passages, passages=60, each=16), 0.0),
        ("200 questions, each twice", partial(_of_passages, passages=200, each=2), 0.0),
    ]
    worlds += [
        (f"F1, {kind}, {tasks} x {n} items", partial(_graded_pair, n=n, tasks=tasks, kind=kind), 0.0)
        for kind in ("rare losses", "rare gains")
        for tasks, n in ((1, 20), (1, 50), (4, 40), (1, 150))
    ]
    out = []
    for told, pairs, truth in worlds:
        # where hardly any item differs, or units are few, an interval that allows for one more covers nearly always
        loose = "few differ" in told or "20 items" in told or "one task" in told or "5 passages" in told
        checks = [coverage("difference", 100.0 if loose else 98.0), *([] if truth else [error("test")])]
        out.append(Case(name=told, checks=tuple(checks), runs=600, once=partial(_difference, pairs=pairs, truth=truth)))
    return out


def cases() -> list[Case]:
    """Return the cases about lams."""
    out = _differences()
    of_best = (
        bias("gain at the best lam"), coverage("interval of the gain"),
        bias("accuracy at the best lam"), coverage("interval of the accuracy"),
    )  # fmt: skip
    curves: tuple[tuple[str, list[float], tuple[Check, ...]], ...] = (
        ("flat curve", flat(0.6), (coverage("all the best lams named"), error("a difference found"))),
        ("peak of 8 points", peaked(0.65, 0.08), (coverage("range of the best lam", 100.0),)),
        ("narrow peak of 6 points", peaked(0.6, 0.06, 0.5, 0.08), (coverage("range of the best lam", 100.0),)),
        ("four equal lams on top", _PLATEAU, (coverage("all the best lams named", 100.0),)),
    )
    equals = Check(name="share named as equals", quantity="share", low=0, high=100)
    for told, rates, checks in curves:
        for size, tasks, n in _STUDIES:
            once = partial(_study, rates=rates, tasks=tasks, n=n)
            out.append(Case(name=f"{told}, {size}", checks=(*of_best, *checks, equals), runs=200, once=once))
    price = Check(name="price", quantity="regret", low=0, high=100)
    for kind in ("linear", "slow"):
        for n in (100, 250, 541):
            name = f"95% of {kind} following, {n} prompts"
            out.append(
                Case(name=name, checks=(error("not kept"), price), runs=200, once=partial(_keep, kind=kind, n=n))
            )
    for n_seeds in (3, 5):
        name = f"{n_seeds} draws of exemplars, 4 tasks of 100"
        checks = (coverage("difference", 100.0), error("test"))
        out.append(Case(name=name, checks=checks, runs=300, once=partial(_seeds, n_seeds=n_seeds, n=100)))
    name = "280 rows of differences, 8 tasks of 60, none in truth"
    out.append(Case(name=name, checks=(error("any row significant"),), runs=60, once=partial(_file, tasks=8, n=60)))
    out.append(Case(name="3 tasks of 100, as searched", checks=(error("test"),), runs=400, once=_flips))
    return out
