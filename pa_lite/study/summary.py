"""Summary of a finished study: curves, readings in words, examples, setting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from pa_lite.errors import InputError
from pa_lite.study.comparisons import (
    ENDS,
    Best,
    Comparison,
    Difference,
    best_lam,
    chosen_lam,
    compare_lams,
    differences,
    items_in_words,
    kept_lams,
)
from pa_lite.study.curves import Curves, Series, average, averages, means
from pa_lite.study.goal import READINGS, Goal
from pa_lite.study.measures import FEW_SHOT, FOLLOWING
from pa_lite.study.ranking import ranked, refusal
from pa_lite.study.selection import Interval


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

    The truly best lam is the one named or among `ties`, with 95% confidence; `low` and `high` are the outermost of
    these. `few_shot` is the few-shot accuracy of the lam chosen, `gain_over_base` and `gain_over_instruct` the gain
    over lam 0 and 1 (None where that was not measured): each on items that had no part in the choice, with its
    interval. Where `differs` is false, no lam is measurably better: `lam` only has the highest value, and `sentence`
    says so.
    """

    lam: float
    low: float
    high: float
    ties: tuple[float, ...]
    differs: bool
    sentence: str
    few_shot: Interval
    gain_over_base: Interval | None = None
    gain_over_instruct: Interval | None = None

    def __str__(self) -> str:
        return self.sentence


def _lams(lams: Sequence[float]) -> str:
    return ", ".join(f"{lam:g}" for lam in lams)


def _is_known(found: Interval) -> bool:
    return all(map(math.isfinite, (found.value, found.low, found.high)))


def _few_shot_of(found: Interval, plain: float) -> str:
    """Return a few-shot accuracy with its interval; the plain value where it cannot be measured on held-out items."""
    if not _is_known(found):
        return f"{100 * plain:.1f}% (interval unknown)"
    return f"{100 * found.value:.1f}% (95% interval {100 * found.low:.1f}% to {100 * found.high:.1f}%)"


def _gain(found: Interval, end: str) -> str:
    """Return a gain over an end of the line in words."""
    if not _is_known(found):
        return f"an unknown gain over {end}"
    value, low, high = (100 * share for share in (found.value, found.low, found.high))
    doubt = "; no measurable difference" if low <= 0 <= high else ""
    if round(value, 1) >= 0:
        return f"{value:.1f} points above {end} ({low:.1f} to {high:.1f}{doubt})"
    span = f"{-low:.1f} below to {high:.1f} above" if high > 0 else f"{-high:.1f} to {-low:.1f}"
    return f"{-value:.1f} points below {end} ({span}{doubt})"


_HELD_OUT = "on items that did not choose it"


def _of_best(best: Best, goal: Goal, curves: Curves) -> str:
    at = curves.lams.index(best.lam)
    among = sorted((best.lam, *best.ties))
    text = f"lam {best.lam:g} (the best lam is among {_lams(among)})" if best.ties else f"lam {best.lam:g}"
    text += f", few-shot {_few_shot_of(best.few_shot, means(curves.tasks)[at])}"
    if _is_known(best.few_shot) and len(kept_lams(curves, goal)) > 1:
        text += f" {_HELD_OUT}"
    if curves.compliance is not None:
        text += f", {curves.compliance_measure.label} {100 * means([curves.compliance])[at]:.1f}%"
    return text + _price(best, goal, curves)


def _price(best: Best, goal: Goal, curves: Curves) -> str:
    """Say what it costs to keep a share of following surely, and whether only instruct does."""
    if goal.keep_follow is None or goal.sure is None:
        return ""
    text = ""
    if best.lam == 1 and len(kept_lams(curves, goal)) == 1:
        text = f"; no other lam keeps it in {100 * goal.sure:g}% of resamplings"
        following = comparisons(curves)[FOLLOWING.group]
        if not following.differs:
            word = curves.compliance_measure.label
            text += f" (no measurable difference in {word}; {items_in_words(following.needed, 'prompts')})"
    chosen, by_point = curves.lams.index(best.lam), chosen_lam(curves, replace(goal, sure=None))
    if by_point != chosen:
        few_shot = means(curves.tasks)
        price = 100 * float(few_shot[by_point] - few_shot[chosen])
        text += f"; this costs {price:.1f} few-shot points against keeping it by the point estimate (lam "
        text += f"{curves.lams[by_point]:g})"
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
    return curves.once(_comparisons)


def _comparisons(curves: Curves) -> dict[str, Comparison]:
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
    kept = kept_lams(curves, goal)
    if not found["following"].differs and (goal.sure is None or len(kept) == len(curves.lams)):
        return f"{following}. So following excludes no lam"
    if len(kept) == 1:
        return ""
    lams = tuple(curves.lams[i] for i in kept)
    among = compare_lams(lams, [task.at(kept) for task in curves.tasks])
    if among.differs:
        return ""
    return f"kept by lam {_lams(sorted(lams))}, with {_no_difference('few-shot accuracy', among, between='them')}"


def readings(curves: Curves) -> list[Reading]:
    """Return the readings that the measurements allow, the most useful first; none for a single lam."""
    return list(curves.once(_readings))


