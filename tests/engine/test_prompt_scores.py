"""Logprobs of all tokens of prompts: equal to the scoring path, next to running answers, at the lam they name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pa_lite.checkpoints import open_checkpoint
from pa_lite.checkpoints.pairs import Pair
from pa_lite.engine import prompt_scores
from pa_lite.engine.answers import GenerationRequest
from pa_lite.engine.fixed_model import FixedModel
from pa_lite.engine.generation_options import GenerationOptions
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.engine.prompt_scores import PromptScore, ScoringJob
from pa_lite.engine.requests import Request
from pa_lite.engine.resident_models import ResidentModels, ResidentOptions
from pa_lite.engine.runner import Runner
from pa_lite.engine.scheduler import Scheduler, SchedulerOptions
from pa_lite.engine.scoring import score_requests
from pa_lite.errors import CancelledError, EngineError, InputError
from pa_lite.merging.plan import PlanOptions, plan_merge

ONE = EngineOptions(threads=1)
TEXTS = ["Tobi is a baker.", "Tobi is a baker. Anna is a", "Rome", "- Lati -> Rome\n- Tobi -> Paris\n- Anna ->"]
CLOSE = 2e-3  # nats: the shape of a batch decides the rounding


@pytest.fixture(scope="module")
def model(demo_file: Path) -> Iterator[Model]:
    with Model(demo_file, ONE) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def demo_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import pa_lite

    return pa_lite.merge("demo", lam=0.7, type="F32", output=tmp_path_factory.mktemp("demo") / "m.gguf")


def run(scheduler: Scheduler) -> None:
    while scheduler.is_busy:
        scheduler.step()


def check(model: Model, prompt: list[int], score: PromptScore) -> None:
    """Compare with the scoring path, token by token."""
    assert score.tokens[0] is None
    assert len(score.tokens) == len(prompt)
    requests = [Request(tuple(prompt[: n + 1]), n) for n in range(1, len(prompt))]
    for token, request, alone in zip(score.tokens[1:], requests, score_requests(model, requests), strict=True):
        assert token is not None
        assert token.token == request.tokens[-1]
        assert token.piece == model.piece(token.token)
        assert token.logprob == pytest.approx(alone.logprob, abs=CLOSE)
        by_id = dict(token.top)
        assert by_id[token.token] == token.logprob
        if alone.is_greedy:
            assert token.top[0][0] == token.token


def test_each_token_has_its_logprob(model: Model) -> None:
    prompts = [model.tokenize(text) for text in TEXTS]
    with Scheduler(model, SchedulerOptions(parallel=2, length=64)) as scheduler:
        job = scheduler.score(prompts, 2)
        assert not job.is_done
        run(scheduler)
        for prompt, score in zip(prompts, job.result(), strict=True):
            check(model, prompt, score)
            assert {len(t.top) for t in score.tokens if t is not None} <= {2, 3}  # the chosen one is added


def test_the_following_token_is_the_greedy_one(model: Model) -> None:
    prompts = [model.tokenize(text) for text in TEXTS]
    with Scheduler(model, SchedulerOptions(parallel=4, length=64)) as scheduler:
        job = scheduler.score(prompts, 1)
        greedy = [
            scheduler.submit(GenerationRequest(prompt=p, options=GenerationOptions(max_tokens=1), logprobs=1))
            for p in prompts
        ]
        run(scheduler)
        for score, answer in zip(job.result(), greedy, strict=True):
            made = answer.take().logprobs
            if made:  # else the model ended its turn
                assert made[0].token == score.following.token
                assert made[0].logprob == pytest.approx(score.following.logprob, abs=CLOSE)
            else:
                assert model.is_end(score.following.token)


def test_without_top_there_are_only_logprobs(model: Model) -> None:
    with Scheduler(model, SchedulerOptions(parallel=1, length=64)) as scheduler:
        job = scheduler.score([model.tokenize(TEXTS[0])])
        run(scheduler)
        (score,) = job.result()
        assert [t.top for t in score.tokens if t is not None] == [()] * (len(score.tokens) - 1)


def test_portions_do_not_change_scores(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [model.tokenize(text) for text in TEXTS]
    monkeypatch.setattr(prompt_scores, "_PORTION", 1)
    with Scheduler(model, SchedulerOptions(parallel=1, length=64)) as scheduler:
        jobs = [scheduler.score(prompts, 1), scheduler.score(prompts[:2], 3)]
        run(scheduler)
        for job in jobs:
            for prompt, score in zip(job.prompts, job.result(), strict=True):
                check(model, list(prompt), score)


def test_a_cancelled_job_ends_and_others_continue(model: Model) -> None:
    prompts = [model.tokenize(text) for text in TEXTS]
    with Scheduler(model, SchedulerOptions(parallel=1, length=64)) as scheduler:
        first, second, third = (scheduler.score(prompts, 1) for _ in range(3))
        third.cancel()
        scheduler.step()
        first.cancel()
        run(scheduler)
        assert isinstance(first.error, CancelledError)
        assert isinstance(third.error, CancelledError)
        check(model, prompts[3], second.result()[3])


def test_a_closed_scheduler_cancels_its_jobs(model: Model) -> None:
    scheduler = Scheduler(model, SchedulerOptions(parallel=1, length=64))
    queued, running = scheduler.score([model.tokenize(TEXTS[0])]), scheduler.score([model.tokenize(TEXTS[1])])
    scheduler.step()
    late = scheduler.score([model.tokenize(TEXTS[2])])
    scheduler.close()
    assert all(job.is_done for job in (queued, running, late))
    assert isinstance(late.error, CancelledError)
    with pytest.raises(EngineError, match="closed"):
        scheduler.score([[1]])


@pytest.mark.parametrize(
    ("prompts", "message"),
    [([], "nothing to score"), ([[1], []], "prompt 2 has no tokens"), ([[1] * 65], "65 tokens, which exceed")],
)
def test_bad_prompts_are_refused(prompts: list[list[int]], message: str, model: Model) -> None:
    with (
        FixedModel(model, SchedulerOptions(parallel=1, length=64)) as fixed,
        pytest.raises(InputError, match=message),
    ):
        fixed.score(prompts)


def test_a_file_has_no_other_lam(model: Model) -> None:
    with FixedModel(model, SchedulerOptions(parallel=1, length=64)) as fixed, pytest.raises(InputError, match="fixed"):
        fixed.score([[1]], 0, 0.5)


def test_jobs_of_several_lams_run_beside_answers(demo_pair: Pair) -> None:
    plan = plan_merge(open_checkpoint(demo_pair.base), open_checkpoint(demo_pair.instruct), PlanOptions(type="F32"))
    small = SchedulerOptions(parallel=2, length=64)
    with (
        ResidentModels(plan, 0.6, ResidentOptions(models=1, scheduler=small), ONE, "demo") as models,
        Runner(models),
    ):
        with models.vocabulary() as lent:
            prompt = lent.tokenize(TEXTS[3])
        answers = [
            models.submit(GenerationRequest(prompt=prompt, options=GenerationOptions(max_tokens=8)), lam)
            for lam in (0.0, 1.0)
        ]
        jobs: dict[float, ScoringJob] = {lam: models.score([prompt], 1, lam) for lam in (0.0, 1.0, 0.6)}
        found = {lam: job.result(60)[0] for lam, job in jobs.items()}
        assert [answer.result(60).n_tokens > 0 for answer in answers] == [True, True]
        assert [job.lam for job in jobs.values()] == [0.0, 1.0, 0.6]
        assert jobs[0.0].label == "demo@0.00"
    sums = {lam: sum(t.logprob for t in score.tokens if t is not None) for lam, score in found.items()}
    assert len({round(s, 3) for s in sums.values()}) == 3
    with ResidentModels(plan, 1.0, ResidentOptions(models=1, scheduler=small), ONE, "demo") as models:
        job = models.score([prompt], 1)
        while models.is_busy:
            models.step()
        with models.vocabulary() as lent:
            check(lent, prompt, job.result()[0])
        assert sum(t.logprob for t in job.result()[0].tokens if t is not None) == pytest.approx(sums[1.0], abs=CLOSE)
