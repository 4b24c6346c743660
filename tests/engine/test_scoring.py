"""Shared-prefix scoring against its slow twin: each request decoded alone, full logits, float64 softmax."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pa_lite
from pa_lite.engine import context_memory
from pa_lite.engine.context_memory import ContextSize, needs
from pa_lite.engine.generation import GenerationOptions, generate
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.engine.model_reference import open_model
from pa_lite.engine.scoring import (
    Request,
    Score,
    Scorer,
    make_requests,
    noise_floor,
    rolling_requests,
    score_requests,
)
from pa_lite.errors import EngineError, InputError
from pa_lite.merging.plan import PlanOptions
from pa_lite.tasks.prompts import build_items
from pa_lite.tasks.spec import find_tasks
from tests.support import tiny
from tests.support.ggufs import spoil
from tests.support.reports import Reports

EXACT = EngineOptions(threads=1, flash_attention=False, cache_type="F32")


def alone(model: Model, request: Request) -> Score:
    """Score one request on a separate context, a token at a time, with whole rows of logits in float64."""
    total, n_greedy = 0.0, 0
    with model.context(len(request.tokens) + 1, cache_type="F32") as context:
        for i, token in enumerate(request.tokens[:-1]):
            context.decode([token], [i], [0], [0], [True])
            if i + 1 >= request.n_context:
                row = context.logits(0).astype(np.float64)
                target = request.tokens[i + 1]
                total += row[target] - row.max() - np.log(np.exp(row - row.max()).sum())
                n_greedy += int(row.argmax()) == target
    return Score(
        logprob=total, n_tokens=len(request.tokens) - request.n_context, n_bytes=request.n_bytes, n_greedy=n_greedy
    )


def assert_agree(got: Sequence[Score], expected: Sequence[Score], nats: float) -> None:
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=nats)
        assert (a.n_tokens, a.n_greedy, a.is_greedy) == (b.n_tokens, b.n_greedy, b.is_greedy)


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


def test_f32_scores_agree_with_the_slow_twin(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F32"], EXACT) as model:
        requests = text_requests(model)
        assert_agree(score_requests(model, requests), [alone(model, r) for r in requests], 1e-3)


def test_f16_scores_agree_with_the_slow_twin(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F16"], EngineOptions(threads=1)) as model:
        requests = text_requests(model)
        assert_agree(score_requests(model, requests), [alone(model, r) for r in requests], 0.01)


@pytest.mark.parametrize(("kind", "options", "nats"), [("F32", EXACT, 1e-3), ("F16", EngineOptions(threads=1), 0.01)])
@pytest.mark.parametrize("task", ["demo_town", "demo_lookup"])
def test_scores_of_the_demo_agree_with_the_slow_twin(kind: str, options: EngineOptions, nats: float, task: str) -> None:
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
    st.sampled_from([0, 70]),
)
@settings(max_examples=15, deadline=None)
def test_random_prefix_trees_agree_with_the_slow_twin(
    tiny_ggufs: dict[str, Path], drawn: list[tuple[list[int], int]], n_batch: int, n_seq_max: int, n_outputs: int
) -> None:
    """Requests from few tokens share prefixes in all ways (nested, equal, none), with batches of any size."""
    requests = [Request(tuple(tokens), min(n, len(tokens) - 1)) for tokens, n in drawn]
    options = EngineOptions(threads=1, flash_attention=False, cache_type="F32", n_batch=n_batch)
    with Model(tiny_ggufs["F32"], options) as model, model.context(256, n_seq_max, n_outputs=n_outputs) as context:
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
    seen = Reports()
    with Model(tiny_ggufs["F32"], EXACT) as model:
        score_requests(model, text_requests(model), seen)
    assert seen[-1] == ("score", len(TEXTS), len(TEXTS), "requests")


def test_the_boundary_of_context_and_continuation_follows_lm_eval(tiny_ggufs: dict[str, Path]) -> None:
    """Spaces at the end of the context belong to the continuation, and BOS is added once."""
    with Model(tiny_ggufs["F32"], EXACT) as model:
        (left,), (right,) = make_requests(model, "the man ", ["in"]), make_requests(model, "the man", [" in"])
        assert (left.tokens, left.n_context) == (right.tokens, right.n_context)
        assert (left.n_bytes, right.n_bytes) == (2, 3)
        assert left.tokens[: left.n_context] == tuple(model.tokenize("the man"))
        assert left.tokens.count(0) == 1
        assert make_requests(model, "", ["the"])[0].tokens == (0, *model.tokenize("the", add_special=False))
        with pytest.raises(InputError, match="continuation is empty"):
            make_requests(model, "the man", ["x", ""])


def test_several_few_shot_tasks_fit_a_small_context(tiny_ggufs: dict[str, Path]) -> None:
    """Tasks with different exemplars, interleaved; the cache has room for one path and seven tokens."""
    rng = np.random.default_rng(3)

    def text(n: int) -> tuple[int, ...]:
        return tuple(map(int, rng.integers(3, 270, n)))

    requests = []
    for trunk in (text(200), text(80), text(240), ()):
        for _ in range(4):
            question = trunk + text(8)
            requests += [Request(question + text(n), len(question)) for n in (1, 1, 2, 5)]
    longest = max(len(r.tokens) for r in requests)
    assert longest == 253
    with Model(tiny_ggufs["F32"], EXACT) as model, model.context(256, 9) as context:
        assert_agree(Scorer(context).score(requests), [alone(model, r) for r in requests], 1e-3)


def test_a_long_request_is_cut_at_the_left_and_marked(tiny_ggufs: dict[str, Path]) -> None:
    """As in lm-eval: the last 512 + 1 tokens are kept, and the last is not decoded."""
    rng = np.random.default_rng(4)
    tokens = tuple(map(int, rng.integers(3, 270, 600)))
    requests = [Request(tokens, 590, 7), Request(tokens[-513:], 503, 7), Request(tokens[:100], 90, 7)]
    with Model(tiny_ggufs["F32"], EXACT) as model:
        cut, same, short = score_requests(model, requests)
        assert (cut.truncated, same.truncated, short.truncated) == (True, False, False)
        assert (cut.n_tokens, cut.n_bytes) == (10, 7)
        assert cut.logprob == same.logprob
        assert_agree([same], [alone(model, requests[1])], 1e-3)
    with Model(tiny_ggufs["F32"], replace(EXACT, n_ctx=64)) as model:
        cut, same = score_requests(model, [requests[0], Request(tokens[-65:], 55)])
        assert cut.truncated
        assert not same.truncated
        assert cut.logprob == same.logprob


def windows_of(tokens: list[int], prefix: int, length: int) -> list[tuple[list[int], list[int]]]:
    """Return (given, predicted) of each window by lm-eval's description: inputs of `length` tokens, shifted by one."""
    out, done = [], 0
    while done < len(tokens):
        n = min(length, len(tokens) - done)
        end = done + n
        inputs = ([prefix, *tokens])[max(0, end - length) if done else 0 : end]
        out.append((inputs[: len(inputs) - (n - 1)], tokens[done:end]))
        done = end
    return out


