"""Rows about lams: differences, their tests, the gain at the best lam, the constraint on following, and equals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from pa_lite.study.comparisons import average_draws, best_lam, compare_lams, differences, holm, sign_flip_p
from pa_lite.study.curves import Curves, Series, means
from pa_lite.study.goal import Goal
from pa_lite.study.selection import (
    Items,
    as_good_as_best,
    averages,
    keep_margin,
    paired_difference,
    paired_p,
    selected_average,
    selected_gain,
    unit_draws,
)
from pa_lite.study.summary import against_ends
from pa_lite.statistics import interval
from tools.coverage.table import Rng, Row, bias_row, coverage_row, covers, error_row
from tools.coverage.worlds import LAMS, Integers, Values, flat, following, graded, lam_items, peaked, skewed_gaps

Pairs = Callable[[Rng], list[tuple[Values, Integers | None]]]  # each task's values at two lams, and its passages
_LAST = len(LAMS) - 1


def _two_lams(rng: Rng, tasks: int, n: int, shared: float, gain: float = 0.0, rate: float = 0.6):
    return [(lam_items(rng, [rate, rate + gain], n, shared, 0.5), None) for _ in range(tasks)]


def _two_lams_of_passages(rng: Rng, passages: int, each: int):
    of = np.repeat(np.arange(passages), each)
    return [(lam_items(rng, [0.6, 0.6], len(of), 0.5, 0.5, of, 0.3), of)]


def _graded_pair(rng: Rng, n: int, tasks: int, kind: str):
    return [(np.stack(graded(rng, skewed_gaps(rng, n, kind))), None) for _ in range(tasks)]


def _series(tasks: Sequence[tuple[Values, Integers | None]]) -> list[Series]:
    return [Series(f"t{i}", "a", values) for i, (values, _) in enumerate(tasks)]


def _difference(rng: Rng, pairs: Pairs, truth: float) -> Mapping[str, float]:
    tasks = pairs(rng)
    (old,) = differences((0.0, 1.0), _series(tasks), 0)
    new = paired_difference([v[1] - v[0] for v, _ in tasks], [of for _, of in tasks])
    return {"reported": covers((old.low, old.high), truth), "corrected": covers((new.low, new.high), truth)}


def _test(rng: Rng, pairs: Pairs) -> Mapping[str, float]:
    tasks = pairs(rng)
    gaps = [v[1] - v[0] for v, _ in tasks]
    return {
        "reported": float(sign_flip_p(gaps) < 0.05),
        "corrected": float(paired_p(gaps, [of for _, of in tasks]) < 0.05),
    }


def _best(rng: Rng, rates: Sequence[float], tasks: int, n: int, what: str) -> Mapping[str, float]:
    """The average, or the gain over instruct, at the lam with the highest average."""
    series = [Series(f"t{i}", "a", lam_items(rng, rates, n)) for i in range(tasks)]
    items = [Items(s.values) for s in series]
    best = int(means(series).argmax())
    quantity, of = what.split(" of ")
    truth = rates[best] - (rates[_LAST] if of == "gain" else 0.0)
    drawn = average_draws(series)
    if of == "gain":
        new = selected_gain(items, unit_draws(items), best, _LAST)
        old_value = float(means(series)[best] - means(series)[_LAST])
        old = interval(drawn[:, best] - drawn[:, _LAST])
    else:
        new = selected_average(items, unit_draws(items), best)
        old_value, old = float(means(series)[best]), interval(drawn[:, best])
    if quantity == "bias":
        return {"reported": old_value - truth, "corrected": new.value - truth}
    return {"reported": covers(old, truth), "corrected": covers((new.low, new.high), truth)}


def _keep(rng: Rng, kind: str, n: int) -> Mapping[str, float]:
    """Whether less than 95% of instruct's following is kept in truth; few-shot skill falls along lam."""
    rates, goal = following(kind), Goal(keep_follow=0.95)
    tasks = [Series(f"t{i}", "a", lam_items(rng, [0.65 - 0.1 * lam for lam in LAMS], 150)) for i in range(4)]
    follow = Series("f", "", lam_items(rng, rates, n))
    broken = [rate < 0.95 * rates[_LAST] - 1e-9 for rate in rates]
    old = best_lam(LAMS, tasks, follow, goal)
    drawn = unit_draws([Items(follow.values)], seed=1)
    margin = keep_margin(follow.values.mean(axis=1), drawn, _LAST, 0.95)
    new = int(goal.utilities(LAMS, means(tasks), means([follow]) - margin).argmax())
    return {"reported": float(broken[LAMS.index(old.lam)]), "corrected": float(broken[new])}


