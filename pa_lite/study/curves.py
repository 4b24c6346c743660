"""The results of a study as arrays: every item at every lam, by task and area; their averages and resamplings."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pa_lite.alpaca.calibration import JudgeCheck
from pa_lite.statistics import (
    Mean,
    Spread,
    mean_interval,
    score_interval,
    spread_of_average,
    spread_of_draws,
    spread_of_mean,
    unit_sums,
)
from pa_lite.study.measures import (
    AGREEMENT,
    ANSWERS,
    CONTROLLED,
    CONTROLLED_MINIMAL,
    FEW_SHOT,
    FOLLOWING,
    PREFERRED,
    TEXT,
    Measure,
)

MOST_TASKS = 1000  # in a study: each is resampled some thousand times for the report
MOST_PANELS = 100  # in a chart: more are unreadable, and matplotlib takes minutes for hundreds
DRAWS = 4000
LEVEL = 0.95
Values = npt.NDArray[np.float64]
_T = TypeVar("_T")


def _averages_of(values: Values, weights: tuple[float, ...] | None) -> Values:
    """Return the means of values over items, float64 [...] of [..., items]."""
    out: Values = values.mean(axis=-1) if weights is None else np.average(values, axis=-1, weights=weights)
    return out


@dataclass(frozen=True, kw_only=True)
class Row:
    """Values of items, float64 [items]: those of one lam, or the differences of two. The rest is as in `Series`."""

    values: Values
    clusters: tuple[int, ...] | None = None
    by_seed: Values | None = None  # [seeds, items]
    weights: tuple[float, ...] | None = None
    is_share: bool = True

    def units(self) -> tuple[Values, Values]:
        """Return the sums of the values of each unit, float64 [units], and the units' sizes [units]."""
        return unit_sums(self.values, self.clusters, self.weights)

    def spread(self) -> Spread:
        """Return the spread of the mean, with that of the draw of exemplars where there are several."""
        if self.by_seed is None:
            return spread_of_mean(self.values, self.clusters, self.weights)
        return spread_of_draws(self.by_seed, self.clusters)

    def mean(self) -> float:
        """Return the mean of the values, weighted where there are weights."""
        return float(_averages_of(self.values, self.weights))


