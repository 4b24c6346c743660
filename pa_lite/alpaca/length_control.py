"""Length-controlled win rates: the win rate if both models' answers were equally long. Uses only numpy.

A logistic regression predicts the preference from the difference in length and from the model; the win rate is its
prediction at zero difference. Source: Dubois et al. 2024, arXiv 2404.04475; the estimator is that of alpaca_eval's
`get_length_controlled_winrate`: L1-penalised, without intercept, the penalty chosen from ten by cross-validation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

FOLDS = 5
PENALTIES = np.logspace(-4, 4, 10)  # inverse strengths: weight of the loss relative to the L1 norm
GAMED_WEIGHT = 0.2 / 2  # of each row of the two gamed baselines, where the model's own rows have 1
_STEPS = 100


@dataclass(frozen=True)
class GamedBaselines:
    """AlpacaEval's annotations of two baselines that game length; they stabilise the fit. float64 [n_rows] each.

    `preference` in [0, 1], `delta` the standardised difference in length, `difficulty` of the instruction.
    """

    preference: FloatArray
    delta: FloatArray
    difficulty: FloatArray


@dataclass(frozen=True, kw_only=True)
class LengthControlled:
    """A length-controlled win rate in percent.

    `stderr` is alpaca_eval's: the spread of the predictions over the instructions, 0 in the minimal form. `fit_stderr`
    comes from the uncertainty of the coefficients (sandwich estimate). `weights` are the coefficients in nats: model,
    length, and in the full form the instruction's difficulty.
    """

    value: float
    stderr: float
    fit_stderr: float
    weights: dict[str, float]


def standardised_delta(lengths_1: Sequence[int], lengths_2: Sequence[int]) -> FloatArray:
    """Return length 1 minus length 2 over its sample standard deviation; zeros when all differences are equal."""
    delta = np.asarray(lengths_1, np.float64) - np.asarray(lengths_2, np.float64)
    deviation = float(np.std(delta, ddof=1)) if len(delta) > 1 else 0.0
    return delta / deviation if deviation > 0 else np.zeros_like(delta)


def length_controlled(
    preference: FloatArray,
    delta: FloatArray,
    difficulty: FloatArray | None = None,
    gamed: GamedBaselines | None = None,
) -> LengthControlled | None:
    """Return the length-controlled win rate, or None with fewer than FOLDS preferences to fit.

    `preference` float64 [n]: 1 where model 2 certainly wins, NaN where missing (such rows are predicted, not fitted).
    `delta` from `standardised_delta`. With `difficulty` [n] and `gamed` this is alpaca_eval's `length_controlled_v1`,
    with neither it is `length_controlled_minimal`.
    """
    names = ("model", "length") if difficulty is None else ("model", "length", "difficulty")
    given = ~np.isnan(preference)
    if int(given.sum()) < FOLDS:
        return None
    features = _features(np.ones_like(delta), delta, difficulty)
    level = _features(np.ones_like(delta), np.zeros_like(delta), difficulty)
    target, weight = preference[given], np.ones(int(given.sum()))
    features = features[given]
    if gamed is not None:
        # the model term of the baselines is 0: only length and difficulty explain their preferences
        baselines = _features(np.zeros_like(gamed.delta), gamed.delta, gamed.difficulty)
        known = ~np.isnan(gamed.preference)
        features = np.concatenate([baselines[known], features])
        target = np.concatenate([gamed.preference[known], target])
        weight = np.concatenate([np.full(int(known.sum()), GAMED_WEIGHT), weight])
    penalty = _choose_penalty(features, target, weight)
    coefficients = fit_l1_logistic(features, target, weight, penalty)
    predicted = _sigmoid(level @ coefficients)
    slope = (predicted * (1 - predicted)) @ level / len(level)
    spread = float(np.std(predicted, ddof=1)) / math.sqrt(len(predicted)) if difficulty is not None else 0.0
    return LengthControlled(
        value=100 * float(predicted.mean()),
        stderr=100 * spread,
        fit_stderr=100 * _fit_error(features, target, weight, coefficients, slope),
        weights=dict(zip(names, coefficients.tolist(), strict=True)),
    )


def fit_l1_logistic(features: FloatArray, target: FloatArray, weight: FloatArray, penalty: float) -> FloatArray:
    """Minimise |w|_1 + penalty * sum_i weight_i * crossentropy(target_i, sigmoid(features_i w)); float64 [n_features].

    Targets are probabilities. Each proximal Newton step minimises the L1 norm plus a quadratic model of the loss by
    coordinate descent, and is halved until the objective falls enough (Lee, Sun, Saunders 2014).
    """
    w = np.zeros(features.shape[1])
    value = _objective(features, target, weight, penalty, w)
    for _ in range(_STEPS):
        p = _sigmoid(features @ w)
        gradient = penalty * features.T @ (weight * (p - target))
        curvature = penalty * (features.T * (weight * p * (1 - p))) @ features
        step = _newton_step(w, gradient, curvature)
        decrease = float(gradient @ step + np.abs(w + step).sum() - np.abs(w).sum())
        if decrease > -1e-12 * max(1.0, abs(value)):
            break
        length, found = 1.0, _objective(features, target, weight, penalty, w + step)
        while found > value + 1e-4 * length * decrease and length > 1e-10:
            length /= 2
            found = _objective(features, target, weight, penalty, w + length * step)
        w, value = w + length * step, found
    return w


def _newton_step(w: FloatArray, gradient: FloatArray, curvature: FloatArray) -> FloatArray:
    """Minimise gradient.d + d.curvature.d / 2 + |w + d|_1 over d, one coordinate at a time."""
    d = np.zeros_like(w)
    for _ in range(1000):
        moved = 0.0
        for j in range(len(w)):
            h = curvature[j, j] + 1e-12  # a feature that is 0 everywhere has no curvature
            goal = w[j] + d[j] - (gradient[j] + curvature[j] @ d) / h
            new = math.copysign(max(abs(goal) - 1 / h, 0.0), goal) - w[j]
            moved = max(moved, abs(new - d[j]))
            d[j] = new
        if moved < 1e-12:
            break
    return d


def _choose_penalty(features: FloatArray, target: FloatArray, weight: FloatArray) -> float:
    """Return the value of PENALTIES with the lowest mean loss on held-out rows; the first if several are equal."""
    n = len(target)
    fold = (n - 1 - np.arange(n)) % FOLDS  # as scikit-learn's GroupKFold distributes groups of equal size
    loss = np.zeros(len(PENALTIES))
    for k in range(FOLDS):
        fit, left_out = fold != k, fold == k
        for i, penalty in enumerate(PENALTIES):
            w = fit_l1_logistic(features[fit], target[fit], weight[fit], float(penalty))
            p = np.clip(_sigmoid(features[left_out] @ w), 1e-15, 1 - 1e-15)
            t = target[left_out]
            loss[i] -= float(np.mean(weight[left_out] * (t * np.log(p) + (1 - t) * np.log(1 - p))))
    return float(PENALTIES[int(np.argmin(loss))])


def _fit_error(features: FloatArray, target: FloatArray, weight: FloatArray, w: FloatArray, slope: FloatArray) -> float:
    """Return the standard error of a quantity with this gradient in the coefficients (sandwich, White 1982).

    The penalty is ignored: a coefficient that it keeps at 0 is uncertain too.
    """
    p = _sigmoid(features @ w)
    bread = np.linalg.pinv((features.T * (weight * p * (1 - p))) @ features)
    influence = weight * (target - p) * (features @ (bread @ slope))  # [n_rows]
    return math.sqrt(float(influence @ influence))


def _features(model: FloatArray, delta: FloatArray, difficulty: FloatArray | None) -> FloatArray:
    columns = [model, np.tanh(delta)] + ([] if difficulty is None else [difficulty])
    return np.stack(columns, axis=1)


def _objective(features: FloatArray, target: FloatArray, weight: FloatArray, penalty: float, w: FloatArray) -> float:
    z = features @ w
    return float(np.abs(w).sum() + penalty * (weight @ (np.logaddexp(0, z) - target * z)))


def _sigmoid(z: FloatArray) -> FloatArray:
    return np.exp(-np.logaddexp(0, -z))
