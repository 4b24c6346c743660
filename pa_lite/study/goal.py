"""Goals for the best lam: few-shot accuracy alone, weighted with following, or with a share of following kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pa_lite.errors import InputError
from pa_lite.study.curves import LEVEL, Values
from pa_lite.study.selection import keep_margin


@dataclass(frozen=True)
class Goal:
    """What the best lam maximises.

    With `keep_follow`, few-shot accuracy among the lams that keep this share of instruct's following (lam 1) in `sure`
    of the resamplings of the prompts; None for `sure` takes the lams that keep it by the point estimate, which is
    too high half of the time. Without `keep_follow`, few-shot accuracy and following, each relative to its highest
    value, with `weight` in [0, 1] for following. The default is few-shot accuracy alone.
    """

    weight: float = 0.0
    keep_follow: float | None = None
    sure: float | None = LEVEL

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise InputError(
                f"weight {self.weight:g} is outside [0, 1]: 0 is few-shot accuracy alone, 1 following alone."
            )
        if self.keep_follow is not None and not 0 < self.keep_follow <= 1:
            raise InputError(f"keep-follow {self.keep_follow:g} is outside (0, 1]; 0.95 keeps 95% of following.")
        if self.sure is not None and not 0.5 <= self.sure < 1:
            raise InputError(f"sure {self.sure:g} is outside [0.5, 1); 0.95 keeps it in 95% of resamplings.")

    @property
    def needs_follow(self) -> bool:
        return self.weight > 0 or self.keep_follow is not None

    def told(self, skill: str = "few-shot accuracy", following: str = "following") -> str:
        """Return the goal in words; `skill` and `following` name what measures them."""
        if self.keep_follow is not None:
            text = f"{skill} with at least {100 * self.keep_follow:g}% of instruct's {following} kept"
            return text if self.sure is None else f"{text} in {100 * self.sure:g}% of resamplings"
        if self.weight:
            return f"{skill} and {following}, weighted {1 - self.weight:g} to {self.weight:g}"
        return f"{skill} alone"

    def margin(self, lams: Sequence[float], follow: Values, draws: Values) -> Values:
        """Return what to subtract from following, float64 [lams], so that the lams left keep the share in `sure`.

        `draws` [draws, lams] are resampled averages of following. 0 for a goal without this constraint.
        """
        if self.keep_follow is None or self.sure is None or 1 not in lams:
            return np.zeros(len(lams))
        return keep_margin(follow, draws, list(lams).index(1), self.keep_follow, self.sure)

    def utilities(self, lams: Sequence[float], few_shot: Values, follow: Values | None) -> Values:
        """Return each lam's utility: float64 [..., lams] from averages [..., lams]; comparable only within a row.

        `few_shot` are accuracies, or bits per byte of text with a minus sign. Relative to the highest value, these are
        the fewest bits over a lam's bits. With `keep_follow`, lams that break the constraint rank below all that keep
        it, closer ones higher. Raises InputError when following is required but was not measured, or lam 1 is required
        but missing.
        """
        if not self.needs_follow:
            return few_shot
        if follow is None:
            raise InputError("this goal requires instruction following: measure it with --follow.")
        if self.keep_follow is None:
            both: Values = _relative(few_shot, 1 - self.weight) + _relative(follow, self.weight)
            return both
        instruct = [i for i, lam in enumerate(lams) if lam == 1]
        if not instruct:
            raise InputError("keeping a share of instruct's following requires lam 1 among the lams.")
        shortfall = self.keep_follow * follow[..., instruct] - follow
        kept = few_shot if few_shot.max() >= 0 else _relative(few_shot)  # at least 0, as `kept_lams` expects
        out: Values = np.where(shortfall > 1e-12, -1 - shortfall, kept)
        return out


def _relative(values: Values, weight: float = 1.0) -> Values:
    """Return values [..., lams] over the highest of their row, times a weight; of negative ones, the highest over them.

    So bits per byte, given with a minus sign, become the fewest bits over each.
    """
    top = values.max(axis=-1, keepdims=True)
    out: Values = weight * top / values if (top < 0).all() else weight * values / np.maximum(top, 1e-9)
    return out


# the first is the one most users need
READINGS = (
    ("keep 95% of following", Goal(keep_follow=0.95)),
    ("few-shot only", Goal()),
    ("balanced", Goal(weight=0.5)),
)
