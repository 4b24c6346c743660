"""Check whether a judge can be trusted: compare it with known annotations and with answer length.

A judge that always says 50% gives a win rate with a tiny standard error. So win rates of a judge are worth something
only where it agrees with known annotations more often than the rule "the longer answer is better" does, which is known
to do well (Dubois et al. 2024, arXiv 2404.04475).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pa_lite.statistics import Mean, Spread, calibrated_mean, spread_of_mean, t_quantile

_DECIDED = 0.05  # a preference closer to 0.5 than this does not count as a decision
_LEAST_DECIDED = 0.5  # share of pairs on which a judge must decide
_LEAST_MASS = 0.5
_LEAST_AGREEMENT = 0.6  # of the two orders of a pair


@dataclass(frozen=True, kw_only=True)
class JudgeCheck:
    """How a judge does on `n` pairs with known preferences: shares in [0, 1], a draw of either counting half.

    `agreement` is the judge's, `by_length` that of the longer answer; `beats_length` whether the judge is measurably
    better (one-sided, 5%). `win_rate` is the known one, steadied by the judge's verdicts on all pairs.
    """

    n: int
    agreement: Mean
    by_length: Mean
    beats_length: bool
    win_rate: Mean


def _agreement(preferences: Sequence[float], known: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return 1 where the sides preferred are the same, 1/2 where either is a draw, else 0; preferences in [0, 1]."""
    signs = np.sign(np.asarray(preferences) - 0.5) * np.sign(np.asarray(known) - 0.5)
    out: np.ndarray[tuple[int], np.dtype[np.float64]] = (1 + signs) / 2
    return out


def check_judge(
    judged: Sequence[float], known: Sequence[float], longer: Sequence[float], all_judged: Sequence[float]
) -> JudgeCheck:
    """Compare a judge with known preferences of the same pairs, all in [0, 1], 1 where the model's answer is better.

    `longer` is 1 where the model's answer is the longer one, 0.5 for equal lengths; `all_judged` are the judge's
    preferences on every pair of the win rate.
    """
    own, simple = _agreement(judged, known), _agreement(longer, known)
    lead: Spread = spread_of_mean(own - simple)
    ahead = float((own - simple).mean())
    beats = lead.units > 1 and ahead > 0 and ahead > t_quantile(0.95, lead.df) * lead.stderr
    return JudgeCheck(
        n=len(known),
        agreement=Mean(float(own.mean()), spread_of_mean(own).stderr),
        by_length=Mean(float(simple.mean()), spread_of_mean(simple).stderr),
        beats_length=beats,
        win_rate=calibrated_mean(all_judged, judged, known),
    )


def warning_signs(
    preferences: Sequence[float], first_shown: Mean | None, agreement: Mean | None, answer_mass: float | None
) -> list[str]:
    """Return in plain words what speaks against a judge that nothing known was compared with; empty if nothing does.

    `preferences` in [0, 1]; the others as `Bias` has them.
    """
    out = []
    decided = float(np.mean(np.abs(np.asarray(preferences) - 0.5) > _DECIDED)) if len(preferences) else 0.0
    if decided < _LEAST_DECIDED:
        out.append(f"the judge prefers neither answer in {100 * (1 - decided):.0f}% of pairs")
    if answer_mass is not None and answer_mass < _LEAST_MASS:
        out.append(
            f"the judge would write something else than a letter ({100 * (1 - answer_mass):.0f}% of probability)"
        )
    if agreement is not None and agreement.value < _LEAST_AGREEMENT:
        out.append(f"the judge prefers the same answer in both orders for {100 * agreement.value:.0f}% of pairs only")
    if first_shown is not None and abs(first_shown.value - 0.5) > 0.2:
        out.append(f"the judge gives the answer shown first {100 * first_shown.value:.0f}% of the probability")
    return out
