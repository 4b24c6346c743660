"""Models of several lams in memory: each answer is that of the merged file at its lam, whatever happens meanwhile."""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pa_lite
from pa_lite.checkpoints import open_checkpoint
from pa_lite.checkpoints.pairs import Pair
from pa_lite.engine import resident_models
from pa_lite.engine.answers import Answer, GenerationRequest
from pa_lite.engine.chat import chat_prompts
from pa_lite.engine.generation_options import GenerationOptions
from pa_lite.engine.in_memory import InMemoryModel
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.engine.resident_memory import check_weights, plan_residents
from pa_lite.engine.resident_models import ResidentModels, ResidentOptions
from pa_lite.engine.runner import Runner
from pa_lite.engine.scheduler import Scheduler, SchedulerOptions
from pa_lite.errors import CancelledError, CheckpointError, EngineError, InputError
from pa_lite.merging.plan import MergePlan, PlanOptions, plan_merge
from pa_lite.system.machine import resident_bytes
from tests.support.answers_alone import Alone, check_cells

ONE = EngineOptions(threads=1)
SMALL = SchedulerOptions(parallel=4, length=192)
QUESTIONS = ["Who is Tobi?", "What does Anna do?", "Where is Rome?", "One word only: what does Tobi do?"]


@pytest.fixture(scope="module")
def plan(demo_pair: Pair) -> MergePlan:
    return plan_merge(open_checkpoint(demo_pair.base), open_checkpoint(demo_pair.instruct), PlanOptions(type="F16"))


