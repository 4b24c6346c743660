"""Summary of a finished study: curves, readings in words, examples, setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pa_lite.errors import InputError
from pa_lite.study.comparisons import (
    LEVEL,
    Best,
    Comparison,
    Difference,
    average_draws,
    best_lam,
    compare_lams,
    differences,
    items_in_words,
)
from pa_lite.study.curves import Curves, Series, average, averages, means
from pa_lite.study.goal import READINGS, Goal
from pa_lite.study.measures import FEW_SHOT, FOLLOWING
from pa_lite.study.ranking import ranked, refusal


@dataclass(frozen=True)
class Example:
    """One instruction and its answers: (lam, text, followed) for some lams; followed is None where not checked."""

    instruction: str
    outputs: tuple[tuple[float, str, bool | None], ...]


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A stale result that a sweep with --keep-stale kept, and how its inputs differ from the study's."""

    kind: str
    name: str
    lam: float
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class StudySummary:
    """One pair's curves at one weight type, with examples, remarks and setting (lines of name and value).

    `kept` lists results that were measured from other inputs than the rest (--keep-stale).
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


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The best lam for one use, with a sentence; `best` is None where no lam is measurably better."""

    name: str
    goal: Goal
    best: Best | None
    sentence: str

    @property
    def label(self) -> str:
        """The label of the lam in tables and charts."""
        return self.name if self.goal.needs_follow else "best few-shot"


@dataclass(frozen=True, kw_only=True)
class BestLam:
    """The best lam for a goal.

    `low` and `high` bound the central 95% of the lams that win when items are resampled; `ties` have no measurable
    difference from the best. Where `differs` is false, no lam is measurably better: `lam` only has the highest value,
    and `sentence` says so.
    """

    lam: float
    low: float
    high: float
    ties: tuple[float, ...]
    differs: bool
    sentence: str

    def __str__(self) -> str:
        return self.sentence


def _lams(lams: Sequence[float]) -> str:
    return ", ".join(f"{lam:g}" for lam in lams)


def _of_best(best: Best, goal: Goal, curves: Curves) -> str:
    at = curves.lams.index(best.lam)
    text = f"lam {best.lam:g} (95% of resamplings: {best.low:g} to {best.high:g})"
    text += f", few-shot {100 * means(curves.tasks)[at]:.1f}%"
    if curves.compliance is not None:
        text += f", {curves.compliance_measure.label} {100 * means([curves.compliance])[at]:.1f}%"
    if best.ties:
        use = " for this use" if goal.needs_follow else ""
        text += f"; no measurable difference{use} from lam {_lams(best.ties)}"
    return text


def _no_difference(what: str, found: Comparison, unit: str = "items", between: str = "the lams") -> str:
    """Say that there is no measurable difference, and how many items would show one of 2 points."""
    values = f"{100 * found.low:.1f}% to {100 * found.high:.1f}%"
    if found.low == found.high:
        values = f"{100 * found.low:.1f}% at each"
    return f"no measurable difference between {between} in {what} ({values}, {found.items} {unit}); " + items_in_words(
        found.needed, unit
    )


def comparisons(curves: Curves) -> dict[str, Comparison]:
    """Compare the lams in few-shot accuracy and, where measured, in following."""
    series = {FEW_SHOT.group: curves.tasks}
    if (following := ranked(curves)) is not None:
        series[FOLLOWING.group] = (following,)
    return {name: compare_lams(curves.lams, each) for name, each in series.items()}


def _undecided(curves: Curves, goal: Goal, found: Mapping[str, Comparison]) -> str:
    """Say why no lam is the best for a goal; return "" where one is.

    A best lam requires a measurable difference: in few-shot accuracy; for a weighted goal in few-shot accuracy or
    following; for a kept share in following, and among several lams that keep it in few-shot accuracy.
    """
    few_shot = _no_difference("few-shot accuracy", found["few-shot"])
    if not goal.needs_follow:
        return "" if found["few-shot"].differs else few_shot
    if refused := refusal(curves):
        return refused
    assert curves.compliance is not None
    word = curves.compliance_measure.label
    following = _no_difference(word, found["following"], "prompts")
    if goal.keep_follow is None:
        flat = not (found["few-shot"].differs or found["following"].differs)
        return f"no measurable difference between the lams in few-shot accuracy or {word}" if flat else ""
    if not found["following"].differs:
        return f"{following}. So following excludes no lam"
    utilities = goal.utilities(curves.lams, means(curves.tasks), means([curves.compliance]))
    kept = [i for i, utility in enumerate(utilities) if utility >= 0]
    if len(kept) == 1:
        return ""
    lams = tuple(curves.lams[i] for i in kept)
    among = compare_lams(lams, [replace(task, values=task.values[kept]) for task in curves.tasks])
    if among.differs:
        return ""
    return f"kept by lam {_lams(sorted(lams))}, with {_no_difference('few-shot accuracy', among, between='them')}"


def readings(curves: Curves) -> list[Reading]:
    """Return the readings that the measurements allow, the most useful first; none for a single lam."""
    if len(curves.lams) < 2:
        return []
    found, out = comparisons(curves), []
    for name, goal in READINGS:
        if goal.needs_follow and curves.compliance is None:
            continue
        if goal.keep_follow is not None and 1.0 not in curves.lams:
            continue
        text, best = _undecided(curves, goal, found), None
        if not text:
            best = best_lam(curves.lams, curves.tasks, curves.compliance, goal)
            text = _of_best(best, goal, curves)
        out.append(Reading(name=name, goal=goal, best=best, sentence=f"{name[0].upper()}{name[1:]}: {text}."))
    return out