@dataclass(frozen=True, kw_only=True)
class Series:
    """A task or instruction set along lam: `values` float64 [lams, items], the same items at every lam.

    `majority` and `chance` are the accuracies of guessing without reading the item, where these exist. `clusters` says
    which items share a passage or a question, as a number for each item; None if all are independent. A unit is a
    cluster, or an item where there are none. `by_seed`, float64 [seeds, lams, items], has the values for several draws
    of exemplars, whose mean `values` is; None for one draw. `metrics` are the averages at every lam by a task's other
    metrics and ways to extract answers. `weights` are the items' shares in an average, such as their bytes; None where
    all count the same. Values are in [0, 1] if `is_share`.
    """

    name: str
    area: str
    values: Values
    majority: float | None = None
    chance: float | None = None
    clusters: tuple[int, ...] | None = None
    by_seed: Values | None = None
    metrics: Mapping[str, tuple[Mean, ...]] = field(default_factory=dict)
    weights: tuple[float, ...] | None = None
    is_share: bool = True

    @property
    def baseline(self) -> float | None:
        """The better of the two guesses, or None."""
        return max((v for v in (self.majority, self.chance) if v is not None), default=None)

    @property
    def n(self) -> int:
        return int(self.values.shape[1])

    @property
    def n_seeds(self) -> int:
        """The number of draws of exemplars."""
        return 1 if self.by_seed is None else len(self.by_seed)

    def units(self) -> tuple[Values, Values]:
        """Return the sums of the values of each unit, float64 [lams, units], and the units' sizes [units]."""
        return unit_sums(self.values, self.clusters, self.weights)

    def averages(self) -> Values:
        """Return the mean at every lam: float64 [lams]."""
        return _averages_of(self.values, self.weights)

    def row(self, lam: int) -> Row:
        """Return the values at one lam, by its index."""
        seeds = None if self.by_seed is None else self.by_seed[:, lam]
        return self._row(self.values[lam], seeds)

    def gap(self, lam: int, reference: int) -> Row:
        """Return the values at one lam less those at another, by their indices."""
        seeds = None if self.by_seed is None else self.by_seed[:, lam] - self.by_seed[:, reference]
        return self._row(self.values[lam] - self.values[reference], seeds)

    def _row(self, values: Values, by_seed: Values | None) -> Row:
        return Row(values=values, clusters=self.clusters, by_seed=by_seed, weights=self.weights, is_share=self.is_share)

    def at(self, lams: Sequence[int]) -> Series:
        """Return the series at some of the lams, by their indices."""
        return replace(
            self,
            values=self.values[list(lams)],
            by_seed=None if self.by_seed is None else self.by_seed[:, list(lams)],
            metrics={name: tuple(each[i] for i in lams) for name, each in self.metrics.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Few-shot tasks along lam, with instruction following where measured. Averages are over tasks (macro).

    `follow` is 1 or 0 for each prompt, `wins` the preference over a reference's output in [0, 1]. Measured without
    labels: `text` is bits per byte of passages, by bytes; `agreement` the share of the tokens of instruct's answers
    that are the most likely ones, and `answers` their nats per token, both by tokens.
    `length_controlled` is the length-controlled win rate at each lam with the standard error of the fit, empty where
    unknown; `is_minimal_control` says that it is the minimal form at some lam. `judge_check` compares the judge of
    `wins` with known preferences, `judge_signs` says what speaks against it.
    """

    lams: tuple[float, ...]
    tasks: tuple[Series, ...]
    follow: Series | None = None
    wins: Series | None = None
    length_controlled: tuple[Mean, ...] = ()
    is_minimal_control: bool = False
    judge_check: JudgeCheck | None = None
    judge_signs: tuple[str, ...] = ()
    text: Series | None = None
    agreement: Series | None = None
    answers: Series | None = None
    _known: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, compute: Callable[..., _T], *arguments: Hashable) -> _T:
        """Return what a function computes from these curves and arguments; computed once, it must not be changed."""
        key = compute, arguments
        if key not in self._known:
            self._known[key] = compute(self, *arguments)
        found: _T = self._known[key]
        return found

    @property
    def areas(self) -> tuple[str, ...]:
        """The tasks' areas, in the order of their first tasks."""
        return tuple(dict.fromkeys(t.area for t in self.tasks))

    def of_area(self, area: str) -> tuple[Series, ...]:
        return tuple(t for t in self.tasks if t.area == area)

    @property
    def skill(self) -> tuple[Series, ...]:
        """The series of the few-shot side, higher is better: the tasks, else the text's bits per byte, negated.

        Empty where neither was measured.
        """
        return self.once(_skill)

    @property
    def skill_measure(self) -> Measure:
        """The measure of `skill`."""
        return FEW_SHOT if self.tasks else TEXT

    @property
    def is_judge_trusted(self) -> bool:
        """Whether the judge of `wins` is known to beat chance and answer length."""
        return self.judge_check is not None and self.judge_check.is_trusted

    @property
    def compliance(self) -> Series | None:
        """The series that measures instruction following, or None: checked instructions, else preferences.

        Agreement with instruct takes the place of preferences that were not measured, or whose judge is not trusted.
        """
        if self.follow is not None:
            return self.follow
        return self.wins if self.agreement is None or self.is_judge_trusted else self.agreement

    @property
    def compliance_measure(self) -> Measure:
        """The measure of `compliance`."""
        if self.follow is not None:
            return FOLLOWING
        return PREFERRED if self.agreement is None or self.is_judge_trusted else AGREEMENT

    @property
    def kept(self) -> Series | None:
        """The series of which goals keep a share: `compliance`; of agreement, the part that base does not have.

        None where following was not measured, or agreement without lam 0.
        """
        return self.once(_kept)

    def groups(self) -> Iterator[tuple[str, tuple[Series, ...]]]:
        """Yield (`few-shot`, all tasks), then each area and each task where there are several.

        Group names are unique: an area or task named like an earlier group or a measure gets `(area)` or `(task)`
        appended.
        """
        taken = {measure.group for measure in (FEW_SHOT, FOLLOWING, PREFERRED, CONTROLLED, CONTROLLED_MINIMAL)}
        taken |= {measure.group for measure, series in self.unlabelled() if series is not None}

        def free(name: str, what: str) -> str:
            while name in taken:
                name = f"{name} ({what})"
            taken.add(name)
            return name

        if self.tasks:
            yield FEW_SHOT.group, self.tasks
        if len(self.areas) > 1:
            yield from ((free(area, "area"), self.of_area(area)) for area in self.areas)
        if len(self.tasks) > 1:
            yield from ((free(t.name, "task"), (t,)) for t in self.tasks)

    def unlabelled(self) -> tuple[tuple[Measure, Series | None], ...]:
        """Return the measures without labels, with their series where they were measured."""
        return (AGREEMENT, self.agreement), (TEXT, self.text), (ANSWERS, self.answers)


def _skill(curves: Curves) -> tuple[Series, ...]:
    if curves.tasks or curves.text is None:
        return curves.tasks
    return (replace(curves.text, values=-curves.text.values),)


def _kept(curves: Curves) -> Series | None:
    found = curves.compliance
    if found is None or curves.compliance_measure is not AGREEMENT:
        return found
    if 0.0 not in curves.lams:
        return None
    return replace(found, values=found.values - found.values[curves.lams.index(0.0)], is_share=False)


def means(series: Sequence[Series]) -> Values:
    """Return the macro average at every lam: float64 [lams]."""
    out: Values = np.mean([s.averages() for s in series], axis=0)
    return out


def spreads(series: Sequence[Series]) -> list[Spread]:
    """Return the spread of the macro average at every lam: over units within tasks, and over draws of exemplars."""
    return [spread_of_average([s.row(i).spread() for s in series]) for i in range(len(series[0].values))]


def estimates(series: Sequence[Series]) -> list[Mean]:
    """Return the macro average at every lam, with its standard error."""
    return [Mean(float(v), s.stderr) for v, s in zip(means(series), spreads(series), strict=True)]


@dataclass(frozen=True, kw_only=True)
class Average:
    """A measure's averages over the items of its series, one per lam, each with its interval of 95 percent.

    Length-controlled ones have no series.
    """

    measure: Measure
    series: tuple[Series, ...]
    estimates: Sequence[Mean]
    bounds: Sequence[tuple[float, float]]
    n: int


def average(measure: Measure, series: Sequence[Series]) -> Average:
    """Return a measure's averages over some series; intervals of shares are by `score_interval`, others Student's."""
    values, found = means(series), spreads(series)
    bounds_of = score_interval if measure.is_share else mean_interval
    return Average(
        measure=measure,
        series=tuple(series),
        estimates=[Mean(float(v), s.stderr) for v, s in zip(values, found, strict=True)],
        bounds=[bounds_of(float(v), s, LEVEL) for v, s in zip(values, found, strict=True)],
        n=sum(s.n for s in series),
    )


def averages(curves: Curves) -> list[Average]:
    """Return the averages of all measures, in the order of tables and charts."""
    return curves.once(_averages)


def _averages(curves: Curves) -> list[Average]:
    out = [average(FEW_SHOT, curves.tasks)] if curves.tasks else []
    out += [average(m, [s]) for m, s in ((FOLLOWING, curves.follow), (PREFERRED, curves.wins)) if s is not None]
    if curves.wins is not None and (found := curves.length_controlled):
        z = NormalDist().inv_cdf((1 + LEVEL) / 2)
        bounds = [(e.value - z * e.stderr, e.value + z * e.stderr) for e in found]
        measure = CONTROLLED_MINIMAL if curves.is_minimal_control else CONTROLLED
        out.append(Average(measure=measure, series=(), estimates=found, bounds=bounds, n=curves.wins.n))
    return out + [average(measure, [s]) for measure, s in curves.unlabelled() if s is not None]


def pareto_optimal(first: Values, second: Values) -> list[int]:
    """Return the indices of Pareto-optimal points: no other is better in one value and at least as good in the other.

    `first` and `second` are [points], higher is better.
    """
    found, at = [], 0
    best = -np.inf  # highest second value among the points with a better first value
    order = np.lexsort((-second, -first))
    while at < len(order):
        end = at
        while end < len(order) and first[order[end]] == first[order[at]]:
            end += 1
        top = second[order[at]]
        if top > best:
            found += [int(i) for i in order[at:end] if second[i] == top]
            best = top
        at = end
    return sorted(found)