@pytest.mark.parametrize("length", [1, 2, 7, 16, 100])
def test_rolling_windows_follow_lm_eval(tiny_ggufs: dict[str, Path], length: int) -> None:
    text = "the man in the hat and another größe on the thing"
    with Model(tiny_ggufs["F32"], EXACT) as model:
        tokens = model.tokenize(text, add_special=False)
        requests = rolling_requests(model, text, length)
        pairs = [(list(r.tokens[: r.n_context]), list(r.tokens[r.n_context :])) for r in requests]
        assert pairs == windows_of(tokens, 0, length)
        assert all(len(r.tokens) <= length + 1 for r in requests)
        assert sum(r.n_bytes for r in requests) == len(text.encode())
        assert rolling_requests(model, "") == []


def test_the_noise_floor_is_measured(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F16"], EngineOptions(threads=1)) as model:
        requests = text_requests(model)
        scores = score_requests(model, requests)
        floor = noise_floor(model, requests, scores, 4)
        assert floor.n == 4
        assert 0 <= floor.mean <= floor.largest < 0.01
        moved = [replace(s, logprob=s.logprob + (0.5 if i == 4 else 0)) for i, s in enumerate(scores)]
        assert noise_floor(model, requests, moved, 4).largest == pytest.approx(0.5, abs=0.01)
        assert noise_floor(model, requests, moved, 100).n == len(requests)
        assert noise_floor(model, [], []).n == 0


def test_a_context_shrinks_to_the_longest_request(
    tiny_ggufs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """llama.cpp refuses contexts with more than 300 cells."""
    request = Request(tuple([5] * 250), 240)
    with Model(tiny_ggufs["F32"], EXACT) as model:
        expected = score_requests(model, [request])
        make = model._new_context
        monkeypatch.setattr(model, "_new_context", lambda n_ctx, *more: make(n_ctx, *more) if n_ctx < 300 else None)
        with caplog.at_level(logging.WARNING):
            assert_agree(score_requests(model, [request]), expected, 1e-3)
        told = "enough for 281 tokens (cache F32, batches of 128), not 377 tokens (cache F32, batches of 128)"
        assert told in caplog.text
        assert [told in remark for remark in model.remarks] == [True]


def test_scoring_works_with_less_and_less_memory(tiny_ggufs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """As free memory shrinks, first the extra cells are dropped, then the cache becomes F16, then batches shrink."""
    asked: list[tuple[int, int, str]] = []
    original = Model._new_context

    def new_context(
        self: Model, n_ctx: int, n_seq_max: int, unified: bool, n_outputs: int, n_batch: int, kind: str, flash: bool
    ) -> object:
        asked.append((n_ctx, n_batch, kind))
        assert not flash
        return original(self, n_ctx, n_seq_max, unified, n_outputs, n_batch, kind, flash)

    monkeypatch.setattr(Model, "_new_context", new_context)
    with Model(tiny_ggufs["F32"], EngineOptions(threads=1)) as model:
        requests = text_requests(model)
        expected = score_requests(model, requests)
        longest = asked[0][0] - 128

        def wish(n_ctx: int, n_batch: int, kind: str) -> ContextSize:
            return ContextSize(
                n_ctx=n_ctx,
                n_seq_max=min(64, n_batch),
                unified=True,
                n_batch=n_batch,
                n_outputs=n_batch,
                cache_type=kind,
            )

        for n_ctx, n_batch, kind in (
            (longest + 128, 128, "F32"), (longest + 128, 128, "F16"), (longest + 64, 64, "F16"),
            (longest + 16, 16, "F16"),
        ):  # fmt: skip
            room_for = needs(model, wish(n_ctx, n_batch, kind)).new
            monkeypatch.setattr(context_memory, "available_memory", lambda n=room_for: int(n / 0.9) + 1)
            asked.clear()
            assert_agree(score_requests(model, requests), expected, 0.02)
            assert asked == [(n_ctx, n_batch, kind)]
        assert len(model.remarks) == 3
        monkeypatch.setattr(context_memory, "available_memory", lambda: 20_000)
        with pytest.raises(EngineError) as caught:
            score_requests(model, requests)
        least = needs(model, wish(longest, 16, "F16"))
        assert str(caught.value) == (
            f"{model.path}: no room for {longest} tokens (cache F16, batches of 16): it needs "
            f"{least.cache / 1e6:.1f} MB of cache and {least.batch / 1e6:.1f} MB for a batch, in addition to weights "
            f"of {least.weights / 1e6:.1f} MB; 0.0 MB are free. Allow a shorter context (--n-ctx), use fewer shots, or "
            "take a smaller model or type."
        )


def test_a_model_that_computes_nan_is_an_error(tiny_ggufs: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(tiny_ggufs["F32"].read_bytes())
    spoil(path)
    with Model(path, EXACT) as model, pytest.raises(EngineError, match="that are not finite"):
        score_requests(model, text_requests(model))
    for temperature in (0.0, 1.0):
        options = GenerationOptions(max_tokens=4, temperature=temperature)
        with Model(path, EXACT) as model, pytest.raises(EngineError, match="that are not finite"):
            generate(model, [[1, 2, 3]], options)


def test_ctrl_c_stops_a_decode(tmp_path: Path) -> None:
    """A model so slow that a batch takes more than a second is interrupted during the batch."""
    config = tiny.CONFIG | {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6}
    folder = tiny.write_checkpoint(tmp_path / "slow", tiny.weights(1, config), "F16", config=config)
    (path,) = pa_lite.merge(folder, folder, (1.0,), plan=PlanOptions(type="F32"), output=tmp_path / "slow.gguf")
    with Model(path, EXACT) as model:
        requests = [Request((0, *[i] * 400), 390) for i in range(3, 200)]
        sent: list[float] = []

        def interrupt() -> None:
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        timer = threading.Timer(0.7, interrupt)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            score_requests(model, requests)
        assert time.monotonic() - sent[0] < 1
        timer.join()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_invalid_requests_are_refused(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F32"], EXACT) as model:
        assert score_requests(model, []) == []
        with pytest.raises(EngineError, match="continuation of 600 tokens exceeds the context of 512"):
            score_requests(model, [Request(tuple([5] * 601), 1)])
        with model.context(256) as context, pytest.raises(EngineError, match="the context holds 256"):
            Scorer(context).score([Request(tuple([5] * 300), 1)])
        with pytest.raises(EngineError, match="no token before"):
            score_requests(model, [Request((5,), 0)])
        with pytest.raises(EngineError, match="has no token to predict"):
            score_requests(model, [Request((5, 6), 2)])
