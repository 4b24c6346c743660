"""Search for the best lam with a fraction of the grid's evaluations: a race in rounds, where likely winners get more.

All lams start with a few items, the same for each. After each round, what was measured gives each lam a probability of
being the best one; the lams that together have nearly all of it share the next items. A lam that was left out returns
if the others turn out worse. Where there are too few items for that, every lam is measured on every item. Sources:
Russo 2020 (allocation by the posterior probability of being best); Jamieson and Talwalkar 2016 (racing in rounds).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pa_lite.errors import InputError
from pa_lite.statistics import items_to_show
from pa_lite.study.comparisons import mean_variance
from pa_lite.study.curves import LEVEL, Row, Values
from pa_lite.study.goal import Goal
from pa_lite.study.measures import FEW_SHOT, TEXT
from pa_lite.study.search.posterior import Evaluated, measured_averages, posterior_draws
from pa_lite.study.selection import paired_p

# (index of the arm, index of the series, items) -> their values, float64 [items]; NaN where an item has none
Evaluate = Callable[[int, int, Sequence[int]], Values]
BUDGET = 0.4  # of the grid, where there are enough items
# Evaluations per arm, on average, below which a race misses narrow peaks. On a simulated peak of 6 points that is 0.2
# wide it is 0.3 to 0.5 points worse than the grid with 800 items (0.4 of the grid), 0.9 with 500, and 1.3 with 300
ENOUGH = 320
_ROUNDS = 6
_DRAWS = 2000
_KEPT = 0.95  # probability that the best arm is among those that get more items
_WITHIN = 0.1001  # a lam this close to the best counts as the same answer


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Options of a search: `budget` is the share of the grid's item evaluations to spend, `seed` shuffles the items.

    With the budget None it is 0.4 where there are enough items (see `planned_share`), and otherwise the whole grid.
    """

    budget: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.budget is not None and not 0 < self.budget <= 1:
            raise InputError(f"budget {self.budget:g} is outside (0, 1]: it is a share of the grid's evaluations.")


@dataclass(frozen=True, kw_only=True)
class Arms:
    """Candidates of a race: each arm's lam, the number of items of each series, and the function that evaluates them.

    A series is a task, or with `has_follow` the last one is the instructions. With `has_text` a text takes the place of
    the tasks: its values are bits per byte with a minus sign. With `has_agreement`, the last series is the agreement
    with instruct's answers, of which goals take what is above that of base (lam 0).
    """

    lams: tuple[float, ...]
    sizes: tuple[int, ...]
    has_follow: bool
    evaluate: Evaluate
    has_text: bool = False
    has_agreement: bool = False

    @property
    def grid(self) -> int:
        """The number of evaluations of every arm on every item."""
        return len(self.lams) * sum(self.sizes)

    @property
    def base(self) -> int | None:
        """The arm that agreement is compared with, if any."""
        return self.lams.index(0.0) if self.has_agreement and 0.0 in self.lams else None


@dataclass(frozen=True, kw_only=True)
class Found:
    """The result of a search.

    `confidence` is the probability, over items, that no lam farther away than 0.1 is better. `few_shot` and `follow`
    are each lam's averages (`follow` is empty without following): smoothed along lam, or with `is_grid`, where every
    lam was measured on every item, as measured. `evaluated` is the share of its items that were evaluated. `differs`
    says whether any lam differs measurably from `lam` in a measure of the goal; if not, `needed` items would show a
    difference of 2 points (80% power, 5% two-sided), of text one of 0.01 bits per byte. Without labels, `few_shot` is
    empty and `text` has bits per byte, and `follow` is empty and `agreement` has the agreement with instruct.
    """

    lam: float
    confidence: float
    spent: int
    grid: int
    lams: tuple[float, ...]
    few_shot: tuple[float, ...]
    follow: tuple[float, ...]
    evaluated: tuple[float, ...]
    differs: bool = True
    needed: int = 0
    is_grid: bool = False
    text: tuple[float, ...] = ()
    agreement: tuple[float, ...] = ()


