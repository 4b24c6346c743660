"""Differences between lams on the same items: intervals, tests, corrections, and the best lam with its uncertainty.

Units (items, or the items of a passage or question together) are resampled or sign-flipped within their tasks; the
choice of tasks is taken as given. Randomness is seeded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pa_lite.errors import InputError
from pa_lite.statistics import items_to_show
from pa_lite.study.curves import (
    LEVEL,
    Average,
    Curves,
    Row,
    Series,
    Values,
    means,
)
from pa_lite.study.goal import Goal
from pa_lite.study.measures import AGREEMENT, FEW_SHOT, Measure
from pa_lite.study.resampling import kept_draws, skill_draws
from pa_lite.study.selection import (
    HeldOut,
    Interval,
    as_good_as_best,
    held_out,
    paired_difference,
    paired_p,
    paired_spread,
    selected_average,
    selected_gain,
)

ENDS: Mapping[str, float] = {"base": 0.0, "instruct": 1.0}
_EQUAL = 1e-12


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A lam's average minus a reference lam's, paired by item.

    `stderr` and the interval of 95 percent, `low` to `high`, are those of `paired_difference`. `p` is two-sided, of
    `paired_p`; `p_corrected` is Holm's, over all lams compared with that reference; `relative` is the difference over
    the reference's average.
    """

    lam: float
    value: float
    stderr: float
    low: float
    high: float
    p: float
    p_corrected: float
    relative: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Whether an average differs measurably between any lams, and how many items would show a difference of 2 points.

    `low` and `high` are the lowest and highest average, in [0, 1], or in the measure's unit. `items` is the number
    measured at each lam; `needed` is the number that would show 0.02, or the measure's `step` (80% power, 5%
    two-sided), spread evenly over the tasks.
    """

    differs: bool
    low: float
    high: float
    items: int
    needed: int


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best lam for a goal, and its uncertainty.

    The truly best lam is the one named or among `ties` in 95 of 100 studies (a model confidence set); `low` and `high`
    are the outermost of these lams. `shares` is how often each lam wins when units are resampled (equals share), in the
    order of the lams. `few_shot` is the few-shot accuracy of the lam chosen, and `gain_over_base` and
    `gain_over_instruct` the gain over lam 0 and 1 (None where that was not measured), all on items that had no part in
    the choice, with intervals that allow for it. Without tasks, `few_shot` is NaN, `text` the bits per byte of text at
    that lam, and gains are bits per byte saved.
    """

    lam: float
    low: float
    high: float
    shares: tuple[float, ...]
    ties: tuple[float, ...]
    few_shot: Interval
    gain_over_base: Interval | None = None
    gain_over_instruct: Interval | None = None
    text: Interval | None = None


def band(shown: Average) -> tuple[list[float], list[float]]:
    """Return the ends of an average's interval at every lam, in percent or in the measure's unit."""
    scale = 100 if shown.measure.is_share else 1
    return [scale * low for low, _ in shown.bounds], [scale * high for _, high in shown.bounds]


def holm(ps: Sequence[float]) -> list[float]:
    """Return p values with Holm's step-down correction for multiple comparisons."""
    out, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        out[i] = largest
    return out


def differences(lams: Sequence[float], series: Sequence[Series], reference: int, seed: int = 0) -> list[Difference]:
    """Return the difference of every other lam from lams[reference], in the order of the lams."""
    others = [i for i in range(len(lams)) if i != reference]
    gaps = [[s.gap(i, reference) for s in series] for i in others]
    ps = [paired_p(each, seed=seed) for each in gaps]
    scale = float(means(series)[reference])
    out = []
    for i, gap, p, corrected in zip(others, gaps, ps, holm(ps), strict=True):
        spread = paired_spread(gap)
        found = paired_difference(gap, spread)
        out.append(
            Difference(
                lam=lams[i],
                value=found.value,
                stderr=spread.stderr,
                low=found.low,
                high=found.high,
                p=p,
                p_corrected=corrected,
                relative=found.value / scale if scale else float("nan"),
            )
        )
    return out