def _readings(curves: Curves) -> list[Reading]:
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
            best = best_lam(curves, goal)
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
    best = best_lam(curves, goal)
    undecided = _undecided(curves, goal, comparisons(curves))
    sentence = f"Best for {goal.told()}: {undecided or _of_best(best, goal, curves)}."
    shared = {f.name: getattr(best, f.name) for f in fields(BestLam) if f.name not in ("differs", "sentence")}
    return BestLam(**shared, differs=not undecided, sentence=sentence)


def labels(found: Sequence[Reading]) -> dict[float, list[str]]:
    """Return lam -> labels, for each lam that is best in some reading."""
    out: dict[float, list[str]] = {}
    for reading in found:
        if reading.best is not None:
            out.setdefault(reading.best.lam, []).append(reading.label)
    return out


def ends(curves: Curves) -> dict[str, int]:
    """Return the indices of base (lam 0) and instruct (lam 1) among the lams, where present."""
    return {name: curves.lams.index(lam) for name, lam in ENDS.items() if lam in curves.lams}


def against_ends(curves: Curves) -> dict[str, dict[str, list[Difference]]]:
    """Return group (few-shot, area, task, following) -> end (base, instruct) -> every other lam's difference to it."""
    return curves.once(_against_ends)


def _against_ends(curves: Curves) -> dict[str, dict[str, list[Difference]]]:
    groups: dict[str, tuple[Series, ...]] = dict(curves.groups())
    if (following := ranked(curves)) is not None:
        groups[FOLLOWING.group] = (following,)
    return {
        group: {end: differences(curves.lams, series, at) for end, at in ends(curves).items()}
        for group, series in groups.items()
    }


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _few_shot_conclusion(curves: Curves, found: Comparison) -> str:
    average = means(curves.tasks)
    if len(curves.lams) == 1:
        at_lam = f"{100 * average[0]:.1f}% at lam {curves.lams[0]:g}"
        return f"Few-shot accuracy: {at_lam}; with a single lam there is nothing to compare."
    if not found.differs:
        return _sentence(_no_difference("few-shot accuracy", found))
    best = best_lam(curves)
    at = curves.lams.index(best.lam)
    text = f"Few-shot accuracy is highest at lam {best.lam:g}: {_few_shot_of(best.few_shot, average[at])}"
    if not _is_known(best.few_shot):
        return f"{text}, on the items that chose it, as a task with a single item or passage cannot be divided."
    gains = [
        _gain(gain, end)
        for end, gain in (("instruct", best.gain_over_instruct), ("base", best.gain_over_base))
        if gain is not None and best.lam != ENDS[end]
    ]
    return f"{', '.join([text, *gains])}, {_HELD_OUT}."


def exemplars_in_words(curves: Curves) -> str:
    """Say over how many draws of exemplars the few-shot accuracies are averaged, and what that leaves out."""
    numbers = sorted({task.n_seeds for task in curves.tasks})
    if numbers == [1]:
        return "one draw of exemplars; its effect is not in the intervals (--seeds N measures it)"
    several = [n for n in numbers if n > 1]
    text = f"{' to '.join(map(str, sorted({several[0], several[-1]})))} draws of exemplars"
    if numbers[0] == 1:
        n_one = sum(task.n_seeds == 1 for task in curves.tasks)
        return f"{text}, for {n_one} of {len(curves.tasks)} tasks one, whose effect is not in the intervals"
    return f"{text}, which the intervals include"


def intervals_in_words(curves: Curves, exemplars: str | None = None) -> str:
    """Say what the intervals allow for; `exemplars` replaces what is about the draw of exemplars."""
    clustered = any(task.clusters is not None for task in curves.tasks)
    units = "items (those of one passage or question together)" if clustered else "items"
    exemplars = exemplars_in_words(curves) if exemplars is None else exemplars
    return f"95%, over {units} with the tasks fixed; {exemplars}"


def conclusion(curves: Curves) -> str:
    """Return the trade-off in a few sentences.

    No lam is called best where `compare_lams` finds no difference. What the best one gains is measured on held-out
    items; it is a measurable difference where the interval is above 0.
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
    """Return every average with standard error and interval, one row per group and lam; numbers in [0, 1].

    The groups named `TASK: METRIC` are a task's other metrics and ways to extract answers.
    """
    few_shot, *others = averages(curves)
    groups = [(name, average(few_shot.measure, series)) for name, series in curves.groups()]
    groups += [(other.measure.group, other) for other in others]
    rows = [(group, found.estimates, found.bounds, found.n) for group, found in groups]
    unknown = [(math.nan, math.nan)] * len(curves.lams)
    rows += [
        (f"{t.name}: {metric}", estimates, unknown, t.n)
        for t in curves.tasks
        for metric, estimates in t.metrics.items()
    ]
    return [
        {"group": group, "lam": lam, "value": e.value, "stderr": e.stderr, "n": n, "low": low, "high": high}
        for group, estimates, bounds, n in rows
        for lam, e, (low, high) in zip(curves.lams, estimates, bounds, strict=True)
    ]
