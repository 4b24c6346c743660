"""Requests that arrive at any time: streaming, cancelling, kept sequences, and every answer as alone."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pa_lite
from pa_lite.engine.answers import Answer, GenerationRequest, Piece, TokenLogprob
from pa_lite.engine.chat import chat_prompts
from pa_lite.engine.context import Context
from pa_lite.engine.generation_options import GenerationOptions
from pa_lite.engine.interrupts import StopFlag, stops_when
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.engine.scheduler import Scheduler, SchedulerOptions
from pa_lite.errors import CancelledError, EngineError, InputError, StoppedError
from pa_lite.system.machine import resident_bytes
from tests.support.answers_alone import Alone, check_cells

EXACT = EngineOptions(threads=1, flash_attention=False, cache_type="F32")
VERBS, NAMES = ("Who is", "Where is", "What does"), ("Tobi", "Anna", "Rome", "it")
QUESTIONS = [f"{verb} {name}?" for verb in VERBS for name in NAMES]


@pytest.fixture(scope="module")
def tiny_model(tiny_ggufs: dict[str, Path]) -> Iterator[Model]:
    with Model(tiny_ggufs["F32"], EXACT) as model:
        yield model


@pytest.fixture(scope="module")
def demo() -> Iterator[Model]:
    with pa_lite.load("demo@0.7", threads=1) as loaded:
        yield loaded.model


def ask(prompt: Sequence[int], n: int = 8, **more: Any) -> GenerationRequest:
    own = {name: more.pop(name) for name in ("stream", "reasoning", "logprobs") if name in more}
    return GenerationRequest(prompt=prompt, options=GenerationOptions(max_tokens=n, **more), **own)


def finish(scheduler: Scheduler) -> None:
    while scheduler.is_busy:
        scheduler.step()
        check_cells(scheduler)


def test_pieces_add_up_to_the_answer(demo: Model) -> None:
    prompts = chat_prompts(demo, QUESTIONS).tokens
    with Scheduler(demo, SchedulerOptions(parallel=4, length=256)) as scheduler:
        answers = [scheduler.submit(ask(p, 24)) for p in prompts]
        pieces: dict[Answer, list[Piece]] = {a: [] for a in answers}
        while scheduler.is_busy:
            scheduler.step()
            for answer in answers:
                if piece := answer.take():
                    pieces[answer].append(piece)
        alone = Alone(demo)
        for prompt, answer in zip(prompts, answers, strict=True):
            assert "".join(p.text for p in pieces[answer]) == answer.result().text
            assert alone.check(prompt, 24, answer.result().text)
        assert max(len(p) for p in pieces.values()) > 5


def test_held_back_text_is_only_what_a_stop_string_could_start_with(demo: Model) -> None:
    (prompt,) = chat_prompts(demo, ["Say what you know about Tobi."]).tokens
    with Scheduler(demo, SchedulerOptions(parallel=1, length=256)) as scheduler:
        free = scheduler.submit(ask(prompt, 24))
        finish(scheduler)
        text = free.result().text
        stop = text[8:11]
        answer, shown = scheduler.submit(ask(prompt, 24, stop=(stop, "@" * 50))), ""
        while scheduler.is_busy:
            scheduler.step()
            shown += answer.take().text
            assert text.startswith(shown)
            assert stop not in shown
        assert shown == answer.result().text == text[: text.index(stop)]
        assert answer.result().reason == "stop"


def test_requests_that_arrive_later_join_running_ones(tiny_model: Model) -> None:
    with Scheduler(tiny_model, SchedulerOptions(parallel=3, length=200)) as scheduler:
        first = scheduler.submit(ask([5, 6, 7], 30))
        for _ in range(4):
            scheduler.step()
        second = scheduler.submit(ask([8, 9], 5))
        assert (scheduler.n_running, scheduler.n_waiting) == (1, 1)
        finish(scheduler)
        alone = Alone(tiny_model, "F32")
        assert alone.check([5, 6, 7], 30, first.result().text)
        assert alone.check([8, 9], 5, second.result().text)


def test_more_requests_than_sequences_start_in_the_order_of_arrival(tiny_model: Model) -> None:
    with Scheduler(tiny_model, SchedulerOptions(parallel=2, length=100)) as scheduler:
        answers = [scheduler.submit(ask([20 - i, 3], 4)) for i in range(6)]
        ended: list[Answer] = []
        while scheduler.is_busy:
            ended += scheduler.step().ended
        assert ended == answers


def test_a_long_prompt_delays_a_running_answer_by_at_most_its_share(tiny_model: Model) -> None:
    with Scheduler(tiny_model, SchedulerOptions(parallel=2, length=500, prompt_tokens=32)) as scheduler:
        running = scheduler.submit(ask([5, 6], 40, logprobs=0))
        scheduler.step()
        scheduler.submit(ask([9] * 300, 5))
        before = scheduler.n_decoded
        for i in range(9):
            scheduler.step()
            assert running.take().logprobs
            assert scheduler.n_decoded - before == 33 * (i + 1)
        finish(scheduler)


def test_a_short_prompt_does_not_wait_for_a_long_one(tiny_model: Model) -> None:
    with Scheduler(tiny_model, SchedulerOptions(parallel=3, length=500, prompt_tokens=32)) as scheduler:
        scheduler.submit(ask([5, 6], 60))
        scheduler.step()
        long, short = scheduler.submit(ask([9] * 300, 5)), scheduler.submit(ask([7] * 20, 2))
        order: list[Answer] = []
        while scheduler.is_busy:
            order += scheduler.step().ended
        assert order.index(short) < order.index(long)


def test_the_next_turn_decodes_only_its_new_tokens(tiny_model: Model) -> None:
    head = [5 + i % 90 for i in range(60)]
    with Scheduler(tiny_model, SchedulerOptions(parallel=2, length=400)) as scheduler:
        first = scheduler.submit(ask(head, 10))
        finish(scheduler)
        held = scheduler.sequences.all[0].tokens
        assert len(held) == 60 + 9  # the last token was chosen, not decoded
        turn = [*held, 11, 12, 13]
        before = scheduler.n_decoded
        second = scheduler.submit(ask(turn, 5))
        finish(scheduler)
        assert (first.n_reused, second.n_reused, second.n_prompt) == (0, 69, 72)
        assert scheduler.n_decoded - before == 3 + 4
        assert Alone(tiny_model, "F32").check(turn, 5, second.result().text)


def test_the_conversation_used_last_is_kept_longest(tiny_model: Model) -> None:
    heads = [[40 + i] * 30 for i in range(3)]
    with Scheduler(tiny_model, SchedulerOptions(parallel=2, length=200)) as scheduler:
        for head in (heads[0], heads[1], heads[2]):
            scheduler.submit(ask(head, 2))
            finish(scheduler)
        reused = []
        for head in (heads[1], heads[2], heads[0]):  # the last one was lost to heads[2]
            answer = scheduler.submit(ask([*head, 9], 2))
            finish(scheduler)
            reused.append(answer.n_reused)
        assert reused == [30, 30, 0]


def test_a_common_system_prompt_is_copied_and_conversations_are_kept(tiny_model: Model) -> None:
    system = [5 + i % 50 for i in range(80)]
    with Scheduler(tiny_model, SchedulerOptions(parallel=3, length=300)) as scheduler:
        one = scheduler.submit(ask([*system, *[60] * 100], 3))
        finish(scheduler)
        other = scheduler.submit(ask([*system, 70, 71], 3))
        finish(scheduler)
        again = scheduler.submit(ask([*system, *[60] * 100, 61], 3))
        finish(scheduler)
    assert (one.n_reused, other.n_reused, again.n_reused) == (0, 80, 180)


def test_equal_prompts_are_decoded_once_and_answered_differently(tiny_model: Model) -> None:
    """As for `n` answers to one prompt."""
    prompt = [5 + i % 90 for i in range(90)]
    with Scheduler(tiny_model, SchedulerOptions(parallel=4, length=200)) as scheduler:
        answers = [scheduler.submit(ask(prompt, 6, temperature=1.5, seed=3, stream=i)) for i in range(4)]
        finish(scheduler)
        assert scheduler.n_decoded <= 90 + 3 + 4 * 6
        assert len({a.result().text for a in answers}) > 1


def test_a_cancelled_answer_frees_its_sequence(tiny_model: Model) -> None:
    with Scheduler(tiny_model, SchedulerOptions(parallel=1, length=200)) as scheduler:
        running, waiting, last = (scheduler.submit(ask([5 + i], 50)) for i in range(3))
        scheduler.step()
        assert scheduler.n_running == 1
        running.cancel()
        waiting.cancel()
        assert set(scheduler.step().ended) == {running, waiting}
        finish(scheduler)
        for answer in (running, waiting):
            with pytest.raises(CancelledError):
                answer.result()
        assert last.result().n_tokens == 50


def test_answers_that_share_a_cancelled_prompt_decode_it_themselves(tiny_model: Model) -> None:
    prompt = [5 + i % 90 for i in range(120)]
    options = SchedulerOptions(parallel=3, length=200, prompt_tokens=16)
    with Scheduler(tiny_model, options) as scheduler:
        busy = scheduler.submit(ask([3, 4], 60))
        scheduler.step()
        first, second = scheduler.submit(ask([*prompt, 7], 4)), scheduler.submit(ask([*prompt, 8], 4))
        for _ in range(3):
            scheduler.step()
        assert scheduler.sequences.running[-1].source is not None
        first.cancel()
        finish(scheduler)
        alone = Alone(tiny_model, "F32")
        assert alone.check([*prompt, 8], 4, second.result().text)
        assert alone.check([3, 4], 60, busy.result().text)


def test_logprobs_are_those_of_the_logits(tiny_model: Model) -> None:
    prompt = [5, 9, 30]
    with Scheduler(tiny_model, SchedulerOptions(parallel=1, length=100)) as scheduler:
        answer = scheduler.submit(ask(prompt, 6, temperature=1.2, seed=1, logprobs=4))
        entries: list[TokenLogprob] = []
        while scheduler.is_busy:
            scheduler.step()
            entries += answer.take().logprobs
    tokens = [e.token for e in entries]
    assert len(tokens) == answer.result().n_tokens == 6
    whole = [*prompt, *tokens]
    with tiny_model.context(100, cache_type="F32") as context:
        context.decode(whole, range(len(whole)), [0] * len(whole), [0] * len(whole), [True] * len(whole))
        for k, entry in enumerate(entries):
            logits = context.logits(len(prompt) - 1 + k).astype(np.float64)
            logprobs = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
            assert entry.logprob == pytest.approx(logprobs[entry.token], abs=1e-3)
            assert entry.piece == tiny_model.piece(entry.token)
            assert [i for i, _ in entry.top] == np.argsort(-logprobs, kind="stable")[:4].tolist()
            assert [p for _, p in entry.top] == pytest.approx(np.sort(logprobs)[::-1][:4], abs=1e-3)


def test_a_stopped_batch_loses_nothing(tiny_model: Model) -> None:
    """The next step continues with the same tokens, after interrupts at any node of a batch's graphs."""
    rng, left = random.Random(4), 0

    def is_due() -> bool:
        nonlocal left
        left -= 1
        return left <= 0

    prompts = [[5 + i % 80 for i in range(400)], [6, 7]]
    alone = Alone(tiny_model, "F32")
    n_stopped = 0
    for _ in range(6):
        with Scheduler(tiny_model, SchedulerOptions(parallel=2, length=500)) as scheduler:
            answers = [scheduler.submit(ask(p, 12)) for p in prompts]
            with stops_when(is_due):
                while scheduler.is_busy:
                    left = rng.randint(1, 150) if rng.random() < 0.7 else 10**9
                    try:
                        with scheduler.interruptible():
                            scheduler.step()
                    except StoppedError:
                        n_stopped += 1
                    check_cells(scheduler)
            for prompt, answer in zip(prompts, answers, strict=True):
                assert alone.check(prompt, 12, answer.result().text)
    assert n_stopped > 20


