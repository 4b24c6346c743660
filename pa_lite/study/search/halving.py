"""Search for the best lam with a fraction of the grid's evaluations: successive halving, smoothed along lam.

All lams start with a few items, the same for each; the half that is likelier to win continues with more. Neighbours
inform each other, as averages change smoothly with lam. Sources: Jamieson and Talwalkar 2016 (successive halving);
Rubin 1981 (Bayesian bootstrap); Rasmussen and Williams 2006, chapter 2 (Gaussian process regression).
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
from pa_lite.study.selection import paired_p

# (index of the arm, index of the series, items) -> their values, float64 [items]
Evaluate = Callable[[int, int, Sequence[int]], Values]
_DRAWS = 2000
_LENGTHS = (0.1, 0.15, 0.2, 0.3, 0.5, 0.8)  # candidate length scales of the Gaussian process, in lam
_WITHIN = 0.1001  # a lam this close to the best counts as the same answer


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Options of a search: `budget` is the share of the grid's item evaluations to spend, `seed` shuffles the items."""

    budget: float = 0.4
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.budget <= 1:
            raise InputError(f"budget {self.budget:g} is outside (0, 1]: it is a share of the grid's evaluations.")


@dataclass(frozen=True, kw_only=True)
class Arms:
    """Candidates of a race: each arm's lam, the number of items of each series, and the function that evaluates them.

    A series is a task, or with `has_follow` the last one is the instructions.
    """

    lams: tuple[float, ...]
    sizes: tuple[int, ...]
    has_follow: bool
    evaluate: Evaluate

    @property
    def grid(self) -> int:
        """The number of evaluations of every arm on every item."""
        return len(self.lams) * sum(self.sizes)


@dataclass(frozen=True, kw_only=True)
class Found:
    """The result of a search.

    `confidence` is the probability, over items, that no lam farther away than 0.1 is better. `few_shot` and `follow`
    are each lam's smoothed averages (`follow` is empty without following), `evaluated` the share of its items that were
    evaluated. `differs` says whether any lam differs measurably from `lam` in a measure of the goal; if not, `needed`
    items would show a difference of 2 points (80% power, 5% two-sided).
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

    def extend(self, lam: int, series: int, share: float) -> None:
        """Evaluate a lam on the series' first `share` of items."""
        before, after = int(self.seen[lam, series]), math.ceil(share * self.sizes[series] - 1e-9)
        if after > before:
            items = self.orders[series][before:after]
            self.values[series][lam, before:after] = self.arms.evaluate(lam, series, items.tolist())
            self.seen[lam, series] = after

    def known(self, series: int) -> npt.NDArray[np.bool_]:
        """Return which items have a value at every lam, as far as evaluated: bool [items]."""
        return np.logical_not(np.isnan(self.values[series]).any(axis=0))

    def draws(self, smooth: bool) -> tuple[Values, Values | None]:
        """Return sampled (few-shot, following) averages: float64 [draws + 1, arms]; row 0 is measured.

        Each draw weights the items randomly (Bayesian bootstrap), with the same weights for every arm, so that noise
        shared by the arms cancels. `smooth` requires that the arms are lams of one line.
        """
        few_shot = np.zeros((_DRAWS + 1, len(self.lams)))
        n_tasks = len(self.sizes) - self.arms.has_follow
        follow = None
        for s, n in enumerate(self.sizes):
            weights = np.vstack([np.ones(n), self.rng.standard_exponential((_DRAWS, n))])
            mask = (np.arange(n)[None, :] < self.seen[:, s][:, None]) & self.known(s)
            average = weights @ np.where(mask, self.values[s], 0.0).T / np.maximum(weights @ mask.T, 1e-12)
            if s < n_tasks:
                few_shot += average / n_tasks
            else:
                follow = average
        if smooth:
            few_shot = _smooth(self.lams, few_shot, self.seen[:, :n_tasks].sum(axis=1))
            follow = None if follow is None else _smooth(self.lams, follow, self.seen[:, -1])
        return few_shot, follow


def _smooth(lams: Sequence[float], averages: Values, counts: npt.NDArray[np.int64]) -> Values:
    """Return each row's Gaussian process posterior mean over lam; a lam's noise falls with its number of items.

    The length scale is that of the highest likelihood for the measured averages (row 0).
    """
    x, centre = np.asarray(lams), averages[0].mean()
    spread = max(float(averages[0].var()), 1e-4)
    # as all lams have the same items, most of the noise cancels; a quarter of the binomial variance is assumed to stay
    noise = 0.25 * max(centre * (1 - centre), 0.01) / np.maximum(counts, 1)

    def fit(length: float) -> tuple[float, Values]:
        kernel = spread * np.exp(-0.5 * ((x[:, None] - x[None, :]) / length) ** 2)
        whole = kernel + np.diag(noise)
        inverse, residual = np.linalg.inv(whole), averages[0] - centre
        likelihood = -0.5 * (residual @ inverse @ residual + np.linalg.slogdet(whole)[1])
        return float(likelihood), kernel @ inverse

    _, gain = max((fit(length) for length in _LENGTHS), key=lambda f: f[0])
    out: Values = centre + (averages - centre) @ gain.T
    return out