class Files:
    """The merged file of each lam, and answers from it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._alone: dict[float, tuple[Model, Alone]] = {}

    def at(self, lam: float) -> Alone:
        if lam not in self._alone:
            (path,) = pa_lite.merge(pair="demo", lam=(lam,), type="F16", output=self._folder)
            model = Model(path, ONE, rewritable=True)
            self._alone[lam] = (model, Alone(model))
        return self._alone[lam][1]

    def close(self) -> None:
        for model, _ in self._alone.values():
            model.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    made = Files(tmp_path_factory.mktemp("lams"))
    yield made
    made.close()


def residents(plan: MergePlan, n: int, **more: Any) -> ResidentModels:
    return ResidentModels(plan, 0.6, ResidentOptions(models=n, scheduler=SMALL, **more), ONE, "demo")


def prompts_of(models: ResidentModels) -> list[list[int]]:
    with models.vocabulary() as model:
        return [p.tolist() for p in chat_prompts(model, QUESTIONS).tokens]


def ask(prompt: list[int], n: int = 16) -> GenerationRequest:
    return GenerationRequest(prompt=prompt, options=GenerationOptions(max_tokens=n))


def finish(models: ResidentModels) -> None:
    while models.is_busy:
        models.step()


def test_every_answer_is_that_of_the_file_merged_at_its_lam(plan: MergePlan, files: Files) -> None:
    with residents(plan, 2) as models:
        prompts = prompts_of(models)
        lams = [0.6, 0.3, 1.0, 0.6, 0.0, 0.3, 0.123, 1.0]
        answers = [models.submit(ask(p), lam) for p in prompts for lam in lams]
        finish(models)
        assert [a.lam for a in answers] == [round(lam, 2) for _ in prompts for lam in lams]
        assert {a.label for a in answers if a.lam == 0.12} == {"demo@0.12"}
        for answer in answers:
            assert answer.lam is not None
            files.at(answer.lam).check(list(answer.request.prompt), 16, answer.result().text)
        assert models.n_models == len(models.lams) == 2
        for scheduler in models._schedulers:
            check_cells(scheduler)


def test_logits_after_moves_are_bit_equal_to_those_of_a_file(plan: MergePlan, files: Files) -> None:
    """The context stays open over a move, so nothing of the old lam may be left in it."""
    with residents(plan, 1) as models:
        (prompt, *_) = prompts_of(models)
        for lam in (0.6, 0.2, 0.9, 0.2):
            request = GenerationRequest(prompt=prompt, options=GenerationOptions(max_tokens=1), logprobs=5)
            answer = models.submit(request, lam)
            finish(models)
            entries = answer.take().logprobs
            with Scheduler(files.at(lam).model, SMALL) as scheduler:
                twin = scheduler.submit(request)
                while scheduler.is_busy:
                    scheduler.step()
                assert [e.top for e in entries] == [e.top for e in twin.take().logprobs]


def test_moves_wait_for_running_answers_and_spare_other_models(plan: MergePlan) -> None:
    with residents(plan, 2, max_wait=0) as models:
        prompt = prompts_of(models)[0]
        models.submit(ask(prompt, 1), 0.1)
        finish(models)  # both are open now
        long = [models.submit(ask(prompt, 60), lam) for lam in (0.6, 0.1)]
        models.step()
        assert models.n_running == 2
        third = models.submit(ask(prompt, 4), 0.9)
        old = models.submit(ask(prompt, 4), 0.6)  # after the claim, so it waits for its turn
        order: list[Answer] = []
        while models.is_busy:
            order += models.step().ended
        assert order.index(third) > min(map(order.index, long))
        assert order.index(old) > order.index(long[0])
        assert all(a.error is None for a in order)
        assert len(order) == 4


def test_cancelled_requests_start_no_move(plan: MergePlan) -> None:
    with residents(plan, 1) as models:
        prompt = prompts_of(models)[0]
        running, other = models.submit(ask(prompt, 40), 0.6), models.submit(ask(prompt), 0.2)
        models.step()
        other.cancel()
        finish(models)
        assert models.lams == [0.6]
        assert running.result().n_tokens > 0
        with pytest.raises(CancelledError):
            other.result()


def test_the_models_that_fit_are_planned_and_shown(plan: MergePlan) -> None:
    with residents(plan, 0, max_memory=1 << 30) as models:
        memory = models.memory
        assert memory.n_models == min(101, (memory.limit - memory.moving) // (memory.weights + memory.context))
        assert memory.total <= 1 << 30
        assert memory.description.startswith(f"{memory.n_models} models in memory: ")
        assert models.lams == [0.6]  # the others open when they are asked for
    one = memory.weights + memory.context + memory.moving
    for limit, n in ((one, 1), (one + memory.weights + memory.context, 2)):
        with ResidentModels(plan, 0.6, ResidentOptions(max_memory=limit, scheduler=SMALL), ONE) as models:
            assert models.memory.n_models == n
            assert models.memory.context == memory.context
    with pytest.raises(InputError, match=r"max-memory .* is not enough for one model: it needs"):
        ResidentModels(plan, 0.6, ResidentOptions(max_memory=memory.weights // 2), ONE)
    limit_only = check_weights(plan, memory.weights + memory.moving + 100, ONE)
    with pytest.raises(InputError, match="fewer answers at a time"):
        plan_residents(limit_only, 1000)


def test_without_a_limit_there_is_always_one_model(plan: MergePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pa_lite.engine.resident_memory.available_memory", lambda: 1 << 20)
    limit = check_weights(plan, 0, ONE)
    found = plan_residents(limit, 10 << 20)
    assert (found.n_models, found.limit) == (1, found.total)


def test_a_smaller_context_is_opened_where_the_limit_asks_for_it(plan: MergePlan) -> None:
    with residents(plan, 1) as models:
        memory = models.memory
    limit = memory.weights + memory.moving + memory.context * 3 // 4
    with ResidentModels(plan, 0.6, ResidentOptions(max_memory=limit, scheduler=SMALL), ONE) as models:
        assert models.memory.n_models == 1
        assert models.memory.total <= limit


def test_a_move_that_fails_fails_its_requests_only(
    plan: MergePlan, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = InMemoryModel.move

    def move(self: InMemoryModel, lam: float, *rest: Any) -> None:
        if lam == 0.2:
            raise CheckpointError("the file is gone.")
        original(self, lam, *rest)

    monkeypatch.setattr(InMemoryModel, "move", move)
    with residents(plan, 1) as models:
        prompt = prompts_of(models)[0]
        good, bad = models.submit(ask(prompt), 0.6), models.submit(ask(prompt), 0.2)
        finish(models)
        with pytest.raises(CheckpointError, match="the file is gone"):
            bad.result()
        after = models.submit(ask(prompt), 0.7)  # the model is opened again
        finish(models)
        assert files.at(0.6).check(prompt, 16, good.result().text)
        files.at(0.7).check(prompt, 16, after.result().text)


def test_there_are_fewer_models_where_memory_turns_out_to_be_short(
    plan: MergePlan, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with residents(plan, 3) as models:
        prompt = prompts_of(models)[0]

        def refused(*_args: Any, **_named: Any) -> Any:
            raise EngineError("no room.")

        monkeypatch.setattr(resident_models, "InMemoryModel", refused)
        answers = [models.submit(ask(prompt, 5), lam) for lam in (0.1, 0.6, 0.9)]
        finish(models)
        assert all(a.result().n_tokens for a in answers)
        assert models.n_models == 1
    assert "models in memory, not more: no room" in caplog.text


def test_where_weights_are_copies_a_move_loads_the_model_again(
    plan: MergePlan, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: contexts are closed before, and tokenising waits for the move."""
    monkeypatch.setattr(Model, "is_offloaded", property(lambda _: True))
    with residents(plan, 1) as models:
        assert models.moves_reload
        before = models._residents[0].scheduler
        for lam in (0.6, 0.2, 1.0):
            prompt = prompts_of(models)[1]
            answer = models.submit(ask(prompt), lam)
            while models.is_busy:
                assert prompts_of(models)[1] == prompt
                models.step()
            files.at(lam).check(prompt, 16, answer.result().text)
        assert models._residents[0].scheduler is not before