def compare_lams(
    lams: Sequence[float], series: Sequence[Series], seed: int = 0, measure: Measure = FEW_SHOT
) -> Comparison:
    """Compare all lams with base and instruct (or the outermost lams), and the lams of lowest and highest average.

    The lams differ if a test (`paired_p`) is significant. The level of 5% is divided: 3% for all comparisons with both
    references together (Holm's correction), 2% for the one between lowest and highest average (corrected for all pairs
    of lams); all of it for the former where these are all pairs. `needed` is computed from the largest variance of a
    tested difference, averaged over the tasks: with N items spread evenly over k tasks, a macro average of differences
    has the variance mean(s^2) / N.
    """
    average, order = means(series), np.argsort(lams)
    references = [i for i, lam in enumerate(lams) if lam in (0.0, 1.0)] or [int(order[0]), int(order[-1])]
    extremes = int(average.argmin()), int(average.argmax())

    def gaps(first: int, second: int) -> list[Row]:
        return [s.gap(first, second) for s in series]

    compared = {frozenset((i, reference)): (i, reference) for reference in references for i in range(len(lams))}
    against = [gaps(*pair) for pair in compared.values() if pair[0] != pair[1]]
    pairs = max(1, len(lams) * (len(lams) - 1) // 2)
    level, share = 1 - LEVEL, 0.6 if len(against) < pairs else 1.0
    differs = any(p < share * level for p in holm([paired_p(each, seed=seed) for each in against]))
    extreme = gaps(*extremes)
    differs |= pairs * paired_p(extreme, seed=seed) < (1 - share) * level
    found = [extreme, *against]
    needed = items_to_show(max(map(mean_variance, found)), measure.step, is_share=measure.is_share)
    return Comparison(
        differs=bool(differs),
        low=float(average.min()),
        high=float(average.max()),
        items=sum(s.n for s in series),
        needed=needed,
    )


def items_in_words(needed: int, unit: str = "items", measure: Measure = FEW_SHOT) -> str:
    """Say how many items show a difference of 2 points; the minimum of `items_to_show` is only a lower bound."""
    bound = "at least" if needed <= items_to_show(0.0, measure.step, is_share=measure.is_share) else "about"
    return f"it takes {bound} {needed} {unit} to show a difference of {measure.step_in_words} (80% power)"


def mean_variance(gaps: Sequence[Row]) -> float:
    """Return the variance of paired differences, averaged over the tasks that have two units or more.

    For items that share passages or questions it is what as many independent items would have at that standard error.
    Without such tasks it is 0.5, as for two independent answers that are each right half of the time.
    """
    variances = [replace(gap, by_seed=None).spread().stderr ** 2 * len(gap.values) for gap in gaps]
    return float(np.mean([v for v in variances if v == v] or [0.5]))


def kept_lams(curves: Curves, goal: Goal) -> tuple[int, ...]:
    """Return the lams that fulfil the goal's constraint, by their indices; all without one."""
    if goal.keep_follow is None or curves.kept is None:
        return tuple(range(len(curves.lams)))
    following, margin = _following(curves, goal)
    utilities = goal.utilities(curves.lams, means(curves.skill), following - margin)
    return tuple(i for i, utility in enumerate(utilities) if utility >= 0)


def _following(curves: Curves, goal: Goal) -> tuple[Values, Values]:
    """Return the averages of following and the goal's margin, both float64 [lams]."""
    assert curves.kept is not None
    following = means([curves.kept])
    if goal.keep_follow is None or goal.sure is None:
        return following, np.zeros(len(following))
    return following, goal.margin(curves.lams, following, curves.once(kept_draws))


def check_goal(curves: Curves, goal: Goal) -> None:
    """Raise InputError for a goal that requires a measure, or a lam, that the study lacks."""
    if not curves.skill:
        raise InputError("a best lam requires few-shot tasks (--tasks), or text (--text) in their place.")
    if goal.needs_follow and curves.compliance_measure is AGREEMENT and curves.kept is None:
        raise InputError("this goal is about the agreement with instruct that base does not have: lam 0 is missing.")


def chosen_lam(curves: Curves, goal: Goal) -> int:
    """Return the index of the lam of the highest utility, the first of equals.

    Raises InputError when the goal requires a measure that is missing.
    """
    check_goal(curves, goal)
    if not goal.needs_follow or curves.kept is None:
        return int(goal.utilities(curves.lams, means(curves.skill), None).argmax())
    following, margin = _following(curves, goal)
    return int(goal.utilities(curves.lams, means(curves.skill), following - margin).argmax())


def best_lam(curves: Curves, goal: Goal | None = None) -> Best:
    """Return the lam of the highest utility (the first of equals), with its uncertainty.

    Raises InputError when the goal requires a measure that is missing.
    """
    return curves.once(_best_lam, goal or Goal())


def _best_lam(curves: Curves, goal: Goal) -> Best:
    best = chosen_lam(curves, goal)  # raises for a missing measure
    lams, tasks, drawn = curves.lams, curves.skill, curves.once(skill_draws)
    follow = resampled = None
    if goal.needs_follow:
        following, margin = _following(curves, goal)
        follow, resampled = following - margin, curves.once(kept_draws) - margin
    allowed = drawn[:, kept_lams(curves, goal)]
    held = HeldOut(means(tasks), float(means(tasks)[best]))
    if allowed.shape[1] > 1:  # a choice was made
        held = held_out(tasks, lambda few_shot: int(goal.utilities(lams, few_shot, follow).argmax()))
    gains = {}
    for end, lam in ENDS.items():
        if lam in lams:
            at = lams.index(lam)
            gains[end] = selected_gain(tasks, allowed - drawn[:, [at]], best, at, held)
    utilities = goal.utilities(lams, drawn, resampled)
    equals = sorted({best, *_equals(curves, goal, utilities)}, key=lambda i: lams[i])
    at_best = selected_average(tasks, allowed, best, held)
    is_share = curves.skill_measure.is_share
    return Best(
        lam=lams[best],
        low=lams[equals[0]],
        high=lams[equals[-1]],
        shares=_win_shares(utilities),
        ties=tuple(lams[i] for i in sorted(equals) if i != best),
        few_shot=at_best if is_share else Interval(*[math.nan] * 3),
        gain_over_base=gains.get("base"),
        gain_over_instruct=gains.get("instruct"),
        text=None if is_share else Interval(-at_best.value, -at_best.high, -at_best.low),
    )


def _equals(curves: Curves, goal: Goal, drawn: Values) -> list[int]:
    """Return the lams among which the truly best one is, by their indices; `drawn` are resampled utilities.

    With a share to keep, these are the lams as good as the best of those that surely keep it, and of those that may
    keep it each that is not measurably worse than these.
    """
    few_shot = means(curves.skill)
    if goal.keep_follow is None:
        follow = means([curves.kept]) if goal.needs_follow and curves.kept is not None else None
        return as_good_as_best(goal.utilities(curves.lams, few_shot, follow), drawn)
    surely = list(kept_lams(curves, replace(goal, sure=LEVEL)))
    resampled, skill = curves.once(kept_draws), curves.once(skill_draws)
    may_keep = resampled >= goal.keep_follow * resampled[:, [curves.lams.index(1.0)]] - _EQUAL
    found = [surely[i] for i in as_good_as_best(few_shot[surely], skill[:, surely])]
    for i, share in enumerate(may_keep.mean(axis=0)):
        group = [*surely, i]
        if i not in surely and share > 1 - LEVEL:
            found += [i] if len(surely) in as_good_as_best(few_shot[group], skill[:, group]) else []
    return found


def _win_shares(utilities: Values) -> tuple[float, ...]:
    """Return how often each lam has the highest of utilities [draws, lams]; equals share."""
    winners = utilities >= utilities.max(axis=1, keepdims=True) - _EQUAL
    return tuple(map(float, (winners / winners.sum(axis=1, keepdims=True)).mean(axis=0)))
