"""The content of a study's charts, independent of how they are drawn: points, panels and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pa_lite.study.curves import Average, Curves, Series, average, averages, means, pareto_optimal
from pa_lite.study.measures import FEW_SHOT, Measure
from pa_lite.study.ranking import refusal
from pa_lite.study.summary import Reading, labels

_LABEL = 0.1, 0.08  # size of a label as a share of the chart's width and height


def marks(curves: Curves, found: Sequence[Reading]) -> list[tuple[float, str, bool]]:
    """Return the lams that the readings call best: (lam, label, whether it is in the right half of a chart)."""
    middle = (max(curves.lams) + min(curves.lams)) / 2
    return [(lam, f"{', '.join(names)}: lam {lam:g}", lam > middle) for lam, names in labels(found).items()]


def charts(curves: Curves) -> list[list[Average]]:
    """Return the averages in groups that share an axis: those in percent, then those in each other unit."""
    groups: dict[str, list[Average]] = {}
    for shown in averages(curves):
        groups.setdefault(shown.measure.unit, []).append(shown)
    return list(groups.values())


def axis_title(measure: Measure) -> str:
    """Return the title of an axis for one measure."""
    return f"{measure.label}, percent" if measure.is_share else f"{measure.label} (fewer is better)"


@dataclass(frozen=True, kw_only=True)
class Point:
    """A lam in the plane of following, in percent, and few-shot accuracy (`skill`), in percent too.

    Without tasks, `skill` is the bits per byte of text.
    `names` are the lam and what it is best for, shown where `is_named`. The label is on the side with more space: to
    the left of the point where it is `on_right`.
    """

    lam: float
    following: float
    skill: float
    names: str
    is_named: bool
    is_optimal: bool
    on_right: bool


def plane(curves: Curves, found: Sequence[Reading]) -> list[Point]:
    """Return the trade-off as points of a path, ordered by lam; empty where following was not measured.

    No point is Pareto-optimal where lams are not ranked by the judge's preferences.
    """
    if curves.compliance is None or not curves.skill:
        return []
    scale = 100 if curves.skill_measure.is_share else 1  # bits are negated, so that higher is better
    skill, following = scale * means(curves.skill), 100 * means([curves.compliance])
    front, marked = set[int]() if refusal(curves) else set(pareto_optimal(skill, following)), labels(found)
    order = sorted(range(len(curves.lams)), key=lambda i: curves.lams[i])
    at = [(float(following[i]), float(skill[i])) for i in order]
    apart = labels_apart(at, [curves.lams[i] in marked for i in order])
    middle = (following.max() + following.min()) / 2
    return [
        Point(
            lam=curves.lams[i], following=x, skill=abs(y), is_named=is_named, is_optimal=i in front,
            on_right=x > middle,
            names=", ".join([f"{curves.lams[i]:g}", *marked.get(curves.lams[i], [])]),
        )
        for i, (x, y), is_named in zip(order, at, apart, strict=True)
    ]  # fmt: skip


def labels_apart(points: Sequence[tuple[float, float]], must: Sequence[bool]) -> list[bool]:
    """Return which points of a path get a label: all that must, and others whose label overlaps no other."""
    wide, high = (max(v) - min(v) or 1 for v in zip(*points, strict=True))
    shown = list(must)
    labelled = [point for point, is_shown in zip(points, must, strict=True) if is_shown]
    for i in sorted(range(len(points)), key=lambda i: (0 < i < len(points) - 1, i)):  # the ends first
        x, y = points[i]
        near = any(abs(x - a) < _LABEL[0] * wide and abs(y - b) < _LABEL[1] * high for a, b in labelled)
        if not shown[i] and not near:  # so the number of labels is bounded by the area of the chart
            shown[i] = True
            labelled.append(points[i])
    return shown


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A group of tasks in a chart; `baseline` is the best blind guess in percent, where each task has one."""

    name: str
    title: str
    shown: Average
    baseline: float | None


def panel(name: str, series: Sequence[Series], title: str = "") -> Panel:
    """Return the panel of a group of tasks; the title is the name by default."""
    guesses = [s.baseline for s in series if s.baseline is not None]
    baseline = 100 * sum(guesses) / len(guesses) if len(guesses) == len(series) else None
    return Panel(name=name, title=title or name, shown=average(FEW_SHOT, series), baseline=baseline)


def by_gain(curves: Curves, groups: Mapping[str, Sequence[Series]]) -> list[Panel]:
    """Return a panel for each group, ordered by gain: the highest average minus that at the largest lam.

    The gain in points is in the title.
    """
    last = max(range(len(curves.lams)), key=lambda i: curves.lams[i])
    averages = {name: means(series) for name, series in groups.items()}
    gains = {name: float(a.max() - a[last]) for name, a in averages.items()}
    ordered = sorted(gains, key=lambda name: -gains[name])
    return [panel(name, groups[name], f"{name} (+{100 * gains[name]:.1f})") for name in ordered]
