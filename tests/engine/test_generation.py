"""Batched greedy generation against its slow twin: each prompt alone, decoded from the start for every token."""

from __future__ import annotations

from pathlib import Path

import pytest

from pa_lite.engine.generation import Generation, generate_greedy
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.errors import EngineError

EXACT = EngineOptions(threads=1, flash_attention=False, cache_type="F32")


def alone(model: Model, prompt: list[int], max_tokens: int) -> Generation:
    out: list[int] = []
    while len(out) < max_tokens:
        tokens = prompt + out
        with model.context(512) as context:
            context.decode(tokens, range(len(tokens)), [(0,)] * len(tokens), [False] * (len(tokens) - 1) + [True])
            token = int(context.logits(len(tokens) - 1).argmax())
        if model.is_end(token):
            return Generation(model.text(out), len(out), True)
        out.append(token)
    return Generation(model.text(out), len(out), False)


@pytest.mark.parametrize("parallel", [1, 3, 16])
@pytest.mark.parametrize("n_batch", [8, 512])
def test_agrees_with_the_twin(tiny_ggufs: dict[str, Path], parallel: int, n_batch: int) -> None:
    options = EngineOptions(threads=1, flash_attention=False, cache_type="F32", n_batch=n_batch)
    with Model(tiny_ggufs["F32"], options) as model:
        prompts = [model.tokenize(t) for t in ("a", "the man in the hat and another", "x" * 40, "on", "一二三", "the")]
        seen: list[tuple[int, int]] = []
        got = generate_greedy(model, prompts, 12, parallel, lambda done, total: seen.append((done, total)))
    with Model(tiny_ggufs["F32"], EXACT) as model:
        assert got == [alone(model, p, 12) for p in prompts]
    assert seen == [(i, 6) for i in range(1, 7)]


def test_ends_at_the_end_token(tiny_ggufs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever token comes third is declared an end: two tokens are left."""
    with Model(tiny_ggufs["F32"], EXACT) as model:
        prompt = model.tokenize("the man")
        out = alone(model, prompt, 3).text
        third = model.tokenize(out, add_special=False)[-1]
        monkeypatch.setattr(model, "is_end", lambda token: token == third)
        (got,) = generate_greedy(model, [prompt], 10)
        assert got.ended
        assert out.startswith(got.text)
        assert got.n_tokens < 3


def test_refusals(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F32"], EXACT) as model:
        assert generate_greedy(model, [], 5) == []
        with pytest.raises(EngineError, match="no tokens"):
            generate_greedy(model, [[]], 5)
        with pytest.raises(EngineError, match="exceed the 512"):
            generate_greedy(model, [[5] * 500], 20)
