"""A finished study as its readers see it: curves, readings in plain words, examples, setting. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pa_lite.study.curves import Curves, Series, estimates, means
from pa_lite.study.goal import READINGS, Goal
from pa_lite.study.paired import Best, Difference, best_lam, differences


@dataclass(frozen=True)
class Example:
    """One instruction and what was answered: (lam, text, followed) for some lams; followed is None where unchecked."""

    instruction: str
    outputs: tuple[tuple[float, str, bool | None], ...]


@dataclass(frozen=True)
class Kept:
    """An older result that a sweep with --keep-stale let stand, and in what its inputs differ from the study's."""

    kind: str
    name: str
    lam: float
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """One pair's curves at one type of weights, with what they rest on. `setting` are lines of (what, how).

    `kept` are the results in it that were measured from other inputs than the rest.
    """

    pair: str
    type: str
    curves: Curves
    examples: tuple[Example, ...] = ()
    setting: tuple[tuple[str, str], ...] = ()
    remarks: tuple[str, ...] = ()
    kept: tuple[Kept, ...] = ()

    @property
    def title(self) -> str:
        return f"{self.pair} between base and instruct"


@dataclass(frozen=True)
class Reading:
    """The best lam for one use, and a sentence that says so."""

    name: str
    goal: Goal
    best: Best
    sentence: str


def _lams(lams: Sequence[float]) -> str:
    return ", ".join(f"{lam:g}" for lam in lams)


def _sentence(name: str, best: Best, curves: Curves) -> str:
    at = curves.lams.index(best.lam)
    told = f"{name[0].upper()}{name[1:]}: lam {best.lam:g} (95% of resamplings: {best.low:g} to {best.high:g})"
    told += f", few-shot {100 * means(curves.tasks)[at]:.1f}%"
    if curves.compliance is not None:
        word = "followed" if curves.compliance is curves.follow else "preferred over the reference"
        told += f", {word} {100 * means([curves.compliance])[at]:.1f}%"
    if best.ties:
        told += f"; lam {_lams(best.ties)} cannot be told from it"
    return told + "."


def readings(curves: Curves, seed: int = 0) -> list[Reading]:
    """The best lam for each reading that the measurements allow."""
    out = []
    for name, goal in READINGS:
        if goal.needs_follow and curves.compliance is None:
            continue
        if goal.keep_follow is not None and 1.0 not in curves.lams:
            continue
        best = best_lam(curves.lams, curves.tasks, curves.compliance, goal, seed)
        out.append(Reading(name, goal, best, _sentence(name, best, curves)))
    return out


def ends(curves: Curves) -> dict[str, int]:
    """Where base (lam 0) and instruct (lam 1) stand among the lams, as far as they do."""
    return {name: curves.lams.index(lam) for name, lam in (("base", 0.0), ("instruct", 1.0)) if lam in curves.lams}


def against_ends(curves: Curves, seed: int = 0) -> dict[str, dict[str, list[Difference]]]:
    """Group (few-shot, area, task, following) -> end -> every other lam's difference to it."""
    groups: dict[str, tuple[Series, ...]] = dict(curves.groups())
    if curves.compliance is not None:
        groups["following"] = (curves.compliance,)
    return {
        group: {end: differences(curves.lams, series, at, seed) for end, at in ends(curves).items()}
        for group, series in groups.items()
    }


def conclusion(curves: Curves, seed: int = 0) -> str:
    """One plain sentence on the trade-off, drawn from the numbers alone.

    A difference to an end is called clear when its sign-flip test, corrected by Holm's method for all lams looked at,
    is below 5%; else it is within noise.
    """
    average = means(curves.tasks)
    best = int(average.argmax())
    told = f"Few-shot accuracy is highest at lam {curves.lams[best]:g}"
    for end, at in reversed(ends(curves).items()):
        if at != best:
            found = {d.lam: d for d in differences(curves.lams, curves.tasks, at, seed)}[curves.lams[best]]
            sure = "clearly" if found.p_corrected < 0.05 else "but within noise"
            told += f", {100 * found.value:.1f} points above {end} (lam {curves.lams[at]:g}; {sure})"
    if curves.compliance is None:
        return told + "."
    word = "Instructions followed" if curves.compliance is curves.follow else "Preferred over the reference"
    places = sorted({0, best, len(curves.lams) - 1}, key=lambda i: curves.lams[i])
    values = means([curves.compliance])
    return f"{told}. {word}: " + ", ".join(f"{100 * values[i]:.0f}% at lam {curves.lams[i]:g}" for i in places) + "."


def table(curves: Curves) -> list[Mapping[str, float | str]]:
    """Every average with its standard error: one row for each group and lam; numbers in [0, 1]."""
    rows: list[Mapping[str, float | str]] = []
    groups = dict(curves.groups())
    for name, series in (("following", curves.follow), ("preferred", curves.wins)):
        if series is not None:
            groups[name] = (series,)
    for group, members in groups.items():
        n = int(np.sum([s.n for s in members]))
        for lam, e in zip(curves.lams, estimates(members), strict=True):
            rows.append({"group": group, "lam": lam, "value": e.value, "stderr": e.stderr, "n": n})
    return rows
