"""The results of a study as arrays: every item at every lam, by task and area."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pa_lite.alpaca.calibration import JudgeCheck
from pa_lite.statistics import Mean, mean_over_tasks
from pa_lite.study.measures import CONTROLLED, CONTROLLED_MINIMAL, FEW_SHOT, FOLLOWING, MEASURES, PREFERRED, Measure

MOST_TASKS = 1000  # in a study: each is resampled some thousand times for the report
MOST_PANELS = 100  # in a chart: more are unreadable, and matplotlib takes minutes for hundreds
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Series:
    """A task or instruction set along lam: `values` float64 [lams, items], the same items at every lam.

    `majority` and `chance` are the accuracies of guessing without reading the item, where these exist. `clusters` says
    which items share a passage or a question, as a number for each item; None if all are independent. `by_seed`,
    float64 [seeds, lams, items], has the values for several draws of exemplars, whose mean `values` is; None for one
    draw. `metrics` are the averages at every lam by a task's other metrics and ways to extract answers.
    """

    name: str
    area: str
    values: Values
    majority: float | None = None
    chance: float | None = None
    clusters: tuple[int, ...] | None = None
    by_seed: Values | None = None
    metrics: Mapping[str, tuple[Mean, ...]] = field(default_factory=dict)

    @property
    def baseline(self) -> float | None:
        """The better of the two guesses, or None."""
        return max((v for v in (self.majority, self.chance) if v is not None), default=None)

    @property
    def n(self) -> int:
        return int(self.values.shape[1])


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Few-shot tasks along lam, with instruction following where measured. Averages are over tasks (macro).

    `follow` is 1 or 0 for each prompt, `wins` the preference over a reference's output in [0, 1].
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

    @property
    def areas(self) -> tuple[str, ...]:
        """The tasks' areas, in the order of their first tasks."""
        return tuple(dict.fromkeys(t.area for t in self.tasks))

    def of_area(self, area: str) -> tuple[Series, ...]:
        return tuple(t for t in self.tasks if t.area == area)

    @property
    def compliance(self) -> Series | None:
        """The series that measures instruction following: checked instructions, else preferences, else None."""
        return self.follow if self.follow is not None else self.wins

    @property
    def compliance_measure(self) -> Measure:
        """The measure of `compliance`."""
        return FOLLOWING if self.follow is not None else PREFERRED

    def groups(self) -> Iterator[tuple[str, tuple[Series, ...]]]:
        """Yield (`few-shot`, all tasks), then each area and each task where there are several.

        Group names are unique: an area or task named like an earlier group or a measure gets `(area)` or `(task)`
        appended.
        """
        taken = {measure.group for measure in MEASURES}

        def free(name: str, what: str) -> str:
            while name in taken:
                name = f"{name} ({what})"
            taken.add(name)
            return name

        yield FEW_SHOT.group, self.tasks
        if len(self.areas) > 1:
            yield from ((free(area, "area"), self.of_area(area)) for area in self.areas)
        if len(self.tasks) > 1:
            yield from ((free(t.name, "task"), (t,)) for t in self.tasks)


def means(series: Sequence[Series]) -> Values:
    """Return the macro average at every lam: float64 [lams]."""
    out: Values = np.mean([s.values.mean(axis=1) for s in series], axis=0)
    return out


def estimates(series: Sequence[Series]) -> list[Mean]:
    """Return the macro average at every lam, with its standard error over items."""
    return [mean_over_tasks([s.values[i] for s in series]) for i in range(series[0].values.shape[0])]


@dataclass(frozen=True, kw_only=True)
class Average:
    """A measure's averages over the items of its series, one per lam. Length-controlled ones have no series."""

    measure: Measure
    series: tuple[Series, ...]
    estimates: Sequence[Mean]
    n: int


def average(measure: Measure, series: Sequence[Series]) -> Average:
    """Return a measure's averages over some series."""
    return Average(measure=measure, series=tuple(series), estimates=estimates(series), n=sum(s.n for s in series))


def averages(curves: Curves) -> list[Average]:
    """Return the averages of all measures, in the order of tables and charts."""
    out = [average(FEW_SHOT, curves.tasks)]
    out += [average(m, [s]) for m, s in ((FOLLOWING, curves.follow), (PREFERRED, curves.wins)) if s is not None]
    if curves.wins is not None and curves.length_controlled:
        measure = CONTROLLED_MINIMAL if curves.is_minimal_control else CONTROLLED
        out.append(Average(measure=measure, series=(), estimates=curves.length_controlled, n=curves.wins.n))
    return out


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
