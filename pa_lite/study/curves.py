"""What a study measured, as arrays: every item at every lam, by task and area. Numpy only; knows no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pa_lite.statistics import Mean, mean_over_tasks
from pa_lite.study.measures import CONTROLLED, FEW_SHOT, FOLLOWING, MEASURES, PREFERRED, Measure

MOST_TASKS = 1000  # of a study: each is resampled some thousand times for its report
MOST_PANELS = 100  # of a chart: more are not read, and matplotlib takes minutes for hundreds
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """One task, or the instructions, along lam: `values` float64 [lams, items], the same items at every lam.

    `majority` and `chance` are the values of guesses that never look at the item, where there are such.
    """

    name: str
    area: str
    values: Values
    majority: float | None = None
    chance: float | None = None

    @property
    def baseline(self) -> float | None:
        """The better of the two guesses."""
        return max((v for v in (self.majority, self.chance) if v is not None), default=None)

    @property
    def n(self) -> int:
        return int(self.values.shape[1])


@dataclass(frozen=True)
class Curves:
    """Few-shot tasks along lam, and what was measured of instruction following. Averages are over tasks (macro).

    `follow` holds 1 or 0 for each prompt, `wins` the preference in [0, 1] over a reference's output for each.
    `length_controlled` is the win rate at each lam if both wrote equally long, empty where it is not known; its
    standard errors are those of the fit.
    """

    lams: tuple[float, ...]
    tasks: tuple[Series, ...]
    follow: Series | None = None
    wins: Series | None = None
    length_controlled: tuple[Mean, ...] = ()

    @property
    def areas(self) -> tuple[str, ...]:
        """The tasks' areas, in the order of their first tasks."""
        return tuple(dict.fromkeys(t.area for t in self.tasks))

    def of_area(self, area: str) -> tuple[Series, ...]:
        return tuple(t for t in self.tasks if t.area == area)

    @property
    def compliance(self) -> Series | None:
        """What stands for instruction following: the checked instructions, else the preferences, else nothing."""
        return self.follow if self.follow is not None else self.wins

    @property
    def compliance_measure(self) -> Measure:
        """Which of the two `compliance` is."""
        return FOLLOWING if self.follow is not None else PREFERRED

    def groups(self) -> Iterator[tuple[str, tuple[Series, ...]]]:
        """Yield (`few-shot`, all tasks), then each area where there are several, then each task.

        No two groups have the same name, whatever areas and tasks are called: one that is taken gets `(area)` or
        `(task)` after it. The names of all measures are taken.
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
    """The macro average at every lam: float64 [lams]."""
    out: Values = np.mean([s.values.mean(axis=1) for s in series], axis=0)
    return out


def estimates(series: Sequence[Series]) -> list[Mean]:
    """The macro average at every lam, with its standard error over items."""
    return [mean_over_tasks([s.values[i] for s in series]) for i in range(series[0].values.shape[0])]


@dataclass(frozen=True, kw_only=True)
class Average:
    """A measure's averages over the items of its series, one a lam. A length-controlled one has no series."""

    measure: Measure
    series: tuple[Series, ...]
    estimates: Sequence[Mean]
    n: int


def average(measure: Measure, series: Sequence[Series]) -> Average:
    """Return the averages of some series as a measure's."""
    return Average(measure=measure, series=tuple(series), estimates=estimates(series), n=sum(s.n for s in series))


def averages(curves: Curves) -> list[Average]:
    """Return what was measured, averaged, in the order in which tables and charts show it."""
    out = [average(FEW_SHOT, curves.tasks)]
    out += [average(m, [s]) for m, s in ((FOLLOWING, curves.follow), (PREFERRED, curves.wins)) if s is not None]
    if curves.wins is not None and curves.length_controlled:
        out.append(Average(measure=CONTROLLED, series=(), estimates=curves.length_controlled, n=curves.wins.n))
    return out


def pareto_optimal(first: Values, second: Values) -> list[int]:
    """Return the indices of the points that no other beats in one value while it is as good in the other; [points]."""
    found, at = [], 0
    best = -np.inf  # in the second value, of all points that are better in the first
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