def _price(rng: Rng, kind: str, n: int) -> Mapping[str, float]:
    """Few-shot points that the lam found costs against the best one that keeps following in truth."""
    rates, goal = following(kind), Goal(keep_follow=0.95)
    skill = [0.65 - 0.1 * lam for lam in LAMS]
    follow = lam_items(rng, rates, n)
    drawn = unit_draws([Items(follow)], seed=1)
    margin = keep_margin(follow.mean(axis=1), drawn, _LAST, 0.95)
    ideal = max(s for s, r in zip(skill, rates, strict=True) if r >= 0.95 * rates[_LAST] - 1e-9)
    found = {"reported": np.zeros(len(LAMS)), "corrected": margin}
    return {
        name: ideal - skill[int(goal.utilities(LAMS, np.array(skill), follow.mean(axis=1) - less).argmax())]
        for name, less in found.items()
    }


def _equals(rng: Rng, rates: Sequence[float], tasks: int, n: int) -> Mapping[str, float]:
    """Whether every lam that is the best in truth is named as the best or its equal."""
    series = [Series(f"t{i}", "a", lam_items(rng, rates, n)) for i in range(tasks)]
    items = [Items(s.values) for s in series]
    wanted = {i for i, rate in enumerate(rates) if rate >= max(rates) - 1e-9}
    old = best_lam(LAMS, series)
    named = {LAMS.index(lam) for lam in (old.lam, *old.ties)}
    new = as_good_as_best(averages(items), unit_draws(items))
    return {"reported": float(wanted <= named), "corrected": float(wanted <= set(new))}


def _number_of_equals(rng: Rng, rates: Sequence[float], tasks: int, n: int) -> Mapping[str, float]:
    """The share of the other lams that are named as equals of the best."""
    series = [Series(f"t{i}", "a", lam_items(rng, rates, n)) for i in range(tasks)]
    items = [Items(s.values) for s in series]
    new = as_good_as_best(averages(items), unit_draws(items))
    return {"reported": len(best_lam(LAMS, series).ties) / _LAST, "corrected": (len(new) - 1) / _LAST}


def _range(rng: Rng, rates: Sequence[float], tasks: int, n: int) -> Mapping[str, float]:
    """Whether the range printed behind the best lam holds the lam that is the best in truth."""
    series = [Series(f"t{i}", "a", lam_items(rng, rates, n)) for i in range(tasks)]
    items = [Items(s.values) for s in series]
    truth, old = LAMS[int(np.argmax(rates))], best_lam(LAMS, series)
    new = as_good_as_best(averages(items), unit_draws(items))
    return {
        "reported": covers((old.low, old.high), truth),
        "corrected": covers((LAMS[min(new)], LAMS[max(new)]), truth),
    }


def _any_differs(rng: Rng, tasks: int, n: int) -> Mapping[str, float]:
    series = [Series(f"t{i}", "a", lam_items(rng, flat(0.5), n)) for i in range(tasks)]
    return {"reported": float(compare_lams(LAMS, series).differs)}


def _file(rng: Rng, tasks: int, n: int) -> Mapping[str, float]:
    """Whether any row of the file of differences is significant where no lam differs from another."""
    series = [Series(f"t{i}", f"area {i // 2}", lam_items(rng, flat(0.5), n)) for i in range(tasks)]
    follow = Series("follow", "", lam_items(rng, flat(0.5), n))
    curves = Curves(LAMS, tuple(series), follow)
    found = [d for ends in against_ends(curves).values() for each in ends.values() for d in each]
    groups = {**dict(curves.groups()), "following": (follow,)}
    ps = [
        paired_p([s.values[i] - s.values[end] for s in members], [None] * len(members))
        for members in groups.values()
        for end in (0, _LAST)
        for i in range(len(LAMS))
        if i != end
    ]
    assert len(ps) == len(found)
    return {
        "reported": float(any(d.p_corrected < 0.05 for d in found)),
        "corrected": float(any(p < 0.05 for p in holm(ps))),
    }


_STUDIES = (("8 tasks of 150", 8, 150), ("21 tasks of 40 (quick)", 21, 40), ("one task of 100", 1, 100))


