"""The batches of a prefix tree, replayed on a fake cache: each token sees the same tokens as if decoded alone."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pa_lite.engine.prefix_tree import SPINE, Batch, BatchLimits, plan_batches
from pa_lite.engine.requests import Request

Asked = dict[int, list[tuple[tuple[int, ...], int]]]  # request -> (tokens seen, token predicted), in order


def replay(requests: list[Request], limits: BatchLimits) -> tuple[list[Batch], Asked]:
    """Run the batches on lists of tokens instead of a model, and check every rule of the plan."""
    sequences: dict[int, list[int]] = {SPINE: []}
    asked: Asked = {i: [] for i in range(len(requests))}
    batches = list(plan_batches(requests, limits))
    for batch in batches:
        n = len(batch.tokens)
        assert 0 < n <= limits.tokens
        assert len(batch.shared) <= limits.branches
        assert batch.wanted.sum() <= limits.rows
        assert len(sequences[SPINE]) + n <= limits.cells
        for branch, shared in enumerate(batch.shared, 1):
            assert shared <= len(sequences[SPINE])
            sequences[branch] = sequences[SPINE][:shared]
        started = {branch: len(tokens) for branch, tokens in sequences.items()}
        seen = []
        for token, position, first, last in zip(batch.tokens, batch.positions, batch.first, batch.last, strict=True):
            held = [sequences[s] for s in range(first, last + 1)]
            assert len({started[s] for s in range(first, last + 1)}) == 1  # llama.cpp's condition for sharing a token
            assert all(len(tokens) == position and tokens == held[0] for tokens in held)
            for tokens in held:
                tokens.append(int(token))
            seen.append(tuple(held[0]))
        for row, token, request in zip(batch.target_rows, batch.target_tokens, batch.target_requests, strict=True):
            assert batch.wanted[row]
            asked[int(request)].append((seen[row], int(token)))
        assert set(np.flatnonzero(batch.wanted)) == set(batch.target_rows)
        sequences = {SPINE: sequences[len(batch.shared)][: batch.keep]}
    return batches, asked


def prefixes(requests: list[Request]) -> set[tuple[int, ...]]:
    return {r.tokens[:n] for r in requests for n in range(1, len(r.tokens))}


def check(requests: list[Request], limits: BatchLimits) -> None:
    batches, asked = replay(requests, limits)
    for i, r in enumerate(requests):
        expected = [(r.tokens[:n], r.tokens[n]) for n in range(r.n_context, len(r.tokens))]
        assert sorted(asked[i], key=lambda pair: len(pair[0])) == expected
    assert sum(len(b.tokens) for b in batches) == len(prefixes(requests))  # every distinct prefix is decoded once
    done = [b.done for b in batches]
    assert done == sorted(done)
    assert not requests or done[-1] == len(requests)


REQUESTS = st.lists(
    st.tuples(st.lists(st.integers(0, 2), min_size=2, max_size=14), st.integers(1, 13)), max_size=30
).map(lambda drawn: [Request(tuple(tokens), min(n, len(tokens) - 1)) for tokens, n in drawn])


@given(REQUESTS, st.integers(1, 20), st.integers(1, 6), st.integers(1, 8), st.integers(0, 10))
@settings(max_examples=150, deadline=None)
def test_random_requests_and_limits_give_valid_batches(
    requests: list[Request], tokens: int, branches: int, rows: int, spare: int
) -> None:
    longest = max((len(r.tokens) - 1 for r in requests), default=1)
    check(requests, BatchLimits(tokens=tokens, branches=branches, rows=rows, cells=longest + spare))


@pytest.mark.parametrize("n_batch", [1, 7, 64, 512])
def test_few_shot_prompts_give_valid_full_batches(n_batch: int) -> None:
    """Three tasks with different exemplars; the order of the requests does not change the batches."""
    rng = random.Random(0)

    def text(n: int) -> tuple[int, ...]:
        return tuple(rng.randrange(1000) for _ in range(n))

    requests = []
    for _ in range(3):
        exemplars = text(60)
        for _ in range(5):
            question = exemplars + text(9)
            requests += [Request(question + text(rng.randint(1, 4)), len(question)) for _ in range(4)]
    limits = BatchLimits(tokens=n_batch, branches=127, rows=256, cells=100)
    check(requests, limits)
    shuffled = requests[:]
    rng.shuffle(shuffled)
    for a, b in zip(plan_batches(requests, limits), plan_batches(shuffled, limits), strict=True):
        assert (a.tokens == b.tokens).all()
        assert (a.last == b.last).all()
        assert a.shared == b.shared
    full = [
        len(b.tokens) for b in plan_batches(requests, BatchLimits(tokens=n_batch, branches=127, rows=256, cells=1000))
    ]
    assert set(full[:-1]) <= {n_batch}  # all batches except the last are full


def test_label_tokens_come_from_one_row() -> None:
    """Requests that differ only in their last token need one row of logits and no further decoding."""
    prompt = tuple(range(50))
    batches, _ = replay(
        [Request((*prompt, label), 50) for label in (60, 61, 62, 63)],
        BatchLimits(tokens=512, branches=127, rows=256, cells=600),
    )
    (batch,) = batches
    assert len(batch.tokens) == 50
    assert list(batch.target_rows) == [49] * 4
    assert sorted(batch.target_tokens) == [60, 61, 62, 63]
    assert batch.shared == (0,)


def test_no_requests_give_no_batches() -> None:
    assert list(plan_batches([], BatchLimits(tokens=1, branches=1, rows=1, cells=1))) == []
