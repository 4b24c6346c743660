"""Cases about win rates: their intervals, useless judges, and judges with known annotations.

The method "reported" is what `winrate --calibration` shows, "naive" a win rate that trusts the judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from pa_lite.alpaca.annotations import Annotations, Judgement
from pa_lite.alpaca.known import Known, key_of
from pa_lite.alpaca.win_rate import win_rate
from pa_lite.statistics import t_quantile
from tools.coverage.table import Case, Check, Numbers, Rng, bias, coverage, covers, error
from tools.coverage.worlds import Values

_Z = t_quantile(0.975, 1e9)


def _pairs(rng: Rng, n: int, judge: str) -> tuple[Values, Values, Values]:
    """Return n pairs' known preferences, 0 or 1 with 30% wins, a judge's in [0, 1], and the differences of lengths."""
    quality = rng.standard_normal(n) - 0.5244005
    known = (quality > 0).astype(np.float64)
    length = 0.3 * quality + rng.standard_normal(n)
    seen = {
        "good": 1.5 * quality + 0.8 * rng.standard_normal(n) + 0.6,
        "useless": 0.005 * rng.standard_normal(n),
        "decided without knowledge": 3 * rng.standard_normal(n),
        "of length": 2 * length,
        "for the reference": -1 + 0.5 * rng.standard_normal(n),
    }[judge]
    return known, 1 / (1 + np.exp(-seen)), length


def _annotations(preferences: Values, length: Values) -> Annotations:
    judgements = [
        Judgement(
            instruction=f"i{i}", output_1="x" * 200, output_2="y" * max(1, round(200 + 60 * gap)), preference=1 + p
        )
        for i, (p, gap) in enumerate(zip(preferences.tolist(), length.tolist(), strict=True))
    ]
    return Annotations(model="model", reference="reference", annotator="judge", judgements=tuple(judgements))


def _rate(rng: Rng, n: int, judge: str, n_known: int) -> Mapping[str, Numbers]:
    """Compare the win rate with the known one, trust in the judge, and the win rate calibrated by known preferences."""
    preferred, preferences, length = _pairs(rng, n, judge)
    annotations = _annotations(preferences, length)
    keys = [key_of(judgement) for judgement in annotations.judgements]
    longer = (1 + np.sign(length)) / 2
    values = dict(zip(keys, zip(preferred.tolist(), longer.tolist(), strict=True), strict=True))
    known = Known(source="known", values={key: values[key] for key in keys[:n_known]})
    found = win_rate(annotations, known=known)
    check = found.judge_check
    assert check is not None
    assert check.win_rate is not None
    rate, spread = found.win_rate / 100, found.standard_error / 100
    reach = t_quantile(0.975, n_known - 1) * check.win_rate.stderr
    steadied = check.win_rate.value - reach, check.win_rate.value + reach
    return {
        "interval of the known win rate": {
            "naive": covers((rate - _Z * spread, rate + _Z * spread), 0.3),
            "reported": covers(steadied, 0.3),
        },
        "win rate": {"naive": rate - 0.3, "reported": check.win_rate.value - 0.3},
        "trusted": {"naive": 1.0, "reported": float(check.is_trusted)},
        "no warning": {"naive": 1.0, "reported": float(not found.judge_signs)},
    }


def _own_mean(rng: Rng, n: int) -> Mapping[str, Numbers]:
    """Check the win rate's standard error for the mean of the judge's preferences over all instructions."""
    quality = rng.standard_normal(n)
    found = win_rate(_annotations(1 / (1 + np.exp(-2 * quality)), np.zeros(n)))
    rate, reach = found.win_rate, _Z * found.standard_error
    plain, wide = found.discrete_win_rate, _Z * found.discrete_standard_error
    return {
        "weighted win rate": {"reported": covers((rate - reach, rate + reach), 50.0)},
        "discrete win rate": {"reported": covers((plain - wide, plain + wide), 50.0)},
    }


def cases() -> list[Case]:
    """Return the cases about judges."""
    own = coverage("weighted win rate"), coverage("discrete win rate")
    out = [Case(name=f"win rate of {n} pairs", checks=own, runs=200, once=partial(_own_mean, n=n)) for n in (100, 400)]
    for judge in ("good", "useless", "decided without knowledge", "of length", "for the reference"):
        trusted = Check(name="trusted", quantity="share", low=80, high=100) if judge == "good" else error("trusted")
        warned = (Check(name="no warning", quantity="share", low=0 if judge == "useless" else 50,
                        high=5 if judge == "useless" else 100),)  # fmt: skip
        checks = (coverage("interval of the known win rate"), bias("win rate"), trusted, *warned)
        once = partial(_rate, n=300, judge=judge, n_known=100)
        out.append(Case(name=f"judge ({judge}), 300 pairs, 100 known", checks=checks, runs=200, once=once))
    return out
