"""What the best lam shall be best for: few-shot skill alone, a weighted sum with following, or under a constraint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pa_lite.errors import InputError
from pa_lite.study.curves import Values


@dataclass(frozen=True)
class Goal:
    """`keep_follow`: the share of instruct's following (lam 1) that must remain; few-shot skill decides among the rest.

    Without it `weight` is that of following against few-shot skill, 0 to 1, each taken relative to its highest value on
    the line. 0, the default, looks at few-shot skill alone.
    """

    weight: float = 0.0
    keep_follow: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise InputError(f"weight {self.weight:g} is outside [0, 1]: 0 is few-shot skill alone, 1 following alone.")
        if self.keep_follow is not None and not 0 < self.keep_follow <= 1:
            raise InputError(f"keep-follow {self.keep_follow:g} is outside (0, 1]; 0.95 keeps 95% of following.")

    @property
    def needs_follow(self) -> bool:
        return self.weight > 0 or self.keep_follow is not None

    def told(self) -> str:
        """The goal in words."""
        if self.keep_follow is not None:
            return f"few-shot skill with at least {100 * self.keep_follow:g}% of instruct's following kept"
        if self.weight:
            return f"few-shot skill and following, weighted {1 - self.weight:g} to {self.weight:g}"
        return "few-shot skill alone"

    def utilities(self, lams: Sequence[float], few_shot: Values, follow: Values | None) -> Values:
        """How good each lam is: float64 [..., lams] from averages [..., lams]; comparable within one row only.

        Under a constraint the lams that break it lie below all that keep it, the nearer to it the higher. Raises
        InputError when following is needed but was not measured, or instruct (lam 1) is not among the lams.
        """
        if not self.needs_follow:
            return few_shot
        if follow is None:
            raise InputError("this goal needs instruction following to be measured (--follow).")
        if self.keep_follow is None:
            tops = [np.maximum(v.max(axis=-1, keepdims=True), 1e-9) for v in (few_shot, follow)]
            both: Values = (1 - self.weight) * few_shot / tops[0] + self.weight * follow / tops[1]
            return both
        instruct = [i for i, lam in enumerate(lams) if lam == 1]
        if not instruct:
            raise InputError("to keep a share of instruct's following, lam 1 must be among the lams.")
        shortfall = self.keep_follow * follow[..., instruct] - follow
        out: Values = np.where(shortfall > 1e-12, -1 - shortfall, few_shot)
        return out


# the first is the one that most users need
READINGS = (
    ("keep 95% of following", Goal(keep_follow=0.95)),
    ("few-shot only", Goal()),
    ("balanced", Goal(weight=0.5)),
)
