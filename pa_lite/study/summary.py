"""Summary of a finished study: curves, readings in words, examples, setting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from pa_lite.errors import InputError
from pa_lite.study.comparisons import ENDS, Best, Difference, best_lam, differences
from pa_lite.study.curves import Curves, Series, average, averages
from pa_lite.study.goal import READINGS, Goal
from pa_lite.study.measures import AGREEMENT, FEW_SHOT, FOLLOWING
from pa_lite.study.ranking import ranked, refusal
from pa_lite.study.selection import Interval
from pa_lite.study.sentences import comparisons as comparisons  # exported with the readings
from pa_lite.study.sentences import conclusion as conclusion
from pa_lite.study.sentences import goal_in_words, of_best, undecided

# the names of readings about one measure alone -> their labels in tables and charts
_ALONE = {"few-shot only": "best few-shot", "text only": "fewest bits"}


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
        return _ALONE.get(self.name, self.name)


@dataclass(frozen=True, kw_only=True)
class BestLam:
    """The best lam for a goal.

    The truly best lam is the one named or among `ties`, with 95% confidence; `low` and `high` are the outermost of
    these. `few_shot` is the few-shot accuracy of the lam chosen, `gain_over_base` and `gain_over_instruct` the gain
    over lam 0 and 1 (None where that was not measured): each on items that had no part in the choice, with its
    interval. Without tasks, `few_shot` is NaN, `text` the bits per byte of text, and gains are bits per byte saved.
    Where `differs` is false, no lam is measurably better: `lam` only has the best value, and `sentence` says so.
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
    text: Interval | None = None

    def __str__(self) -> str:
        return self.sentence


def readings(curves: Curves) -> list[Reading]:
    """Return the readings that the measurements allow, the most useful first; none for a single lam."""
    return list(curves.once(_readings))


def _readings(curves: Curves) -> list[Reading]:
    if len(curves.lams) < 2 or not curves.skill:
        return []
    found, out = comparisons(curves), []
    for usual, goal in READINGS:
        if goal.needs_follow and curves.kept is None:
            continue
        if goal.keep_follow is not None and 1.0 not in curves.lams:
            continue
        name = _name(usual, curves)
        text, best = undecided(curves, goal, found), None
        if not text:
            best = best_lam(curves, goal)
            text = of_best(best, goal, curves)
        out.append(Reading(name=name, goal=goal, best=best, sentence=f"{name[0].upper()}{name[1:]}: {text}."))
    return out


def _name(usual: str, curves: Curves) -> str:
    """Return the name of a reading in a study that measured something without labels."""
    if curves.skill_measure is not FEW_SHOT:
        usual = usual.replace("few-shot", "text")
    return usual.replace("following", "agreement") if curves.compliance_measure is AGREEMENT else usual


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
    doubt = undecided(curves, goal, comparisons(curves))
    sentence = f"Best for {goal_in_words(goal, curves)}: {doubt or of_best(best, goal, curves)}."
    shared = {f.name: getattr(best, f.name) for f in fields(BestLam) if f.name not in ("differs", "sentence")}
    return BestLam(**shared, differs=not doubt, sentence=sentence)


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
    """Return group (few-shot, area, task, following, text, ...) -> end (base, instruct) -> other lams' differences."""
    return curves.once(_against_ends)


def _against_ends(curves: Curves) -> dict[str, dict[str, list[Difference]]]:
    groups: dict[str, tuple[Series, ...]] = dict(curves.groups())
    if (following := ranked(curves)) is not None and curves.compliance_measure is not AGREEMENT:
        groups[FOLLOWING.group] = (following,)
    groups |= {measure.group: (series,) for measure, series in curves.unlabelled() if series is not None}
    return {
        group: {end: differences(curves.lams, series, at) for end, at in ends(curves).items()}
        for group, series in groups.items()
    }


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
    parts = []
    if curves.tasks:
        clustered = any(task.clusters is not None for task in curves.tasks)
        units = "items (those of one passage or question together)" if clustered else "items"
        exemplars = exemplars_in_words(curves) if exemplars is None else exemplars
        parts.append(f"over {units} with the tasks fixed; {exemplars}")
    if curves.text is not None:
        whole = "documents" if curves.text.clusters is not None else "windows, with the documents fixed"
        parts.append(f"text over {whole}")
    if curves.agreement is not None:
        parts.append("instruct's answers over prompts")
    return f"95%, {'; '.join(parts)}"


def table(curves: Curves) -> list[Mapping[str, float | str]]:
    """Return every average with standard error and interval, one row per group and lam.

    Numbers are in [0, 1], those of text in bits per byte, those of instruct's answers in nats per token. The groups
    named `TASK: METRIC` are a task's other metrics and ways to extract answers.
    """
    groups = [(name, average(FEW_SHOT, series)) for name, series in curves.groups()]
    groups += [(each.measure.group, each) for each in averages(curves) if each.measure is not FEW_SHOT]
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