@dataclass(frozen=True, kw_only=True)
class Raced:
    """The result of a race: the winner's index, and averages and utilities [draws + 1, arms]; row 0 is measured.

    `differs` and `needed` are as in `Found`.
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

    Raises InputError when the goal requires a measure that is missing, for less than two arms, no items, or a budget
    that is too small.
    """
    options = options or SearchOptions()
    lams, sizes, grid = arms.lams, arms.sizes, arms.grid
    if len(lams) < 2 or not sizes or min(sizes) < 1:
        raise InputError("a search requires at least two lams, and items.")
    goal.utilities(lams, np.zeros(len(lams)), np.zeros(len(lams)) if arms.has_follow else None)  # fails before any work
    race = _Race(arms, options.seed)
    least = len(lams) * len(sizes)
    rungs = max(1, math.ceil(math.log2(len(lams))))
    if math.floor(options.budget * grid) < 2 * least:  # otherwise some arm would have no items
        raise InputError(
            f"budget {options.budget:g} of {grid} evaluations is too small: {len(lams)} lams or schedules and "
            f"{len(sizes)} sets of items require {2 * least}. Raise --budget, or use more items."
        )
    alive = list(range(len(lams)))
    # instruct keeps its own following, whatever the others turn out to do
    certain = [list(lams).index(1.0)] if goal.keep_follow is not None and goal.sure is not None else []
    share = 0.0
    for rung in range(rungs):
        wanted = [(arm, s) for arm in alive for s in range(len(sizes))]
        if goal.keep_follow is not None and list(lams).index(1.0) not in alive:
            wanted.append((list(lams).index(1.0), len(sizes) - 1))  # the constraint is relative to lam 1
        left = math.floor(options.budget * grid) - race.spent - len(wanted)  # each may round up to one more item
        share = min(1.0, share + max(0.0, left) / (rungs - rung) / sum(sizes[s] for _, s in wanted))
        for arm, s in wanted:
            race.extend(arm, s, share)
        few_shot, follow = race.draws(smooth)
        # while items are still to come, the margin is the one that all of them will give
        reach = math.sqrt(share) if rung < rungs - 1 else 1.0
        margin = 0.0 if follow is None else reach * goal.margin(lams, follow[0], follow[1:])
        utilities = goal.utilities(lams, few_shot, None if follow is None else follow - margin)
        wins = _win_shares(utilities[1:], alive)
        if rung < rungs - 1:
            ranked = sorted(alive, key=lambda i: (-wins[i], -utilities[1:, i].mean()))
            alive = sorted({*ranked[: max(2, math.ceil(len(alive) / 2))], *certain})
    best = max(alive, key=lambda i: utilities[0, i])
    evaluated = tuple(map(float, race.seen.sum(axis=1) / sum(sizes)))
    differs, needed = _compare_arms(race, best, goal)
    return Raced(
        best=best, spent=race.spent, grid=grid, few_shot=few_shot, follow=follow, utilities=utilities,
        evaluated=evaluated, differs=differs, needed=needed,
    )  # fmt: skip


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
        for arm in (arm for arm in range(arms) if arm != best):
            gaps = []
            for s in series:
                common = int(min(race.seen[arm, s], race.seen[best, s]))
                gap = race.values[s][best, :common] - race.values[s][arm, :common]
                gaps.append(Row(gap[race.known(s)[:common]]))
            if any(not len(gap.values) for gap in gaps):
                continue
            differs |= paired_p(gaps) * arms * (arms - 1) / 2 < 1 - LEVEL
            needed = max(needed, items_to_show(mean_variance(gaps)))
    return bool(differs), needed


def search_lam(arms: Arms, goal: Goal, options: SearchOptions | None = None) -> Found:
    """Find the lam with the highest utility among those of a line. See `race_arms`."""
    raced, lams = race_arms(arms, goal, options, smooth=True), arms.lams
    near = [i for i in range(len(lams)) if abs(lams[i] - lams[raced.best]) < _WITHIN]
    drawn = raced.utilities[1:]
    return Found(
        lam=lams[raced.best],
        confidence=float((drawn[:, near].max(axis=1) >= drawn.max(axis=1)).mean()),
        spent=raced.spent,
        grid=raced.grid,
        lams=lams,
        few_shot=tuple(map(float, raced.few_shot[0])),
        follow=tuple(map(float, raced.follow[0])) if raced.follow is not None else (),
        evaluated=raced.evaluated,
        differs=raced.differs,
        needed=raced.needed,
    )


def _win_shares(utilities: Values, alive: Sequence[int]) -> Values:
    """Return how often each arm is the best of those alive: float64 [arms]."""
    shares = np.zeros(utilities.shape[1])
    winners = np.asarray(alive)[utilities[:, alive].argmax(axis=1)]
    np.add.at(shares, winners, 1 / len(utilities))
    return shares