def _pairs() -> list[tuple[str, Pairs, float, int]]:
    """What two lams are compared on: its name, items, the true difference, and runs."""
    same: list[tuple[str, Pairs, float, int]] = [
        (f"{told} items, {word}", partial(_two_lams, tasks=tasks, n=n, shared=shared), 0.0, 400)
        for told, tasks, n in (*_STUDIES, ("one task of 20", 1, 20), ("one task of 40", 1, 40))
        for word, shared in (("few differ", 0.95), ("many differ", 0.5))
    ]
    same += [
        ("8 tasks of 150 items, a gain of 5 points", partial(_two_lams, tasks=8, n=150, shared=0.8, gain=0.05), 0.05, 400),
        ("one task of 40 items, a gain of 15 points", partial(_two_lams, tasks=1, n=40, shared=0.8, gain=0.15), 0.15, 400),
        ("5 passages of 20 questions", partial(_two_lams_of_passages, passages=5, each=20), 0.0, 400),
        ("60 passages of 16 questions", partial(_two_lams_of_passages, passages=60, each=16), 0.0, 400),
        ("200 questions, each twice", partial(_two_lams_of_passages, passages=200, each=2), 0.0, 400),
    ]
    same += [
        (f"F1, {kind}, {tasks} x {n} items", partial(_graded_pair, n=n, tasks=tasks, kind=kind), 0.0, 600)
        for kind in ("rare losses", "rare gains")
        for tasks, n in ((1, 20), (1, 50), (4, 40), (1, 150))
    ]
    return same


def rows() -> list[Row]:
    """Return the rows about lams."""
    out = []
    for told, pairs, truth, runs in _pairs():
        # where few items differ at all, an interval that allows for one more covers nearly always
        loose = "few differ" in told or "20 items" in told or "passages" in told
        once = partial(_difference, pairs=pairs, truth=truth)
        out.append(coverage_row(f"difference, {told}", once, runs, high=100 if loose else 98))
        if truth == 0:
            out.append(error_row(f"test of no difference, {told}", partial(_test, pairs=pairs), runs))
    curves = (("flat", flat(0.6)), ("peak of 8 points", peaked(0.65, 0.08)), ("narrow peak", peaked(0.6, 0.06, 0.5, 0.08)))
    for told, rates in curves:
        for size, tasks, n in _STUDIES:
            for what in ("gain", "accuracy"):
                once = partial(_best, rates=rates, tasks=tasks, n=n)
                name = f"{what} at the best lam, {told}, {size}"
                out.append(bias_row(name, partial(once, what=f"bias of {what}"), 400))
                out.append(coverage_row(f"interval of {name}", partial(once, what=f"interval of {what}"), 400))
    for kind in ("linear", "slow"):
        for n in (100, 250, 541):
            once = partial(_keep, kind=kind, n=n)
            out.append(error_row(f"95% of {kind} following not kept, {n} prompts", once, 300))
    out += [
        Row(name=f"price of keeping 95% of {kind} following, 250 prompts", quantity="regret", low=-10, high=10, runs=200,
            once=partial(_price, kind=kind, n=250))
        for kind in ("linear", "slow")
    ]  # fmt: skip
    plateau = [0.6 if i in (3, 4, 5, 6) else 0.5 for i in range(11)]
    for told, rates in (("flat curve", flat(0.6)), ("four equal lams on top", plateau)):
        for size, tasks, n in _STUDIES:
            once = partial(_equals, rates=rates, tasks=tasks, n=n)
            out.append(coverage_row(f"all equals of the best named, {told}, {size}", once, 300))
    for size, tasks, n in _STUDIES:
        once = partial(_range, rates=peaked(0.65, 0.08), tasks=tasks, n=n)
        out.append(coverage_row(f"range of the best lam, peak of 8 points, {size}", once, 300, high=100))
        once = partial(_number_of_equals, rates=peaked(0.65, 0.08), tasks=tasks, n=n)
        name = f"share of lams named as equals, peak of 8 points, {size}"
        out.append(Row(name=name, quantity="share", low=0, high=100, runs=100, once=once))
        out.append(error_row(f"a difference found on a flat curve, {size}", partial(_any_differs, tasks=tasks, n=n), 200))
    out.append(error_row("any of 280 rows significant, 8 tasks of 60 without differences", partial(_file, tasks=8, n=60), 60))
    return out
