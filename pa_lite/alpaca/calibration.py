"""Check whether a judge can be trusted: compare it with known annotations and with answer length.

A judge that always says 50% gives a win rate with a tiny standard error. So win rates of a judge are worth something
only where it agrees with known annotations more often than the rule "the longer answer is better" does, which is known
to do well (Dubois et al. 2024, arXiv 2404.04475), and than always preferring the side that wins more often: agreement
is averaged over the two sides, as balanced accuracy is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from pa_lite.statistics import (
    FloatArray,
    Mean,
    Spread,
    calibrated_mean,
    spread_of_average,
    spread_of_mean,
    standard_error,
    t_quantile,
)  # fmt: skip

LEAST_PAIRS = 20  # with known preferences: fewer show nothing about a judge
NOT_COMPARED = "this judge was not compared with known preferences"
_LEAST_OF_SIDE = 2  # known preferences for a side: one has no standard error
_DECIDED = 0.05  # a preference closer to 0.5 than this does not count as a decision
_LEAST_DECIDED = 0.5  # share of pairs on which a judge must decide
_LEAST_MASS = 0.5
_LEAST_AGREEMENT = 0.6  # of the two orders of a pair


@dataclass(frozen=True, kw_only=True)
class JudgeCheck:
    """How a judge does on `n` pairs with known preferences, `n_model` of them for the model and `n_reference` not.

    `agreement` is the share of known preferences that the judge shares, in [0, 1], a draw counting half: the mean of
    the shares for either side, so that always preferring one side gives 0.5, whichever wins more often. `by_length` is
    that of the longer answer. `beats_length` and `beats_chance` say whether the judge is measurably better than that,
    and than 0.5 (one-sided, 5%); False for fewer than LEAST_PAIRS pairs. `win_rate` is the known one, adjusted by the
    judge's verdicts on all pairs; None where the known pairs are not among those of the win rate.
    """

    n: int
    n_model: int
    n_reference: int
    agreement: Mean
    by_length: Mean
    beats_length: bool
    beats_chance: bool
    win_rate: Mean | None = None

    @property
    def is_trusted(self) -> bool:
        """Whether the judge is measurably better than answer length, and than always preferring one side."""
        return self.beats_length and self.beats_chance

    def __str__(self) -> str:
        """Return the comparison in words, with shares in percent."""
        own, simple = map(_in_percent, (self.agreement, self.by_length))
        pairs = "1 pair" if self.n == 1 else f"{self.n} pairs"
        return (
            f"on {pairs} the judge agrees with known preferences in {own}, the longer answer in {simple}, either side "
            f"counted equally: {self.result}"
        )

    @property
    def result(self) -> str:
        """What the comparison shows, in words."""
        if self.n < LEAST_PAIRS:
            return f"fewer than {LEAST_PAIRS} pairs show nothing"
        if min(self.n_model, self.n_reference) < _LEAST_OF_SIDE:
            return "all known preferences, or all but one, are for the same side, which shows nothing"
        if not self.beats_chance:
            return "the judge is not measurably better than chance"
        if not self.beats_length:
            return "the judge is not measurably better than answer length"
        return "the judge is measurably better than chance and answer length"


def _in_percent(share: Mean) -> str:
    if math.isnan(share.value):
        return "an unknown share"
    error = f"{100 * share.stderr:.1f}" if math.isfinite(share.stderr) else "unknown"
    return f"{100 * share.value:.1f}% (s.e. {error})"


class Judged(Protocol):
    """A verdict on a pair; the fields are as in `Verdict`."""

    @property
    def preference(self) -> float | None: ...
    @property
    def reference_first(self) -> float | None: ...
    @property
    def model_first(self) -> float | None: ...
    @property
    def answer_mass(self) -> float | None: ...


_J = TypeVar("_J", bound=Judged)


def _agreement(preferences: Sequence[float], known: Sequence[float]) -> FloatArray:
    """Return 1 where the sides preferred are the same, 1/2 where either is a draw, else 0; preferences in [0, 1]."""
    signs = np.sign(np.asarray(preferences) - 0.5) * np.sign(np.asarray(known) - 0.5)
    out: FloatArray = (1 + signs) / 2
    return out


def check_judge(
    judged: Sequence[float],
    known: Sequence[float],
    longer: Sequence[float],
    all_judged: Sequence[float] | None,
    instructions: Sequence[int] | None = None,
) -> JudgeCheck:
    """Compare a judge with known preferences of the same pairs, all in [0, 1], 1 where the model's answer is better.

    `longer` is 1 where the model's answer is the longer one, 0.5 for equal lengths; `all_judged` are the judge's
    preferences on every pair of the win rate, None where these are other pairs. `instructions` numbers the instruction
    of each pair, if several pairs share one.
    """
    own, simple = _agreement(judged, known), _agreement(longer, known)
    sides = np.sign(np.asarray(known, np.float64) - 0.5)
    is_enough = len(known) >= LEAST_PAIRS
    agreement, by_length = (_balanced(values, sides, instructions) for values in (own, simple))
    return JudgeCheck(
        n=len(known),
        n_model=int((sides > 0).sum()),
        n_reference=int((sides < 0).sum()),
        agreement=Mean(agreement[0], agreement[1].stderr),
        by_length=Mean(by_length[0], by_length[1].stderr),
        beats_length=is_enough and _is_positive(*_balanced(own - simple, sides, instructions)),
        beats_chance=is_enough and _is_positive(*_balanced(own - 0.5, sides, instructions)),
        win_rate=None if all_judged is None else calibrated_mean(all_judged, judged, known),
    )


def _balanced(values: FloatArray, sides: FloatArray, instructions: Sequence[int] | None) -> tuple[float, Spread]:
    """Return the mean of the two sides' means, and its spread; known draws (side 0) show nothing.

    Values of one side only have a mean but no standard error. An instruction may be on both sides, which are then not
    independent: the spread is the larger of that of two independent means and that over instructions of what each pair
    contributes.
    """
    units = np.arange(len(values)) if instructions is None else np.asarray(instructions)
    parts = [(values[at], units[at]) for at in (sides > 0, sides < 0) if at.any()]
    value = float(np.mean([part.mean() for part, _ in parts])) if parts else math.nan
    if len(parts) < 2:
        return value, Spread(math.nan, math.nan, len(np.unique(units)))
    apart = spread_of_average([spread_of_mean(*part) for part in parts])
    shares = np.zeros(len(values))
    for at in (sides > 0, sides < 0):
        shares[at] = (values[at] - values[at].mean()) * len(values) / (2 * at.sum())
    joint = spread_of_mean(shares, units)
    if not (math.isfinite(apart.stderr) and math.isfinite(joint.stderr)):
        return value, Spread(math.nan, math.nan, joint.units)
    return value, Spread(max(apart.stderr, joint.stderr), min(apart.df, joint.df), joint.units)


def _is_positive(value: float, spread: Spread) -> bool:
    """Return whether a mean is measurably above 0 (one-sided, 5%)."""
    if not math.isfinite(spread.stderr):
        return False
    return value > 0 and value > t_quantile(0.95, spread.df) * spread.stderr


def asked(verdicts: Iterable[_J]) -> list[_J]:
    """Return the verdicts for which `judge` asked the model: equal answers tie, without a mass."""
    return [v for v in verdicts if v.answer_mass is not None or v.preference not in (None, 1.5)]


def shown_first(verdicts: Sequence[Judged]) -> Mean | None:
    """Return the mean probability of preferring the answer shown first, over verdicts and the orders asked."""
    out = []
    for v in verdicts:
        orders = [] if v.reference_first is None else [1 - v.reference_first]
        orders += [] if v.model_first is None else [v.model_first]
        if orders:
            out.append(sum(orders) / len(orders))
    return _mean(out)


def order_agreement(verdicts: Sequence[Judged]) -> Mean | None:
    """Return the share of pairs whose two orders prefer the same model, among those asked in both orders."""
    both = [(v.reference_first, v.model_first) for v in verdicts]
    return _mean([float(np.sign(r - 0.5) == np.sign(m - 0.5)) for r, m in both if r is not None and m is not None])


def mean_mass(verdicts: Sequence[Judged]) -> float | None:
    """Return the mean probability of the two letters, None where no verdict has it."""
    masses = [v.answer_mass for v in verdicts if v.answer_mass is not None]
    return float(np.mean(masses)) if masses else None


def _mean(values: Sequence[float]) -> Mean | None:
    return Mean(float(np.mean(values)), standard_error(values)) if values else None


def judge_signs(verdicts: Sequence[Judged]) -> tuple[str, ...]:
    """Return the warning signs of a judge's verdicts on different answers: equal ones tie for any judge.

    Verdicts of others lack orders and mass; then only the preferences are checked. No verdict, no sign.
    """
    preferences = [v.preference - 1 for v in verdicts if v.preference is not None]
    if not preferences:
        return ()
    return tuple(warning_signs(preferences, shown_first(verdicts), order_agreement(verdicts), mean_mass(verdicts)))


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