def test_a_flag_of_another_thread_stops_a_batch_within_it(tiny_model: Model) -> None:
    """In a thread that is not the main one, a flag that is set stops the first batch, and a clear one none."""
    stopped: list[bool] = []

    def run(flag: StopFlag) -> None:
        with Scheduler(tiny_model, SchedulerOptions(parallel=1, length=500)) as scheduler, stops_when(flag):
            answer = scheduler.submit(ask([5 + i % 80 for i in range(400)], 4))
            try:
                while scheduler.is_busy:
                    with scheduler.interruptible():
                        scheduler.step()
            except StoppedError:
                check_cells(scheduler)
            stopped.append(not answer.is_done)

    for is_set in (False, True, False):
        flag = StopFlag()
        if is_set:
            flag.set()
        thread = threading.Thread(target=run, args=(flag,))
        thread.start()
        thread.join()
    assert stopped == [False, True, False]


def test_a_batch_that_fails_fails_its_answers_only(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with Scheduler(tiny_model, SchedulerOptions(parallel=2, length=100)) as scheduler:
        bad = scheduler.submit(ask([tiny_model.n_vocab + 5], 5))  # llama.cpp refuses it
        assert list(scheduler.step().ended) == [bad]
        with pytest.raises(EngineError, match="failed to decode"):
            bad.result()
        good = scheduler.submit(ask([5, 6], 5))
        finish(scheduler)
        assert Alone(tiny_model, "F32").check([5, 6], 5, good.result().text)
        original = Context.logits

        def broken(self: Context, i: int) -> Any:
            view = original(self, i).copy()
            view[3] = np.nan
            return view

        monkeypatch.setattr(Context, "logits", broken)
        nan = scheduler.submit(ask([5, 6], 5))
        finish(scheduler)
        with pytest.raises(EngineError, match="not finite"):
            nan.result()


def test_invalid_requests_are_refused(tiny_model: Model) -> None:
    with Scheduler(tiny_model, SchedulerOptions(parallel=1, length=50)) as scheduler:
        with pytest.raises(InputError, match="the prompt has no tokens"):
            scheduler.submit(ask([]))
        with pytest.raises(InputError, match=r"the prompt has 45 tokens; with 8 new ones they exceed .* 50 tokens"):
            scheduler.submit(ask([5] * 45))
        waiting = scheduler.submit(ask([5]))
    with pytest.raises(CancelledError):
        waiting.result()
    with pytest.raises(EngineError, match="was closed"):
        scheduler.submit(ask([5]))
    with pytest.raises(InputError, match="parallel is 0"):
        SchedulerOptions(parallel=0)


def test_a_reader_that_fails_cancels_its_answer(tiny_model: Model) -> None:
    def gone() -> None:
        raise RuntimeError("the loop is closed")

    with Scheduler(tiny_model, SchedulerOptions(parallel=2, length=100)) as scheduler:
        lost, kept = scheduler.submit(ask([5], 20), gone), scheduler.submit(ask([6], 20))
        finish(scheduler)
        assert isinstance(lost.error, CancelledError)
        assert kept.result().n_tokens == 20


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_during_a_step_keeps_the_scheduler_usable(tiny_model: Model) -> None:
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Scheduler(tiny_model, SchedulerOptions(parallel=4, length=512)) as scheduler:
            answers: list[Answer] = []

            def work() -> None:
                while True:
                    if not scheduler.is_busy:
                        answers[:] = [scheduler.submit(ask([5 + i] * 60, 400)) for i in range(4)]
                    with scheduler.interruptible():
                        scheduler.step()

            timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                work()
            timer.join()
            check_cells(scheduler)
            for answer in answers[1:]:
                answer.cancel()
            finish(scheduler)
            assert Alone(tiny_model, "F32").check([5] * 60, 400, answers[0].result().text)
    finally:
        signal.signal(signal.SIGINT, previous)


def check_ids_of_batches(scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check before each batch that running sequences have consecutive ids: llama.cpp splits a batch at a gap."""
    original = scheduler.context.decode

    def decode(*args: Any) -> None:
        numbers = [s.number for s in scheduler.sequences.running]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        original(*args)

    monkeypatch.setattr(scheduler.context, "decode", decode)


def test_random_arrivals_and_cancellations_change_no_answer(demo: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversations and single prompts arrive, continue and are cancelled at random; memory and cells stay bounded."""
    rng = random.Random(11)
    prompts = [p.tolist() for p in chat_prompts(demo, QUESTIONS).tokens]
    alone = Alone(demo)
    sizes: list[int] = []
    n_same = n_checked = n_cancelled = 0
    with Scheduler(demo, SchedulerOptions(parallel=5, length=320, prompt_tokens=24)) as scheduler:
        check_ids_of_batches(scheduler, monkeypatch)
        for _ in range(3):
            live: list[tuple[list[int], Answer]] = []
            done: list[tuple[list[int], Answer]] = []
            for _ in range(400):
                if rng.random() < 0.25 and scheduler.n_waiting < 6:
                    prompt = rng.choice(prompts)
                    if done and rng.random() < 0.5:  # the next turn of a finished conversation
                        before, last = rng.choice(done)
                        if last.error is None and len(before) < 150:
                            prompt = [*before, *demo.tokenize(last.result().text, add_special=False), *prompt[1:20]]
                    live.append((prompt, scheduler.submit(ask(prompt, rng.randint(1, 30)))))
                if live and rng.random() < 0.04:
                    rng.choice(live)[1].cancel()
                scheduler.step()
                check_cells(scheduler)
                done += [entry for entry in live if entry[1].is_done]
                live = [entry for entry in live if not entry[1].is_done]
            finish(scheduler)
            done += live
            for prompt, answer in done:
                if answer.error is None:
                    n_checked += 1
                    n_same += alone.check(prompt, answer.request.options.max_tokens, answer.result().text)
                else:
                    n_cancelled += 1
            assert (scheduler.n_running, scheduler.n_waiting) == (0, 0)
            sizes.append(resident_bytes())
        scheduler.forget()
        check_cells(scheduler)
        assert scheduler.sequences.n_cached == 0
    assert n_checked > 150
    assert n_cancelled > 5
    assert n_same >= 0.98 * n_checked
    assert sizes[-1] - sizes[0] < 20 << 20
