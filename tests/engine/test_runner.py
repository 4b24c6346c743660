"""A scheduler in its own thread: it sleeps, wakes, survives errors and stops cleanly."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pa_lite.engine.answers import Answer, GenerationRequest
from pa_lite.engine.generation_options import GenerationOptions
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.engine.runner import Runner
from pa_lite.engine.scheduler import Scheduler, SchedulerOptions
from pa_lite.errors import CancelledError, EngineError
from tests.support.answers_alone import Alone, check_cells

EXACT = EngineOptions(threads=1, flash_attention=False, cache_type="F32")


@pytest.fixture(scope="module")
def model(tiny_ggufs: dict[str, Path]) -> Iterator[Model]:
    with Model(tiny_ggufs["F32"], EXACT) as loaded:
        yield loaded


def ask(prompt: list[int], n: int = 8) -> GenerationRequest:
    return GenerationRequest(prompt=prompt, options=GenerationOptions(max_tokens=n), logprobs=0)


def test_answers_are_read_in_other_threads(model: Model) -> None:
    alone = Alone(model, "F32")
    with Runner(Scheduler(model, SchedulerOptions(parallel=3, length=200))) as runner:
        scheduler = runner.work
        texts: dict[int, str] = {}

        def read(i: int) -> None:
            answer = scheduler.submit(ask([5 + i, 6], 10))
            texts[i] = "".join(piece.text for piece in answer.pieces(30))

        for _ in range(2):  # it sleeps in between
            threads = [threading.Thread(target=read, args=(i,)) for i in range(7)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert all(alone.check([5 + i, 6], 10, texts.pop(i)) for i in range(7))
    assert not runner.is_alive


def test_closing_cancels_what_is_not_complete(model: Model) -> None:
    runner = Runner(Scheduler(model, SchedulerOptions(parallel=1, length=500)))
    answers = [runner.work.submit(ask([5], 400)) for _ in range(3)]
    next(answers[0].pieces(30))
    runner.close()
    runner.close()
    assert not runner.is_alive
    for answer in answers:
        with pytest.raises(CancelledError):
            answer.result(1)
    assert model._n_contexts == 0
    with pytest.raises(EngineError, match="was closed"):
        runner.work.submit(ask([5]))


def test_closing_can_wait_for_answers(model: Model) -> None:
    runner = Runner(Scheduler(model, SchedulerOptions(parallel=1, length=200)))
    answers = [runner.work.submit(ask([5, i], 20)) for i in range(3)]
    runner.close(wait=60)
    assert [a.result(0).n_tokens for a in answers] == [20, 20, 20]


def test_an_internal_error_fails_the_answers_and_not_the_thread(
    model: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Runner(Scheduler(model, SchedulerOptions(parallel=2, length=200))) as runner:
        scheduler = runner.work
        original = scheduler._take

        def wrong(*_args: Any) -> Answer | None:
            raise IndexError("a bug")

        monkeypatch.setattr(scheduler, "_take", wrong)
        answer = scheduler.submit(ask([5, 6, 7]))
        with pytest.raises(EngineError, match=r"internal error \(a bug in pa-lite\): IndexError: a bug"):
            answer.result(30)
        monkeypatch.setattr(scheduler, "_take", original)
        assert Alone(model, "F32").check([5, 6, 7], 8, scheduler.submit(ask([5, 6, 7])).result(30).text)
        while scheduler.is_busy:
            time.sleep(0.01)
        check_cells(scheduler)
    assert "a step of the scheduler failed" in caplog.text


def test_readers_stop_waiting_after_their_timeout(model: Model) -> None:
    with Scheduler(model, SchedulerOptions(parallel=1, length=100)) as scheduler:  # without steps
        answer = scheduler.submit(ask([5]))
        with pytest.raises(EngineError, match=r"no token came for 0.01 seconds"):
            next(answer.pieces(0.01))
        with pytest.raises(EngineError, match=r"not complete after 0.01 seconds"):
            answer.result(0.01)
