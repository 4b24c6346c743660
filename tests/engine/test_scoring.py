"""Shared-prefix scoring against its slow twin: each request decoded alone, full logits, float64 softmax."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pa_lite.engine.model import EngineOptions, Model
from pa_lite.engine.reference import open_model
from pa_lite.engine.scoring import Request, Score, Scorer, make_requests, score_requests
from pa_lite.errors import EngineError, InputError
from pa_lite.tasks.prompts import build_items
from pa_lite.tasks.spec import find_tasks

EXACT = EngineOptions(threads=1, flash_attention=False, cache_type="F32")


def alone(model: Model, request: Request) -> Score:
    """One request on a context of its own, a token at a time, the whole row of logits in float64."""
    total, greedy = 0.0, True
    with model.context(len(request.tokens) + 1) as context:
        for i, token in enumerate(request.tokens[:-1]):
            context.decode([token], [i], [(0,)], [True])
            if i + 1 >= request.n_context:
                row = context.logits(0).astype(np.float64)
                target = request.tokens[i + 1]
                total += row[target] - row.max() - np.log(np.exp(row - row.max()).sum())
                greedy = greedy and int(row.argmax()) == target
    return Score(total, len(request.tokens) - request.n_context, request.n_bytes, greedy)


def assert_agree(got: Sequence[Score], expected: Sequence[Score], nats: float) -> None:
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=nats)
        assert (a.n_tokens, a.is_greedy) == (b.n_tokens, b.is_greedy)


TEXTS = [
    ("the man in the", " house"),
    ("the man in the", " hat"),
    ("the man in the", " hat on"),
    ("the man in the hat", " on"),
    ("", "the"),
    ("another", " thing"),
    ("the man in the ", "hat"),
    ("the man in the", " house"),
    ("größe 日本", " …"),
]


def text_requests(model: Model) -> list[Request]:
    exemplars = "one -> two\n" * 10
    return [make_requests(model, (exemplars + c if c else c), [k])[0] for c, k in TEXTS]


def test_f32_agrees_with_the_twin(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F32"], EXACT) as model:
        requests = text_requests(model)
        assert_agree(score_requests(model, requests), [alone(model, r) for r in requests], 1e-3)


def test_f16_agrees_with_the_twin(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F16"], EngineOptions(threads=1)) as model:
        requests = text_requests(model)
        assert_agree(score_requests(model, requests), [alone(model, r) for r in requests], 0.01)


@pytest.mark.parametrize(("kind", "options", "nats"), [("F32", EXACT, 1e-3), ("F16", EngineOptions(threads=1), 0.01)])
@pytest.mark.parametrize("task", ["demo_town", "demo_lookup"])
def test_the_demos_prompts_agree_with_the_twin(kind: str, options: EngineOptions, nats: float, task: str) -> None:
    items = build_items(find_tasks([task])[0], limit=24)
    with open_model("demo@0.5", options, kind) as model:
        requests = [r for item in items for r in make_requests(model, item.prompt, item.continuations)]
        some = slice(None, None, 7)
        assert_agree(score_requests(model, requests)[some], [alone(model, r) for r in requests[some]], nats)


@given(
    st.lists(
        st.tuples(st.lists(st.integers(3, 8), min_size=2, max_size=30), st.integers(1, 29)), min_size=1, max_size=40
    ),
    st.sampled_from([3, 20, 70]),
    st.sampled_from([2, 5, 65]),
)
@settings(max_examples=15, deadline=None)
def test_any_tree_packs_right(
    tiny_ggufs: dict[str, Path], drawn: list[tuple[list[int], int]], n_batch: int, n_seq_max: int
) -> None:
    """Requests over few tokens share prefixes in every way: one within another, equal, none; batches of any size."""
    requests = [Request(tuple(tokens), min(n, len(tokens) - 1)) for tokens, n in drawn]
    options = EngineOptions(threads=1, flash_attention=False, cache_type="F32", n_batch=n_batch)
    with Model(tiny_ggufs["F32"], options) as model, model.context(256, n_seq_max) as context:
        got = Scorer(context).score(requests)
        assert_agree(got, [alone(model, r) for r in requests], 1e-3)


def test_results_do_not_depend_on_order_or_history(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F32"], EXACT) as model, model.context(512, 65) as context:
        requests, scorer = text_requests(model), Scorer(context)
        first = scorer.score(requests)
        again = scorer.score(requests[::-1])[::-1]
        assert first == again
        assert scorer.score([]) == []


def test_progress_counts_requests(tiny_ggufs: dict[str, Path]) -> None:
    seen: list[tuple[int, int]] = []
    with Model(tiny_ggufs["F32"], EXACT) as model:
        score_requests(model, text_requests(model), lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(TEXTS), len(TEXTS))


def test_the_border_follows_lm_eval(tiny_ggufs: dict[str, Path]) -> None:
    """Blanks at the context's end belong to the continuation, and both give one request; BOS comes once."""
    with Model(tiny_ggufs["F32"], EXACT) as model:
        (left,), (right,) = make_requests(model, "the man ", ["in"]), make_requests(model, "the man", [" in"])
        assert (left.tokens, left.n_context) == (right.tokens, right.n_context)
        assert (left.n_bytes, right.n_bytes) == (2, 3)
        assert left.tokens[: left.n_context] == tuple(model.tokenize("the man"))
        assert left.tokens.count(0) == 1
        assert make_requests(model, "", ["the"])[0].tokens == (0, *model.tokenize("the", add_special=False))
        with pytest.raises(InputError, match="continuation is empty"):
            make_requests(model, "the man", ["x", ""])


def test_refusals(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F32"], EXACT) as model:
        assert score_requests(model, []) == []
        with pytest.raises(EngineError, match="continuation of 600 tokens exceeds the context of 512"):
            score_requests(model, [Request(tuple([5] * 601), 1)])
        with model.context(256) as context, pytest.raises(EngineError, match="the context holds 256"):
            Scorer(context).score([Request(tuple([5] * 300), 1)])
        with pytest.raises(EngineError, match="no token before"):
            score_requests(model, [Request((5,), 0)])
        with pytest.raises(EngineError, match="has none to predict"):
            score_requests(model, [Request((5, 6), 2)])
