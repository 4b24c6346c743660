"""Bootstrap averages of a study: units, and draws of exemplars, are resampled within their tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pa_lite.statistics import Spread, bootstrap_means, chunks_of, t_quantile
from pa_lite.study.curves import DRAWS, LEVEL, Curves, Series, Values


def _resample(n: int, draws: int, rng: np.random.Generator) -> Values:
    """Return how often each of n units is drawn, float64 [draws, n], when n are drawn with replacement."""
    drawn = rng.integers(0, n, (draws, n)) + n * np.arange(draws)[:, None]
    return np.bincount(drawn.ravel(), minlength=draws * n).reshape(draws, n).astype(np.float64)


def unit_draws(series: Sequence[Series], draws: int = DRAWS, seed: int = 0) -> Values:
    """Return macro averages of resampled units: float64 [draws, lams]; a draw takes the same units at every lam.

    Where a task has several draws of exemplars, the deviations of these are resampled and added: one fewer than there
    are, so that the variance is right (Rao and Wu 1988). Averages that are not shares rest on few units of uneven size,
    such as documents, so their deviations are as much wider as Student's distribution is.
    """
    rng = np.random.default_rng(seed)
    total = np.zeros((draws, len(series[0].values)))
    for each in series:
        sums, sizes = each.units()
        before = None if each.is_share else total.copy()
        if each.clusters is None and each.weights is None and 4 * len(np.unique(sums, axis=1).T) < len(sizes):
            total += bootstrap_means(sums, rng, draws)
        else:
            for part in chunks_of(draws, len(sizes)):
                counts = _resample(len(sizes), part.stop - part.start, rng)
                total[part] += (counts @ sums.T) / (counts @ sizes)[:, None]
        if before is not None:
            total = before + _widened(total - before, each.row(0).spread())
        if each.by_seed is not None and each.n_seeds > 1:
            n = each.n_seeds
            shares = rng.multinomial(n - 1, np.full(n, 1 / n), size=draws) / (n - 1)
            total += (shares - 1 / n) @ each.by_seed.mean(axis=2)
    return total / len(series)


def _widened(drawn: Values, spread: Spread) -> Values:
    """Return resampled averages [draws, lams] with the deviations that Student's interval of them has."""
    if spread.units < 2:
        return drawn
    excess = t_quantile((1 + LEVEL) / 2, spread.df) / t_quantile((1 + LEVEL) / 2, math.inf)
    centre = drawn.mean(axis=0)
    wider: Values = centre + (drawn - centre) * excess * math.sqrt(spread.units / (spread.units - 1))
    return wider


def skill_draws(curves: Curves) -> Values:
    """Return resampled averages of `skill`: float64 [draws, lams]. Use it with `Curves.once`."""
    return unit_draws(curves.skill)


def kept_draws(curves: Curves) -> Values:
    """Return resampled values of `kept`, float64 [draws, lams]. Use it with `Curves.once`."""
    assert curves.kept is not None
    return unit_draws([curves.kept], seed=1)