def planned_share(sizes: Sequence[int], has_follow: bool, goal: Goal, options: SearchOptions) -> float:
    """Return the share of the grid that a search spends: its budget, or 1 where that has too few items for a race.

    A race requires 320 evaluations per arm on average, in each measure of the goal: 800 items with a budget of 0.4.
    """
    few_shot, follow = (sizes[:-1], sizes[-1:]) if has_follow else (sizes, ())
    items = min(sum(each) for each in ([few_shot] if goal.weight < 1 else []) + ([follow] if goal.needs_follow else []))
    share = BUDGET if options.budget is None else options.budget
    return 1.0 if options.budget is None and share * items < ENOUGH else share


class _Race:
    """The values evaluated so far: for each arm, a prefix of each series' shuffled items."""

    def __init__(self, arms: Arms, seed: int) -> None:
        self.arms, self.lams, self.sizes = arms, arms.lams, arms.sizes
        self.rng = np.random.default_rng(seed)
        self.orders = [self.rng.permutation(n) for n in arms.sizes]
        self.values = [np.zeros((len(arms.lams), n)) for n in arms.sizes]
        self.seen = np.zeros((len(arms.lams), len(arms.sizes)), np.int64)

    @property
    def spent(self) -> int:
        return int(self.seen.sum())

    def share_of(self, arm: int, series: int) -> float:
        """Return the share of a series' items that an arm has seen."""
        return float(self.seen[arm, series]) / self.sizes[series]

    def extend_all(self, arm: int, share: float) -> None:
        """Evaluate an arm on the first `share` of items of every series."""
        for series in range(len(self.sizes)):
            self.extend(arm, series, share)

    def extend(self, lam: int, series: int, share: float) -> None:
        """Evaluate a lam on the series' first `share` of items."""
        before, after = int(self.seen[lam, series]), math.ceil(share * self.sizes[series] - 1e-9)
        if after > before:
            items = self.orders[series][before:after]
            self.values[series][lam, before:after] = self.arms.evaluate(lam, series, items.tolist())
            self.seen[lam, series] = after

    def known(self, series: int) -> npt.NDArray[np.bool_]:
        """Return which items have a value at every lam, as far as evaluated: bool [items]."""
        found: npt.NDArray[np.bool_] = np.all(~np.isnan(self.values[series]), axis=0)
        return found

    def draws(self, smooth: bool, is_grid: bool = False) -> tuple[Values, Values | None]:
        """Return probable (few-shot, following) averages: float64 [draws + 1, arms]; row 0 is their mean.

        With `is_grid`, row 0 is measured. `smooth` requires that the arms are lams of one line.
        """
        series = [Evaluated(v, self.seen[:, s]) for s, v in enumerate(self.values)]
        n_tasks = len(series) - self.arms.has_follow
        out: list[Values] = []
        for measure in (series[:n_tasks], series[n_tasks:]):
            if measure:
                out.append(posterior_draws(measure, self.lams if smooth else None, self.rng, _DRAWS))
                if is_grid:
                    out[-1][0] = np.nan_to_num(measured_averages(measure))
        return out[0], out[1] if len(out) > 1 else None


@dataclass(frozen=True, kw_only=True)
class Raced:
    """The result of a race: the winner's index, and averages and utilities [draws + 1, arms].

    Row 0 is the mean of the draws, or where all items were evaluated what was measured. `differs` and `needed` are as
    in `Found`.
    """

    best: int
    spent: int
    grid: int
    few_shot: Values
    follow: Values | None
    utilities: Values
    evaluated: tuple[float, ...]
    differs: bool
    needed: int


