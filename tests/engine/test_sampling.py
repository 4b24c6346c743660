"""Candidates and probabilities are compared with llama.cpp's sampler chain."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pa_lite.engine.sampling import candidates, draw
from pa_lite.ggml.kernels import FloatArray


def logits_of(seed: int, n: int, spread: float) -> FloatArray:
    return np.random.default_rng(seed).normal(0, spread, n).astype(np.float32)


def llama_chain(logits: FloatArray, temperature: float, top_k: int, top_p: float, min_p: float) -> dict[int, float]:
    """Return token -> probability from llama.cpp's top-k, top-p, min-p, temperature and dist samplers."""
    import llama_cpp.llama_cpp as lib

    data = (lib.llama_token_data * len(logits))()
    for i, value in enumerate(logits.tolist()):
        data[i].id, data[i].logit, data[i].p = i, value, 0.0
    array = lib.llama_token_data_array(data, len(logits), -1, False)
    samplers: list[Any] = [
        *([lib.llama_sampler_init_top_k(top_k)] if top_k else []),
        lib.llama_sampler_init_top_p(top_p, 1),
        lib.llama_sampler_init_min_p(min_p, 1),
        lib.llama_sampler_init_temp(temperature),
        lib.llama_sampler_init_dist(1),
    ]
    for sampler in samplers:
        lib.llama_sampler_apply(sampler, ctypes.byref(array))
        lib.llama_sampler_free(sampler)
    return {array.data[i].id: array.data[i].p for i in range(array.size)}


@given(
    st.integers(0, 10_000),
    st.sampled_from([3, 50, 3000]),
    st.sampled_from([0.01, 1.0, 8.0]),
    st.sampled_from([0.2, 1.0, 3.0]),
    st.sampled_from([0, 1, 7, 40, 100_000]),
    st.sampled_from([1.0, 0.95, 0.5, 1e-6]),
    st.sampled_from([0.0, 0.05, 1.0]),
)
@settings(max_examples=150, deadline=None)
def test_candidates_agree_with_llama_cpps_sampler_chain(
    seed: int, n: int, spread: float, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = logits_of(seed, n, spread)
    expected = llama_chain(logits, temperature, top_k, top_p, min_p)
    ids = candidates(logits, top_k, top_p, min_p)
    assert (np.diff(ids) > 0).all()
    # the two add float32 probabilities in different orders, so the last token within top-p may differ
    apart = set(ids.tolist()) ^ set(expected)
    assert len(apart) <= (top_p < 1)
    scaled = logits[ids].astype(np.float64) / temperature
    ours = dict(zip(ids.tolist(), np.exp(scaled - scaled.max()) / np.exp(scaled - scaled.max()).sum(), strict=True))
    if not apart:
        assert [ours[i] for i in sorted(ours)] == pytest.approx([expected[i] for i in sorted(expected)], abs=1e-5)


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, -50.0]), min_size=1, max_size=30), st.integers(1, 40))
def test_equal_logits_are_ordered_by_id(values: list[float], k: int) -> None:
    logits = np.array(values, np.float32)
    twin = sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
    assert candidates(logits, k, 1.0, 0.0).tolist() == sorted(twin)


@pytest.mark.parametrize("rules", [(0, 1.0, 0.0), (5, 1.0, 0.0), (0, 0.9, 0.0), (0, 1.0, 0.1), (20, 0.9, 0.02)])
def test_samples_have_llama_cpps_distribution(rules: tuple[int, float, float]) -> None:
    logits = logits_of(7, 30, 2.0)
    expected = llama_chain(logits, 0.8, *rules)
    us = np.random.default_rng(1).random(20_000)
    counts = np.bincount([draw(logits, 0.8, *rules, float(u)) for u in us], minlength=30)
    for token in range(30):
        p = expected.get(token, 0.0)
        assert abs(counts[token] / len(us) - p) < 5 * np.sqrt(p * (1 - p) / len(us)) + 1e-9


def test_extreme_values_of_u_and_temperature() -> None:
    logits = np.array([1.0, -200.0, 3.0], np.float32)
    rules = (0, 1.0, 0.0)
    assert draw(logits, 1.0, *rules, 0.0) == 0
    assert draw(logits, 1.0, *rules, np.nextafter(1.0, 0.0)) == 2
    assert draw(logits, 1e-6, *rules, 0.5) == 2  # the lowest temperature: the most likely token, and no overflow
    hot = [draw(logits, 1e30, *rules, u) for u in (0.1, 0.5, 0.9)]
    assert hot == [0, 1, 2]