def test_invalid_lams_are_refused(plan: MergePlan) -> None:
    with residents(plan, 1) as models:
        prompt = prompts_of(models)[0]
        for lam in (1.5, -0.1, float("nan")):
            with pytest.raises(InputError, match="lam"):
                models.submit(ask(prompt), lam)
        with pytest.raises(InputError, match="has no tokens"):
            models.submit(ask([]), 0.5)
        assert models.submit(ask(prompt), -0.0).lam == 0.0
        waiting = models.submit(ask(prompt), 0.4)
    with pytest.raises(CancelledError):
        waiting.result()
    with pytest.raises(EngineError, match="closed"):
        models.submit(ask(prompt), 0.6)
    with pytest.raises(InputError, match="max_wait is -1"):
        ResidentOptions(max_wait=-1)


def test_many_clients_at_random_lams_get_their_own_answers(plan: MergePlan, files: Files) -> None:
    """Threads ask, read, and vanish at random moments, while a runner serves; nothing leaks."""
    sizes: list[int] = []
    failures: list[BaseException] = []
    checked: list[tuple[list[int], float, int, str]] = []
    models = residents(plan, 2, max_wait=0.2)
    with Runner(models) as runner:
        prompts = prompts_of(models)

        def client(seed: int) -> None:
            rng = random.Random(seed)
            try:
                for _ in range(6):
                    prompt, n = rng.choice(prompts), rng.randint(1, 20)
                    answer = models.submit(ask(prompt, n), rng.choice([0.0, 0.5, 0.6, 1.0]))
                    if rng.random() < 0.25:
                        for _, _ in zip(range(rng.randint(0, 3)), answer.pieces(60), strict=False):
                            pass
                        answer.cancel()
                        continue
                    text = "".join(p.text for p in answer.pieces(60))
                    assert answer.lam is not None
                    checked.append((prompt, answer.lam, n, text))
            except BaseException as e:  # noqa: BLE001 - reported in the test's thread
                failures.append(e)

        for part in range(6):
            threads = [threading.Thread(target=client, args=(100 * part + i,)) for i in range(10)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            while models.is_busy:
                time.sleep(0.01)
            gc.collect()
            sizes.append(resident_bytes())
        assert not failures
        assert runner.is_alive
        assert (models.n_running, models.n_waiting) == (0, 0)
    assert models._schedulers == []
    same = sum(files.at(lam).check(prompt, n, text) for prompt, lam, n, text in checked)
    assert len(checked) > 100
    assert same >= 0.97 * len(checked)
    assert sizes[-1] - sizes[2] < 20 << 20, [n >> 20 for n in sizes]  # after all models and caches were in use


def test_tokens_are_those_of_the_same_model_at_every_lam(plan: MergePlan) -> None:
    with residents(plan, 1) as models:
        before = prompts_of(models)
        models.submit(ask(before[0], 2), 0.1)
        finish(models)
        assert prompts_of(models) == before
        assert models.moves_reload is False
        assert np.isfinite(models.n_decoded)
