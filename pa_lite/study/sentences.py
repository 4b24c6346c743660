"""Sentences about a study: what is best, by how much and how surely, and where there is no measurable difference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pa_lite.study.comparisons import (
    ENDS,
    Best,
    Comparison,
    best_lam,
    chosen_lam,
    compare_lams,
    items_in_words,
    kept_lams,
)
from pa_lite.study.curves import Curves, means
from pa_lite.study.goal import Goal
from pa_lite.study.measures import AGREEMENT, FEW_SHOT, FOLLOWING, TEXT, Measure
from pa_lite.study.ranking import ranked, refusal
from pa_lite.study.selection import Interval


def _lams(lams: Sequence[float]) -> str:
    return ", ".join(f"{lam:g}" for lam in lams)


def _is_known(found: Interval) -> bool:
    return all(map(math.isfinite, (found.value, found.low, found.high)))


def _value_of(found: Interval, plain: float, measure: Measure = FEW_SHOT) -> str:
    """Return a value with its interval; the plain value where it cannot be measured on held-out items."""
    if not _is_known(found):
        return f"{measure.told(plain)} (interval unknown)"
    return f"{measure.told(found.value)} (95% interval {measure.told(found.low)} to {measure.told(found.high)})"


def _gain(found: Interval, end: str, measure: Measure = FEW_SHOT) -> str:
    """Return a gain over an end of the line in words; gains in bits are bits saved."""
    if not _is_known(found):
        return f"an unknown gain over {end}"
    scale, digits, more, less, up, down = 100, 1, "points above", "points below", "above", "below"
    if not measure.is_share:
        scale, digits, more, less, up, down = 1, 3, "fewer than", "more than", "fewer", "more"
    value, low, high = (scale * each for each in (found.value, found.low, found.high))
    doubt = "; no measurable difference" if low <= 0 <= high else ""
    if round(value, digits) >= 0:
        return f"{value:.{digits}f} {more} {end} ({low:.{digits}f} to {high:.{digits}f}{doubt})"
    span = f"{-high:.{digits}f} to {-low:.{digits}f}"
    if high > 0:
        span = f"{-low:.{digits}f} {down} to {high:.{digits}f} {up}"
    return f"{-value:.{digits}f} {less} {end} ({span}{doubt})"


_HELD_OUT = "that did not choose it"


def _units(measure: Measure) -> str:
    """Return what a measure is averaged over."""
    return {FEW_SHOT: "items", TEXT: "windows"}.get(measure, "prompts")


def goal_in_words(goal: Goal, curves: Curves) -> str:
    """Return a goal in words, with the measures that the study has for it."""
    return goal.told(*measures_in_words(not curves.tasks, curves.compliance_measure is AGREEMENT))


def measures_in_words(has_text: bool, has_agreement: bool) -> tuple[str, str]:
    """Return what a goal is about in words: its few-shot side, and its following."""
    skill = "fewest bits per byte of text" if has_text else "few-shot accuracy"
    return skill, "agreement beyond base's" if has_agreement else "following"


def stand_ins(has_text: bool, has_agreement: bool) -> str:
    """Say what stands in for what was not measured; "" where nothing does."""
    parts = ["bits per byte of text for few-shot accuracy"] if has_text else []
    parts += ["agreement with instruct for instructions followed"] if has_agreement else []
    return f"stand-ins without labels: {', '.join(parts)}" if parts else ""


def of_best(best: Best, goal: Goal, curves: Curves) -> str:
    """Say what a lam is worth that is the best for a goal."""
    at, measure = curves.lams.index(best.lam), curves.skill_measure
    among = sorted((best.lam, *best.ties))
    text = f"lam {best.lam:g} (the best lam is among {_lams(among)})" if best.ties else f"lam {best.lam:g}"
    found, plain = _skill_at(best, curves)
    text += f", {'few-shot' if measure is FEW_SHOT else measure.label} {_value_of(found, plain, measure)}"
    if _is_known(found) and len(kept_lams(curves, goal)) > 1:
        text += f" on {_units(measure)} {_HELD_OUT}"
    if curves.compliance is not None:
        text += f", {curves.compliance_measure.label} {100 * means([curves.compliance])[at]:.1f}%"
    return text + _price(best, goal, curves)


def _skill_at(best: Best, curves: Curves) -> tuple[Interval, float]:
    """Return the value at a best lam as measured on held-out items, and as measured on all."""
    plain = float(abs(means(curves.skill)[curves.lams.index(best.lam)]))
    return best.few_shot if best.text is None else best.text, plain


def _price(best: Best, goal: Goal, curves: Curves) -> str:
    """Say what it costs to keep a share of following surely, and whether only instruct does."""
    if goal.keep_follow is None or goal.sure is None:
        return ""
    text = ""
    if best.lam == 1 and len(kept_lams(curves, goal)) == 1:
        text = f"; no other lam keeps it in {100 * goal.sure:g}% of resamplings"
        following = comparisons(curves)[_group(curves)]
        if not following.differs:
            word = curves.compliance_measure.label
            text += f" (no measurable difference in {word}; {items_in_words(following.needed, 'prompts')})"
    chosen, by_point = curves.lams.index(best.lam), chosen_lam(curves, replace(goal, sure=None))
    if by_point != chosen:
        few_shot = means(curves.skill)
        price, what = float(few_shot[by_point] - few_shot[chosen]), "bits per byte"
        if curves.skill_measure.is_share:
            price, what = 100 * price, "few-shot points"
        shown = f"{price:.1f}" if curves.skill_measure.is_share else f"{price:.3f}"
        text += f"; this costs {shown} {what} against keeping it by the point estimate (lam "
        text += f"{curves.lams[by_point]:g})"
    return text


def _no_difference(what: str, found: Comparison, measure: Measure = FEW_SHOT, between: str = "the lams") -> str:
    """Say that there is no measurable difference, and how many items would show one of 2 points."""
    unit, values = _units(measure), f"{measure.told(found.low)} to {measure.told(found.high)}"
    if found.low == found.high:
        values = f"{measure.told(found.low)} at each"
    return f"no measurable difference between {between} in {what} ({values}, {found.items} {unit}); " + items_in_words(
        found.needed, unit, measure
    )


def _group(curves: Curves) -> str:
    """Return the name of the comparison of following."""
    return AGREEMENT.group if curves.compliance_measure is AGREEMENT else FOLLOWING.group


def comparisons(curves: Curves) -> dict[str, Comparison]:
    """Compare the lams in few-shot accuracy and, where measured, in following; in what was measured without labels."""
    return curves.once(_comparisons)


def _comparisons(curves: Curves) -> dict[str, Comparison]:
    compared = {FEW_SHOT.group: compare_lams(curves.lams, curves.tasks)} if curves.tasks else {}
    if (following := ranked(curves)) is not None:
        compared[_group(curves)] = compare_lams(curves.lams, (following,))
    for measure, series in curves.unlabelled():
        if series is not None and measure.group not in compared:
            compared[measure.group] = compare_lams(curves.lams, (series,), measure=measure)
    return compared


def undecided(curves: Curves, goal: Goal, found: Mapping[str, Comparison]) -> str:
    """Say why no lam is the best for a goal; return "" where one is.

    A best lam requires a measurable difference: in few-shot accuracy; for a weighted goal in few-shot accuracy or
    following; for a kept share in following, and among several lams that keep it in few-shot accuracy.
    """
    measure = curves.skill_measure
    skill, what = found[measure.group], "few-shot accuracy" if measure is FEW_SHOT else measure.label
    if not goal.needs_follow:
        return "" if skill.differs else _no_difference(what, skill, measure)
    if refused := refusal(curves):
        return refused
    assert curves.compliance is not None
    word, kept_in = curves.compliance_measure.label, found[_group(curves)]
    if goal.keep_follow is None:
        flat = not (skill.differs or kept_in.differs)
        return f"no measurable difference between the lams in {what} or {word}" if flat else ""
    kept = kept_lams(curves, goal)
    if not kept_in.differs and (goal.sure is None or len(kept) == len(curves.lams)):
        no = "agreement" if curves.compliance_measure is AGREEMENT else "following"
        return f"{_no_difference(word, kept_in, curves.compliance_measure)}. So {no} excludes no lam"
    if len(kept) == 1:
        return ""
    lams = tuple(curves.lams[i] for i in kept)
    series = curves.tasks if curves.tasks else tuple(filter(None, [curves.text]))
    among = compare_lams(lams, [each.at(kept) for each in series], measure=measure)
    if among.differs:
        return ""
    return f"kept by lam {_lams(sorted(lams))}, with {_no_difference(what, among, measure, between='them')}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _skill_conclusion(curves: Curves, found: Comparison) -> str:
    measure, average = curves.skill_measure, abs(means(curves.skill))
    what, extreme = ("few-shot accuracy", "is highest") if measure is FEW_SHOT else (measure.label, "are lowest")
    if len(curves.lams) == 1:
        at_lam = f"{measure.told(average[0])} at lam {curves.lams[0]:g}"
        return _sentence(f"{what}: {at_lam}; with a single lam there is nothing to compare")
    if not found.differs:
        return _sentence(_no_difference(what, found, measure))
    best = best_lam(curves)
    value, plain = _skill_at(best, curves)
    text = _sentence(f"{what} {extreme} at lam {best.lam:g}: {_value_of(value, plain, measure)}")[:-1]
    if not _is_known(value):
        single = "a task with a single item or passage" if measure is FEW_SHOT else "a text of a single window"
        return f"{text}, on the {_units(measure)} that chose it, as {single} cannot be divided."
    gains = [
        _gain(gain, end, measure)
        for end, gain in (("instruct", best.gain_over_instruct), ("base", best.gain_over_base))
        if gain is not None and best.lam != ENDS[end]
    ]
    return f"{', '.join([text, *gains])}, on {_units(measure)} {_HELD_OUT}."


def conclusion(curves: Curves) -> str:
    """Return the trade-off in a few sentences.

    No lam is called best where `compare_lams` finds no difference. What the best one gains is measured on held-out
    items; it is a measurable difference where the interval is above 0.
    """
    found = comparisons(curves)
    parts = [_skill_conclusion(curves, found[curves.skill_measure.group])] if curves.skill else []
    if curves.tasks and curves.text is not None:
        parts.append(_course(curves, TEXT, found[TEXT.group]))
    if curves.compliance is not None:
        parts.append(_compliance_conclusion(curves, found))
    if curves.agreement is not None and curves.compliance_measure is not AGREEMENT:
        parts.append(_course(curves, AGREEMENT, found[AGREEMENT.group]))
    has_agreement = curves.compliance is not None and curves.compliance_measure is AGREEMENT
    if words := stand_ins(bool(curves.skill) and not curves.tasks, has_agreement):
        parts.append(_sentence(words))
    return " ".join(parts)


def _compliance_conclusion(curves: Curves, found: Mapping[str, Comparison]) -> str:
    if refused := refusal(curves):
        return _sentence(refused)
    measure, compared = curves.compliance_measure, found[_group(curves)]
    assert curves.compliance is not None
    if not compared.differs and len(curves.lams) > 1:
        return _sentence(_no_difference(measure.label, compared, measure))
    shown = {0, len(curves.lams) - 1}
    if curves.skill and found[curves.skill_measure.group].differs:
        shown.add(int(means(curves.skill).argmax()))
    values = means([curves.compliance])
    at_lams = (f"{100 * values[i]:.0f}% at lam {curves.lams[i]:g}" for i in sorted(shown, key=lambda i: curves.lams[i]))
    return _sentence(f"{measure.label}: {', '.join(at_lams)}")


def _course(curves: Curves, measure: Measure, compared: Comparison) -> str:
    """Describe a curve that ranks no lam: its values at the ends, and where it is best."""
    series = curves.text if measure is TEXT else curves.agreement
    assert series is not None
    if not compared.differs and len(curves.lams) > 1:
        return _sentence(_no_difference(measure.label, compared, measure))
    values = means([series])
    best = int(values.argmax() if measure.is_share else values.argmin())
    shown = sorted({0, len(curves.lams) - 1, best}, key=lambda i: curves.lams[i])
    at_lams = (f"{measure.told(values[i])} at lam {curves.lams[i]:g}" for i in shown)
    return _sentence(f"{measure.label}: {', '.join(at_lams)}")