def race_arms(arms: Arms, goal: Goal, options: SearchOptions | None = None, smooth: bool = False) -> Raced:
    """Race arms for the highest utility; with `smooth` they are lams of one line, and neighbours inform each other.

    Where `planned_share` is 1, all arms are measured on all items, and the best one is that of the highest measured
    utility.

    Raises InputError when the goal requires a measure that is missing, for less than two arms, no items, or a budget
    that is too small.
    """
    options = options or SearchOptions()
    lams, sizes, grid = arms.lams, arms.sizes, arms.grid
    if len(lams) < 2 or not sizes or min(sizes) < 1:
        raise InputError("a search requires at least two lams, and items.")
    goal.utilities(lams, np.zeros(len(lams)), np.zeros(len(lams)) if arms.has_follow else None)  # fails before any work
    if goal.needs_follow and arms.has_agreement and arms.base is None:
        raise InputError("this goal is about the agreement with instruct that base does not have: lam 0 is missing.")
    share = planned_share(sizes, arms.has_follow, goal, options)
    least = len(lams) * len(sizes)
    if share < 1 and math.floor(share * grid) < 2 * least:  # otherwise some arm would have no items
        raise InputError(
            f"budget {share:g} of {grid} evaluations is too small: {len(lams)} lams or schedules and "
            f"{len(sizes)} sets of items require {2 * least}. Raise --budget, or use more items."
        )
    race = _Race(arms, options.seed)
    if share == 1:
        for arm in range(len(lams)):
            race.extend_all(arm, 1.0)
        few_shot, follow = race.draws(smooth, is_grid=True)
    else:
        few_shot, follow = _run_rounds(race, goal, math.floor(share * grid), smooth)
    utilities = _utilities(goal, arms, few_shot, follow)
    best = int(utilities[0].argmax())
    differs, needed = _compare_arms(race, best, goal)
    return Raced(
        best=best, spent=race.spent, grid=grid, few_shot=few_shot, follow=follow, utilities=utilities,
        evaluated=tuple(map(float, race.seen.sum(axis=1) / sum(sizes))), differs=differs, needed=needed,
    )  # fmt: skip


def remark_on_size(sizes: Sequence[int], has_follow: bool, goal: Goal, options: SearchOptions, name: str) -> str:
    """Return what to say before a search of so few items that all are measured, or should be; "" where they suffice.

    `name` is what the arms are: lam or schedule.
    """
    items, share = sum(sizes), planned_share(sizes, has_follow, goal, options)
    if options.budget is None and share == 1:
        return (
            f"there are too few items for a search within {100 * BUDGET:g}% of the grid ({items} items): measuring "
            f"every {name}"
        )
    if share < 1 and planned_share(sizes, has_follow, goal, SearchOptions()) == 1:
        return (
            f"a budget of {100 * share:g}% may miss a narrow peak with so few items ({items}); without --budget, every "
            f"{name} is measured on all of them"
        )
    return ""


def _utilities(goal: Goal, arms: Arms, few_shot: Values, follow: Values | None, reach: float = 1.0) -> Values:
    """Return the utilities of draws, whose row 0 is measured, with `reach` of the margin for keeping following."""
    lams = arms.lams
    if follow is not None and arms.base is not None:
        follow = follow - follow[:, [arms.base]]
    margin = 0.0 if follow is None else reach * goal.margin(lams, follow[0], follow[1:])
    return goal.utilities(lams, few_shot, None if follow is None else follow - margin)


def _run_rounds(race: _Race, goal: Goal, budget: int, smooth: bool) -> tuple[Values, Values | None]:
    """Spend the budget in rounds on the arms that may be the best; return the last round's `draws`."""
    lams, sizes = race.lams, race.sizes
    instruct = lams.index(1.0) if goal.keep_follow is not None else None  # the constraint is relative to lam 1
    base = race.arms.base if goal.needs_follow else None  # and agreement to lam 0
    compared = [arm for arm in (instruct, base) if arm is not None]
    shares, wins = np.zeros(len(lams)), np.full(len(lams), 1 / len(lams))
    likely, all_items = list(range(len(lams))), sum(sizes)
    for rounds_left in range(_ROUNDS, 0, -1):
        left = budget - race.spent - (len(likely) + 1) * len(sizes)  # each may round up to one more item
        if left <= 0 and rounds_left < _ROUNDS:
            break
        amount = max(0, left) / rounds_left
        # the square root of the probabilities, so that close rivals of the first get nearly as many items
        weights = np.sqrt(np.maximum(wins, 1e-3))
        poured = _pour(shares, likely, weights, amount / all_items)
        if others := [arm for arm in compared if arm not in likely]:
            top = float(poured[likely].max())
            extra = sizes[-1] * sum(max(0.0, top - race.share_of(arm, -1)) for arm in others)
            poured = _pour(shares, likely, weights, max(0.0, amount - extra) / all_items)
        shares = poured
        for arm in likely:
            race.extend_all(arm, shares[arm])
        for arm in others:
            race.extend(arm, len(sizes) - 1, float(shares[likely].max()))
        few_shot, follow = race.draws(smooth)
        # while items are still to come, the margin is the one that all of them will give
        reach = 1.0 if follow is None else math.sqrt(min(1.0, float(race.seen[:, -1].max()) / sizes[-1]))
        wins = _win_shares(_utilities(goal, race.arms, few_shot, follow, reach)[1:])
        ranked = sorted(range(len(lams)), key=lambda i: -wins[i])
        n_kept = int(np.searchsorted(np.cumsum(wins[ranked]), _KEPT)) + 1
        # instruct keeps its own following, whatever the others turn out to do
        certain = [] if instruct is None or goal.sure is None else [instruct]
        likely = sorted({*ranked[: max(2, n_kept)], *certain})
        if all(shares[arm] >= 1 - 1e-9 for arm in likely):
            break
    return few_shot, follow


