"""Cases about text: intervals of bits per byte, differences between lams, and the lam of the fewest bits.

Passages have uneven lengths, longer ones are harder, and those of a document resemble each other, also in what lam does
to them. Averages are ratios of two sums, so that the truth is one too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from pa_lite.statistics import interval
from pa_lite.study.comparisons import best_lam, compare_lams, differences
from pa_lite.study.curves import Curves, Series, average, means
from pa_lite.study.measures import TEXT
from tools.coverage import textbook
from tools.coverage.table import Case, Check, Numbers, Rng, bias, coverage, covers, error
from tools.coverage.worlds import LAMS, Values

_HARD, _LONG = 0.25, 0.5  # bits per byte, and log bytes, for a standard deviation of difficulty
_OF_DOCUMENT = 0.5  # share of the variance of difficulty that a document's passages have in common
_MOVES = 0.02  # bits per byte by which a document's, and a passage's, course along lam differs from the average
_LAST = len(LAMS) - 1
_SIZES = (("8 documents of 12 windows", 8, 12), ("40 documents of 3 windows", 40, 3), ("60 windows", 60, 1))


def bits(rng: Rng, levels: Sequence[float], n_documents: int, each: int) -> Series:
    """Draw passages along lam: their truth is `levels`, float64 [lams], weighted by bytes."""
    n, x = n_documents * each, np.linspace(0, 1, len(levels))
    of = np.repeat(np.arange(n_documents), each)

    def shared(own: Values, documents: Values) -> Values:
        mixed: Values = np.sqrt(_OF_DOCUMENT) * documents[..., of] + np.sqrt(1 - _OF_DOCUMENT) * own
        return mixed if each > 1 else own

    hard = shared(rng.standard_normal(n), rng.standard_normal(n_documents))
    slopes = shared(rng.standard_normal((2, n)), rng.standard_normal((2, n_documents)))
    courses = x[:, None] * slopes[0] + np.sin(np.pi * x)[:, None] * slopes[1]
    values = np.array(levels)[:, None] + _HARD * (hard - _LONG) + _MOVES * courses
    weights = tuple(np.exp(7 + _LONG * hard).tolist())  # E[w z] / E[w] is _LONG for w = exp(_LONG z)
    clusters = tuple(of.tolist()) if each > 1 else None
    return Series(name="text", area="", values=values, weights=weights, clusters=clusters, is_share=False)


def _levels(depth: float) -> list[float]:
    """Return bits per byte with a minimum at lam 0.4, by `depth` below lam 1."""
    return [1.0 + depth * (lam - 0.4) ** 2 / 0.36 for lam in LAMS]


def _two(rng: Rng, n_documents: int, each: int) -> Mapping[str, Numbers]:
    """Return whether intervals cover, and the test errs, for two lams that are equal in truth."""
    series = bits(rng, [1.0, 1.0], n_documents, each)
    shown = average(TEXT, [series])
    (found,) = differences((0.0, 1.0), [series], 0)
    drawn = textbook.draws([series.values])  # as if windows were independent, and counted the same
    return {
        "interval": {"naive": covers(interval(drawn[:, 0]), 1.0), "reported": covers(shown.bounds[0], 1.0)},
        "difference": {
            "naive": covers(interval(drawn[:, 1] - drawn[:, 0]), 0.0), "reported": covers((found.low, found.high), 0.0)
        },
        "test": {"reported": float(found.p < 0.05)},
    }  # fmt: skip


def _study(rng: Rng, depth: float, n_documents: int, each: int) -> Mapping[str, Numbers]:
    """Compute everything about the lam of the fewest bits, its equals, and whether lams differ."""
    levels = _levels(depth)
    curves = Curves(lams=LAMS, tasks=(), text=bits(rng, levels, n_documents, each))
    assert curves.text is not None
    found, plain = best_lam(curves), means([curves.text])
    best, gain, value = LAMS.index(found.lam), found.gain_over_instruct, found.text
    assert gain is not None
    assert value is not None
    saved = levels[_LAST] - levels[best]
    top = {i for i, level in enumerate(levels) if level <= min(levels) + 1e-9}
    named = {LAMS.index(lam) for lam in (found.lam, *found.ties)}
    return {
        "gain at the best lam": {"naive": float(plain[_LAST] - plain[best]) - saved, "reported": gain.value - saved},
        "interval of the gain": {"reported": covers((gain.low, gain.high), saved)},
        "interval of the bits": {"reported": covers((value.low, value.high), levels[best])},
        "all the best lams named": {"reported": float(top <= named)},
        "share named as equals": {"reported": len(found.ties) / _LAST},
        "a difference found": {"reported": float(compare_lams(LAMS, [curves.text], measure=TEXT).differs)},
    }


def cases() -> list[Case]:
    """Return the cases about text."""
    equals = Check(name="share named as equals", quantity="share", low=0, high=100)
    of_two = (coverage("interval", 99.0), coverage("difference", 99.0), error("test"))
    of_best = (
        bias("gain at the best lam"), coverage("interval of the gain", 100.0), coverage("interval of the bits", 100.0),
        coverage("all the best lams named", 100.0), equals,
    )  # fmt: skip
    out = []
    for told, n_documents, each in _SIZES:
        once = partial(_two, n_documents=n_documents, each=each)
        out.append(Case(name=f"text, {told}", checks=of_two, runs=600, once=once))
        for word, depth in (("flat", 0.0), ("a minimum of 0.1 bits", 0.1), ("a minimum of 0.02 bits", 0.02)):
            more = (error("a difference found"),) if not depth else ()
            once = partial(_study, depth=depth, n_documents=n_documents, each=each)
            out.append(Case(name=f"text, {word}, {told}", checks=(*of_best, *more), runs=200, once=once))
    return out
