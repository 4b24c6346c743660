"""What is known of each arm's average from the items evaluated so far, as a Gaussian posterior.

Arms have prefixes of the same items, so noise that they share cancels. Along lam neighbours inform each other, by as
much as the measured averages support. Sources: Anderson 1957 (averages where some arms lack the later items); Rasmussen
and Williams 2006, chapters 2 and 5 (Gaussian process regression, with its settings weighted by their likelihood).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pa_lite.study.curves import Values

# The Gaussian process has Matern's kernel 3/2, which follows both narrow peaks and broad ones. All settings count,
# weighted by their likelihood: a single best one would be too sure of itself.
_LENGTHS = (0.05, 0.1, 0.2, 0.4)  # in lam
_SPREADS = (0.02, 0.04, 0.08, 0.16, 0.32)  # standard deviations of the arms' averages
_LEVEL_VARIANCE = 0.25  # of the level that all arms share: nearly unknown
_UNKNOWN = 100.0  # the variance of a task's average before any item; an item's is 0.25 at most
_PRIOR_ITEMS = 5  # items that the average variance counts for in an arm's own
_PRIOR_PAIRS = 20  # items that the average correlation counts for in that of two arms
_LEAST_VARIANCE, _LEAST_EIGENVALUE = 0.01, 0.02  # few items may all be right by chance


@dataclass(frozen=True)
class Evaluated:
    """The values of a task's items, float64 [arms, items], of which each arm has the first `seen` [arms].

    An item that has no value (NaN) at an arm that has seen it does not count at any arm.
    """

    values: Values
    seen: npt.NDArray[np.int64]

    def counting(self) -> tuple[Values, npt.NDArray[np.int64]]:
        """Return the items that count, float64 [arms, items], and how many of them each arm has seen [arms]."""
        mask = np.arange(self.values.shape[1])[None, :] < self.seen[:, None]
        counts = ~(np.isnan(self.values) & mask).any(axis=0)
        return np.where(mask, self.values, 0.0)[:, counts], (mask & counts).sum(axis=1)


def measured_averages(tasks: Sequence[Evaluated]) -> Values:
    """Return the macro average of the items that each arm has seen: float64 [arms]; NaN for an arm without any."""
    averages = []
    for values, seen in (task.counting() for task in tasks):
        averages.append(np.where(seen > 0, values.sum(axis=1) / np.maximum(seen, 1), np.nan))
    out: Values = np.mean(averages, axis=0)
    return out


def posterior_draws(
    tasks: Sequence[Evaluated], lams: Sequence[float] | None, rng: np.random.Generator, draws: int
) -> Values:
    """Return probable macro averages, float64 [draws + 1, arms]; row 0 is their mean.

    With `lams`, the arms are points of one line, and their averages a Gaussian process; without, they are independent.
    """
    average, noise = _estimate(tasks)
    x = np.asarray(range(len(average)) if lams is None else lams, np.float64)
    distance = np.abs(x[:, None] - x[None, :])
    shapes = [np.eye(len(x))] if lams is None else [_matern(distance / length) for length in _LENGTHS]
    centre = float(average.mean())
    likelihoods, means, covariances = [], [], []
    for shape in shapes:
        for spread in _SPREADS:
            prior = spread**2 * shape + _LEVEL_VARIANCE
            whole, gap = prior + noise, average - centre
            gain = np.linalg.solve(whole, prior).T
            likelihoods.append(-0.5 * (gap @ np.linalg.solve(whole, gap) + np.linalg.slogdet(whole)[1]))
            means.append(centre + gain @ gap)
            covariances.append(prior - gain @ prior)
    weights = np.exp(np.array(likelihoods) - max(likelihoods))
    weights /= weights.sum()
    out = [np.array(weights @ np.array(means))[None, :]]
    for n, mean, covariance in zip(rng.multinomial(draws, weights), means, covariances, strict=True):
        values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
        factor = vectors * np.sqrt(np.maximum(values, 0.0))
        out.append(mean + rng.standard_normal((n, len(mean))) @ factor.T)
    return np.vstack(out)


def _matern(distance: Values) -> Values:
    scaled = np.sqrt(3.0) * distance
    out: Values = (1 + scaled) * np.exp(-scaled)
    return out


def _estimate(tasks: Sequence[Evaluated]) -> tuple[Values, Values]:
    """Return the arms' macro averages, float64 [arms], and the covariance of their errors [arms, arms].

    These are generalised least squares: items that all arms have count fully in their differences, and an arm's missing
    items are predicted from the other arms' values.
    """
    counting = [task.counting() for task in tasks]
    spread = _covariance(counting)
    n_arms = len(spread)
    average, noise = np.zeros(n_arms), np.zeros((n_arms, n_arms))
    for values, seen in counting:
        rough = values.sum() / max(1, seen.sum())
        precision = np.eye(n_arms) / _UNKNOWN
        weighted = np.full(n_arms, rough / _UNKNOWN)
        start = 0
        for end in np.unique(seen[seen > 0]):  # items start to end were seen by the same arms
            arms = np.flatnonzero(seen >= end)
            own = np.linalg.inv(spread[np.ix_(arms, arms)])
            precision[np.ix_(arms, arms)] += (end - start) * own
            weighted[arms] += own @ values[arms, start:end].sum(axis=1)
            start = end
        of_task = np.linalg.inv(precision)
        average += of_task @ weighted / len(tasks)
        noise += of_task / len(tasks) ** 2
    return average, noise


def _covariance(counting: Sequence[tuple[Values, npt.NDArray[np.int64]]]) -> Values:
    """Return the covariance of an item's values at the arms within tasks: float64 [arms, arms].

    Where few items were seen, variances are close to their average, and correlations to theirs.
    """
    n_arms = len(counting[0][1])
    products, counts = np.zeros((n_arms, n_arms)), np.zeros((n_arms, n_arms))
    for values, seen in counting:
        mask = (np.arange(values.shape[1])[None, :] < seen[:, None]).astype(np.float64)
        rest = (values - (values.sum(axis=1) / np.maximum(seen, 1))[:, None]) * mask
        products += rest @ rest.T
        counts += np.maximum(mask @ mask.T - 1, 0.0)
    raw = products / np.maximum(counts, 1.0)
    own, n_own = raw.diagonal(), counts.diagonal()
    usual = max(float(products.trace() / max(1.0, n_own.sum())), _LEAST_VARIANCE)
    deviations = np.sqrt((own * n_own + usual * _PRIOR_ITEMS) / (n_own + _PRIOR_ITEMS))
    varies = own > 1e-9
    known = varies[:, None] & varies[None, :] & ~np.eye(n_arms, dtype=bool)
    correlations = np.divide(raw, np.sqrt(np.outer(own, own)), out=np.zeros_like(raw), where=known)
    typical = float(np.clip(correlations[known].mean(), 0.0, 0.98)) if known.any() else 0.0
    trust = counts / (counts + _PRIOR_PAIRS)
    correlations = np.clip(trust * correlations.clip(-1, 1) + (1 - trust) * typical, -0.99, 0.99)
    np.fill_diagonal(correlations, 1.0)
    values, vectors = np.linalg.eigh(correlations)
    correlations = (vectors * np.maximum(values, _LEAST_EIGENVALUE)) @ vectors.T
    scale = deviations / np.sqrt(correlations.diagonal())
    out: Values = correlations * np.outer(scale, scale)
    return out
