"""Differences between lams on the same items: intervals, tests, corrections, and the best lam with its doubt.

Items are resampled or flipped within their tasks, whose choice is taken as given. Everything random is seeded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pa_lite.statistics import mean_over_tasks
from pa_lite.study.curves import Series, Values, means

DRAWS = 4000
_CHUNK_VALUES = 1 << 22  # random numbers at a time: memory does not grow with the items
LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """A lam's average minus a reference lam's, paired by item.

    `low` and `high` bound the bootstrap's central 95%; `p` is the two-sided sign-flip test's, `p_corrected` Holm's
    among all lams compared with that reference; `relative` is the difference over the reference's average.
    """

    lam: float
    value: float
    stderr: float
    low: float
    high: float
    p: float
    p_corrected: float
    relative: float


@dataclass(frozen=True)
class Best:
    """The lam with the highest average, and how sure that is.

    `low` and `high` bound the central 95% of the lams that win when items are resampled; `shares` says how often each
    lam wins (ties shared), in the lams' order; `ties` are the lams that the best cannot be told from: not different at
    the 5% level after Holm's correction.
    """

    lam: float
    low: float
    high: float
    shares: tuple[float, ...]
    ties: tuple[float, ...]


def _chunks(n: int, width: int) -> Iterator[int]:
    """Cut n draws into parts of at most _CHUNK_VALUES random numbers."""
    step = max(1, _CHUNK_VALUES // max(1, width))
    for start in range(0, n, step):
        yield min(step, n - start)


def bootstrap_means(series: Sequence[Series], draws: int = DRAWS, seed: int = 0) -> Values:
    """Macro averages of resampled items: float64 [draws, lams]; a draw takes the same items at every lam."""
    rng = np.random.default_rng(seed)
    total = np.zeros((draws, series[0].values.shape[0]))
    for s in series:
        done = 0
        for n in _chunks(draws, s.n):
            counts = rng.multinomial(s.n, np.full(s.n, 1 / s.n), size=n)
            total[done : done + n] += counts @ s.values.T / s.n
            done += n
    return total / len(series)


def sign_flip_p(per_task: Sequence[Values], draws: int = DRAWS, seed: int = 0) -> float:
    """Two-sided p of a macro average of paired differences (float64 [items] a task) being 0.

    Under the null hypothesis each item's difference has either sign alike. Monte Carlo; the observed draw counts as
    one, so that p is never 0. Source: Fisher's randomisation test; Phipson and Smyth 2010 for the counting.
    """
    weighted = np.concatenate([d / (len(d) * len(per_task)) for d in per_task])
    weighted = weighted[weighted != 0]  # an item without a difference has nothing to flip
    if not len(weighted):
        return 1.0
    observed = abs(weighted.sum())
    rng, extreme = np.random.default_rng(seed), 0
    for n in _chunks(draws, len(weighted)):
        signs = rng.integers(0, 2, size=(n, len(weighted)), dtype=np.int8) * 2 - 1
        extreme += int((np.abs(signs @ weighted) >= observed * (1 - 1e-12)).sum())
    return (extreme + 1) / (draws + 1)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p values that may be compared with one level all together."""
    out, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        out[i] = largest
    return out


def differences(lams: Sequence[float], series: Sequence[Series], reference: int, seed: int = 0) -> list[Difference]:
    """Every other lam against lams[reference], in the lams' order."""
    others = [i for i in range(len(lams)) if i != reference]
    gaps = {i: [s.values[i] - s.values[reference] for s in series] for i in others}
    ps = [sign_flip_p(gaps[i], seed=seed) for i in others]
    drawn = bootstrap_means(series, seed=seed)
    drawn = drawn - drawn[:, [reference]]
    scale = float(means(series)[reference])
    out = []
    for i, p, corrected in zip(others, ps, holm(ps), strict=True):
        gap = mean_over_tasks(gaps[i])
        low, high = np.quantile(drawn[:, i], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        relative = gap.value / scale if scale else float("nan")
        out.append(Difference(lams[i], gap.value, gap.stderr, float(low), float(high), p, corrected, relative))
    return out


def best_lam(lams: Sequence[float], series: Sequence[Series], seed: int = 0) -> Best:
    """The argmax of the macro average (the first of equals) and its uncertainty over items."""
    average = means(series)
    best = int(average.argmax())
    drawn = bootstrap_means(series, seed=seed)
    winners = drawn >= drawn.max(axis=1, keepdims=True) - 1e-12
    shares = (winners / winners.sum(axis=1, keepdims=True)).mean(axis=0)
    order = np.argsort(lams)
    reached = np.cumsum(shares[order])
    low = lams[order[int(np.searchsorted(reached, (1 - LEVEL) / 2))]]
    high = lams[order[min(len(lams) - 1, int(np.searchsorted(reached, (1 + LEVEL) / 2 - 1e-12)))]]
    against = differences(lams, series, best, seed)
    ties = tuple(d.lam for d in against if d.p_corrected > 1 - LEVEL)
    return Best(lams[best], float(low), float(high), tuple(map(float, shares)), ties)
