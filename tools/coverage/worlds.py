"""Items with known truth: groups, passages, curves along lam, graded answers, instructions and judges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Rng = np.random.Generator
LAMS = tuple(i / 10 for i in range(11))
_NORMAL = NormalDist()


@dataclass(frozen=True)
class GroupedItems:
    """A sample of a task of equal groups: its values by group, of how many groups, and the task's true average."""

    groups: list[list[float]]
    n_groups: int
    truth: float


def grouped_items(rng: Rng, n_items: int, n_groups: int, mean: float, spread: float, stratified: bool) -> GroupedItems:
    """Draw right-or-wrong items from groups that differ in difficulty (deviation `spread`), from all or evenly."""
    scale = mean * (1 - mean) / spread**2 - 1
    rates = rng.beta(mean * scale, (1 - mean) * scale, n_groups)
    of = np.arange(n_items) % n_groups if stratified else rng.integers(0, n_groups, n_items)
    values = (rng.random(n_items) < rates[of]).astype(np.float64)
    return GroupedItems([values[of == g].tolist() for g in np.unique(of)], n_groups, float(rates.mean()))


def passage_items(rng: Rng, sizes: Sequence[int], mean: float, rho: float) -> tuple[Values, Integers]:
    """Draw right-or-wrong items [n] of passages with `sizes` questions, and each one's passage.

    Two questions of one passage have the latent correlation rho.
    """
    of = np.repeat(np.arange(len(sizes)), sizes)
    latent = math.sqrt(rho) * rng.standard_normal(len(sizes))[of] + math.sqrt(1 - rho) * rng.standard_normal(len(of))
    return (latent < _NORMAL.inv_cdf(mean)).astype(np.float64), of


def lam_items(
    rng: Rng,
    rates: Sequence[float],
    n: int,
    shared: float = 0.6,
    length: float = 0.15,
    of: Integers | None = None,
    rho: float = 0.5,
) -> Values:
    """Draw right-or-wrong items along lam: float64 [lams, n], right with exactly these rates at each lam.

    What decides an item is latent and normal: `shared` of its variance is the item's own, the rest turns smoothly along
    lam. With `of` [n], rho of all this is common to the items of a passage.
    """
    x = np.linspace(0, 1, len(rates))
    kernel = (1 - shared) * np.exp(-0.5 * ((x[:, None] - x[None, :]) / length) ** 2) + shared
    factor = np.linalg.cholesky(kernel + 1e-9 * np.eye(len(x)))

    def latent(many: int) -> Values:
        drawn: Values = factor @ rng.standard_normal((len(x), many))
        return drawn

    own = latent(n)
    if of is not None:
        own = math.sqrt(rho) * latent(int(of.max()) + 1)[:, of] + math.sqrt(1 - rho) * own
    limits = np.array([_NORMAL.inv_cdf(min(max(r, 1e-9), 1 - 1e-9)) for r in rates])
    return (own < limits[:, None]).astype(np.float64)


def flat(rate: float, n_lams: int = 11) -> list[float]:
    """Return equal rates."""
    return [rate] * n_lams


def peaked(top: float, height: float, at: float = 0.4, width: float = 0.25) -> list[float]:
    """Return rates with a peak at a lam, `height` above its foot."""
    return [top - height * (1 - math.exp(-0.5 * ((lam - at) / width) ** 2)) for lam in LAMS]


def following(kind: str) -> list[float]:
    """Return rates of instructions followed: rising to 0.8 at instruct from 0.2 (`linear`) or from 0.715 (`slow`)."""
    base = {"linear": 0.2, "slow": 0.715}[kind]
    return [base + (0.8 - base) * lam for lam in LAMS]


def skewed_gaps(rng: Rng, n: int, kind: str) -> Values:
    """Draw differences of F1 [n] whose mean is 0: a few answers are lost, many gain a little, or the reverse."""
    u = rng.random(n)
    if kind == "rare losses":
        return np.where(u < 0.1, -0.9, np.where(u < 0.7, 0.15, 0.0))
    return np.where(u < 0.05, 0.95, np.where(u < 0.525, -0.1, 0.0))


def graded(rng: Rng, gaps: Values) -> tuple[Values, Values]:
    """Return two rows of scores in [0, 1] with these differences, second less first."""
    low = np.maximum(0.0, -gaps)
    first = low + rng.random(len(gaps)) * (1 - np.abs(gaps))
    return first, first + gaps


def seeded_items(rng: Rng, n_seeds: int, n_items: int, mean: float, drawn: float, each: float) -> Values:
    """Draw items scored with several draws of exemplars: float64 [seeds, items].

    A draw moves every item's latent skill by a deviation of `drawn`, and each item by a further `each`; the rate is
    `mean` on average over items and draws.
    """
    latent = rng.standard_normal(n_items)[None, :] + drawn * rng.standard_normal(n_seeds)[:, None]
    latent = latent + each * rng.standard_normal((n_seeds, n_items))
    return (latent < _NORMAL.inv_cdf(mean) * math.sqrt(1 + drawn**2 + each**2)).astype(np.float64)


def seeded_lams(rng: Rng, n_seeds: int, n_items: int) -> Values:
    """Draw two equally good lams' items with several draws of exemplars, which move each lam: [seeds, 2, items]."""
    own, luck = rng.standard_normal(n_items), rng.standard_normal((n_seeds, 2, n_items))
    moved = 0.15 * rng.standard_normal((n_seeds, 2, 1))
    return (0.8 * own + moved + 0.6 * luck < 0.25).astype(np.float64)
