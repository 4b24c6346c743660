"""What a tuning found, in sentences: for the terminal and the model card."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pa_lite.study.goal import Goal
from pa_lite.study.tune.choice import USUAL, Choice
from pa_lite.study.tune.run import HeldOut, Searched

_PAPER = "arXiv 2504.11626"


def findings(searched: Searched, held: HeldOut, goal: Goal) -> list[str]:
    """Return what was found, how sure it is, and what the written file does on items that had no part in it."""
    choice, curves = searched.choice, searched.study.curves
    is_text = not curves.tasks
    told = goal.told("the fewest bits per byte of text" if is_text else "few-shot accuracy")
    out = [f"For {told}: lam {choice.lam:g}, within 0.1 of the best with probability {choice.confidence:.2f}."]
    out.append(_equals(choice, searched))
    if choice.is_flat:
        unit = "bits per byte" if is_text else "points"
        gain = choice.gain if is_text else 100 * choice.gain
        out.append(
            f"The curve is flat there: its highest point, lam {choice.highest:g}, is only {gain:.2g} {unit} higher, so "
            f"lam {choice.lam:g} was taken, which is {'' if choice.lam == USUAL else 'nearer to '}{USUAL:g}, where the "
            f"best average of 18 models mostly was ({_PAPER})."
        )
    out.append(held_in_words(held))
    return out


def _equals(choice: Choice, searched: Searched) -> str:
    equals = [f"{lam:g}" for lam in choice.equals]
    measured = f"Measured: {', '.join(f'{lam:g}' for lam in searched.measured)}."
    if len(equals) == 1:
        return f"Every other lam that was measured is measurably worse. {measured}"
    rest = "; more items would distinguish them" if len(equals) == len(choice.window) else ""
    return f"Not measurably different from the best: {', '.join(equals)}{rest}. {measured}"


def held_in_words(held: HeldOut) -> str:
    """Return the final figure as a sentence."""
    scale, unit = (1, f" {held.unit}") if held.unit else (100, "%")
    digits = 3 if held.unit else 1
    value = f"{scale * held.value:.{digits}f}{unit}"
    between = ""
    if math.isfinite(held.low):
        between = f" (95% interval {scale * held.low:.{digits}f} to {scale * held.high:.{digits}f})"
    return f"The written file, on {held.n} items that had no part in the choice: {held.name} {value}{between}."


def card_section(sentences: Sequence[str]) -> str:
    """Return the section of a model card that says how the lam was chosen."""
    return "\n\n".join(["## How the lam was chosen", *sentences])