def _pour(shares: Values, arms: Sequence[int], weights: Values, amount: float) -> Values:
    """Return the shares [arms] with `amount` added to those of some arms, by weight, up to 1 each."""
    out: Values = np.array(shares)
    while amount > 1e-9:
        room = np.zeros(len(out))
        room[list(arms)] = 1 - out[list(arms)]
        open_weights = np.where(room > 1e-9, weights, 0.0)
        if not open_weights.any():
            break
        added = np.minimum(room, amount * open_weights / open_weights.sum())
        out += added
        amount -= float(added.sum())
    return out


def _compare_arms(race: _Race, best: int, goal: Goal) -> tuple[bool, int]:
    """Compare the best arm with every other in the goal's measures, on the items that both have.

    Return whether a test (`paired_p`) finds a difference at the 5% level, corrected for all pairs of arms as the best
    was chosen among them, and how many items would show a difference of 2 points.
    """
    n_tasks, arms = len(race.sizes) - race.arms.has_follow, len(race.lams)
    measures = [range(n_tasks)] if goal.weight < 1 else []
    if goal.needs_follow:
        measures.append(range(n_tasks, len(race.sizes)))
    differs, needed = False, 0
    for series in measures:
        is_text = race.arms.has_text and 0 in series
        step, is_share = (TEXT.step, False) if is_text else (FEW_SHOT.step, True)
        for arm in (arm for arm in range(arms) if arm != best):
            gaps = []
            for s in series:
                common = int(min(race.seen[arm, s], race.seen[best, s]))
                gap = race.values[s][best, :common] - race.values[s][arm, :common]
                gaps.append(Row(gap[race.known(s)[:common]], is_share=is_share))
            if any(not len(gap.values) for gap in gaps):
                continue
            differs |= paired_p(gaps) * arms * (arms - 1) / 2 < 1 - LEVEL
            needed = max(needed, items_to_show(mean_variance(gaps), step, is_share=is_share))
    return bool(differs), needed


def search_lam(arms: Arms, goal: Goal, options: SearchOptions | None = None) -> Found:
    """Find the lam with the highest utility among those of a line. See `race_arms`."""
    raced, lams = race_arms(arms, goal, options, smooth=True), arms.lams
    near = [i for i in range(len(lams)) if abs(lams[i] - lams[raced.best]) < _WITHIN]
    drawn = raced.utilities[1:]
    skill = tuple(map(float, raced.few_shot[0]))
    follow = tuple(map(float, raced.follow[0])) if raced.follow is not None else ()
    return Found(
        lam=lams[raced.best],
        confidence=float((drawn[:, near].max(axis=1) >= drawn.max(axis=1)).mean()),
        spent=raced.spent,
        grid=raced.grid,
        lams=lams,
        few_shot=() if arms.has_text else skill,
        follow=() if arms.has_agreement else follow,
        text=tuple(-value for value in skill) if arms.has_text else (),
        agreement=follow if arms.has_agreement else (),
        evaluated=raced.evaluated,
        differs=raced.differs,
        needed=raced.needed,
        is_grid=raced.spent == raced.grid,
    )


def _win_shares(utilities: Values) -> Values:
    """Return how often each arm is the best in draws of utilities: float64 [arms]."""
    wins: Values = np.bincount(utilities.argmax(axis=1), minlength=utilities.shape[1]).astype(np.float64)
    wins /= len(utilities)
    return wins