def best_for(curves: Curves, goal: Goal) -> BestLam:
    """Return the best lam for a goal, with its uncertainty and a sentence.

    Raises InputError for a study of one lam, and where the goal requires a measure that is missing or a judge that is
    not known to be better than answer length.
    """
    if len(curves.lams) < 2:
        raise InputError("a best lam requires several lams, but the study has one.")
    if goal.needs_follow and (refused := refusal(curves)):
        raise InputError(f"no best lam for this goal: {refused}.")
    best = best_lam(curves.lams, curves.tasks, curves.compliance, goal)
    undecided = _undecided(curves, goal, comparisons(curves))
    sentence = f"Best for {goal.told()}: {undecided or _of_best(best, goal, curves)}."
    return BestLam(
        lam=best.lam, low=best.low, high=best.high, ties=best.ties, differs=not undecided, sentence=sentence
    )  # fmt: skip


def labels(found: Sequence[Reading]) -> dict[float, list[str]]:
    """Return lam -> labels, for each lam that is best in some reading."""
    out: dict[float, list[str]] = {}
    for reading in found:
        if reading.best is not None:
            out.setdefault(reading.best.lam, []).append(reading.label)
    return out


def ends(curves: Curves) -> dict[str, int]:
    """Return the indices of base (lam 0) and instruct (lam 1) among the lams, where present."""
    return {name: curves.lams.index(lam) for name, lam in (("base", 0.0), ("instruct", 1.0)) if lam in curves.lams}


def against_ends(curves: Curves) -> dict[str, dict[str, list[Difference]]]:
    """Return group (few-shot, area, task, following) -> end (base, instruct) -> every other lam's difference to it."""
    groups: dict[str, tuple[Series, ...]] = dict(curves.groups())
    if (following := ranked(curves)) is not None:
        groups[FOLLOWING.group] = (following,)
    out = {}
    for group, series in groups.items():
        drawn = average_draws(series)
        out[group] = {end: differences(curves.lams, series, at, drawn=drawn) for end, at in ends(curves).items()}
    return out


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _few_shot_conclusion(curves: Curves, found: Comparison) -> str:
    average = means(curves.tasks)
    best = int(average.argmax())
    at_best = f"{100 * average[best]:.1f}% at lam {curves.lams[best]:g}"
    if len(curves.lams) == 1:
        return f"Few-shot accuracy: {at_best}; with a single lam there is nothing to compare."
    if not found.differs:
        return _sentence(_no_difference("few-shot accuracy", found))
    text = f"Few-shot accuracy is highest at lam {curves.lams[best]:g}"
    for end, at in reversed(ends(curves).items()):
        if at != best:
            gap = {d.lam: d for d in differences(curves.lams, curves.tasks, at)}[curves.lams[best]]
            doubt = "" if gap.p_corrected < 1 - LEVEL else "; no measurable difference"
            error = f"s.e. {100 * gap.stderr:.1f}" if np.isfinite(gap.stderr) else "s.e. unknown"
            text += f", {100 * gap.value:.1f} points ({error}) above {end} (lam {curves.lams[at]:g}{doubt})"
    return text + "."


def conclusion(curves: Curves) -> str:
    """Return the trade-off in a few sentences.

    No lam is called best where `compare_lams` finds no difference. Two lams differ measurably when the p of a sign-flip
    test, corrected by Holm's method for all lams compared, is below 5%.
    """
    found = comparisons(curves)
    text = _few_shot_conclusion(curves, found["few-shot"])
    if curves.compliance is None:
        return text
    if refused := refusal(curves):
        return f"{text} {_sentence(refused)}"
    word = curves.compliance_measure.label
    if not found["following"].differs and len(curves.lams) > 1:
        return f"{text} {_sentence(_no_difference(word, found['following'], 'prompts'))}"
    shown = {0, len(curves.lams) - 1}
    if found["few-shot"].differs:
        shown.add(int(means(curves.tasks).argmax()))
    values = means([curves.compliance])
    at_lams = (f"{100 * values[i]:.0f}% at lam {curves.lams[i]:g}" for i in sorted(shown, key=lambda i: curves.lams[i]))
    return f"{text} {_sentence(f'{word}: ' + ', '.join(at_lams))}"


def table(curves: Curves) -> list[Mapping[str, float | str]]:
    """Return every average with its standard error, one row per group and lam; numbers in [0, 1].

    The groups named `TASK: METRIC` are a task's other metrics and ways to extract answers.
    """
    few_shot, *others = averages(curves)
    groups = [(name, average(few_shot.measure, series)) for name, series in curves.groups()]
    groups += [(other.measure.group, other) for other in others]
    rows = [(group, found.estimates, found.n) for group, found in groups]
    rows += [(f"{t.name}: {metric}", estimates, t.n) for t in curves.tasks for metric, estimates in t.metrics.items()]
    return [
        {"group": group, "lam": lam, "value": e.value, "stderr": e.stderr, "n": n}
        for group, estimates, n in rows
        for lam, e in zip(curves.lams, estimates, strict=True)
    ]
