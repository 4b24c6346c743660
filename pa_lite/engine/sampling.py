"""Sample a token from logits, with temperature, top-k, top-p and min-p. Pure numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pa_lite.ggml.kernels import FloatArray

IdArray = npt.NDArray[np.int64]


def candidates(logits: FloatArray, top_k: int, top_p: float, min_p: float) -> IdArray:
    """Return the ids (ascending, at least one) of the tokens to sample from, given float32 logits [n_vocab].

    As in llama.cpp's sampler chain, each rule filters what the previous one kept, before temperature: the `top_k` most
    likely tokens (0: all), the fewest most likely ones whose share reaches `top_p`, those with at least `min_p` times
    the highest probability.
    """
    ids = _top(logits, top_k) if top_k else None
    if top_p < 1:
        ids = _nucleus(logits, ids, top_p)
    if min_p > 0:
        floor = logits.max() + np.float32(np.log(min_p))
        ids = np.flatnonzero(logits >= floor) if ids is None else ids[logits[ids] >= floor]
    return np.arange(len(logits)) if ids is None else np.sort(ids)


def _top(logits: FloatArray, k: int) -> IdArray:
    """Return the k most likely ids, most likely first, the lower id first among equals."""
    if k >= len(logits):
        return np.argsort(-logits, kind="stable")
    least = np.partition(logits, -k)[-k]
    ids = np.flatnonzero(logits >= least)  # more than k only if several equal the k-th
    return ids[np.argsort(-logits[ids], kind="stable")][:k]


def _nucleus(logits: FloatArray, ids: IdArray | None, top_p: float) -> IdArray:
    """Return the fewest most likely of the ids (None: all) that together reach top_p of their probability."""
    terms = np.exp(logits - logits.max()) if ids is None else np.exp(logits[ids] - logits.max())
    goal = top_p * terms.sum(dtype=np.float64)
    if ids is None:
        least = 1e-3  # sorting all tokens is slow, and few have nearly all of the probability
        while True:
            ids = np.flatnonzero(terms >= least)
            if least == 0 or terms[ids].sum(dtype=np.float64) >= goal:
                break
            least = least * 1e-3 if least > 1e-30 else 0.0
        ids = ids[np.argsort(-terms[ids], kind="stable")]
        terms = terms[ids]
    n = int(np.searchsorted(np.cumsum(terms, dtype=np.float64), goal)) + 1
    return ids[:n]


def draw(logits: FloatArray, temperature: float, top_k: int, top_p: float, min_p: float, u: float) -> int:
    """Return the token that `u`, uniform in [0, 1), selects, with p ~ exp(logit / temperature) over the candidates.

    Tokens are ordered by id, not by rank, so two that swap ranks by a rounding error keep nearly the same range of u.
    """
    ids = candidates(logits, top_k, top_p, min_p)
    scaled = logits[ids].astype(np.float64) / temperature
    total = np.cumsum(np.exp(scaled - scaled.max()))
    return int(ids[min(int(np.searchsorted(total, u * total[-1], side="right")), len(ids) - 1)])
