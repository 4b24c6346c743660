"""Which tokens a prompt shares with a sequence, and recurrent models, whose state serves only as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pa_lite.engine.answers import GenerationRequest
from pa_lite.engine.context import Context
from pa_lite.engine.generation_options import GenerationOptions
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.engine.scheduler import Scheduler, SchedulerOptions
from pa_lite.engine.sequences import common
from tests.support.answers_alone import Alone


@given(st.lists(st.integers(0, 1), max_size=6), st.integers(0, 90), st.integers(1, 90), st.lists(st.integers(0, 1)))
def test_the_common_prefix_is_found(head: list[int], repeats: int, n: int, tail: list[int]) -> None:
    held, prompt = head * repeats, [*(head * repeats)[:n], *tail, 7]
    pairs = enumerate(zip(held, prompt, strict=False))
    expected = next((i for i, (a, b) in pairs if a != b), min(len(held), len(prompt)))
    assert common(held, prompt) == min(expected, len(prompt) - 1)


def test_a_model_that_cannot_rewind_reuses_only_whole_conversations(
    tiny_ggufs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No part of a sequence is dropped or copied, which a recurrent state does not allow."""
    monkeypatch.setattr(Model, "can_rewind", property(lambda _: False))
    original = Context.trim

    def trim(self: Context, sequence: int, length: int) -> None:
        assert length == 0
        original(self, sequence, length)

    monkeypatch.setattr(Context, "trim", trim)
    monkeypatch.delattr(Context, "copy")
    options = EngineOptions(threads=1, flash_attention=False, cache_type="F32")
    with Model(tiny_ggufs["F32"], options) as model, Scheduler(model, SchedulerOptions(length=200)) as scheduler:
        alone, head = Alone(model, "F32"), [5 + i % 90 for i in range(60)]

        def ask(prompt: list[int]) -> tuple[int | None, list[int]]:
            answer = scheduler.submit(GenerationRequest(prompt=prompt, options=GenerationOptions(max_tokens=5)))
            while scheduler.is_busy:
                scheduler.step()
            assert alone.check(prompt, 5, answer.result().text)
            return answer.n_reused, max((s.tokens for s in scheduler.sequences.all), key=len)

        reused, held = ask(head)
        assert reused == 0
        assert ask([*held, 8, 9])[0] == len(held)
        assert ask(head[:50])[0] == 0
