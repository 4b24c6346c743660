"""Scores few-shot tasks on a model: multiple choice by loglikelihood, with standard errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pa_lite.engine.model import Model
from pa_lite.engine.scoring import make_requests, score_requests
from pa_lite.errors import InputError
from pa_lite.statistics import Estimate, mean_over_tasks, standard_error
from pa_lite.tasks.prompts import Item, build_items, majority_rate
from pa_lite.tasks.spec import TaskSpec

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ScoreOptions:
    """`shots` None takes each task's own number; `limit` a count of items, None for all; `seed` draws the exemplars."""

    shots: int | None = None
    limit: int | None = None
    seed: int = 0
    split: str | None = None


@dataclass(frozen=True)
class ItemScore:
    """One item: logprob of each choice in nats, the choice picked (the first of equals), whether it is right."""

    index: int
    logprobs: tuple[float, ...]
    picked: int
    answer: int

    @property
    def right(self) -> bool:
        return self.picked == self.answer


@dataclass(frozen=True)
class TaskResult:
    """A task's accuracy in [0, 1], its standard error, and every item."""

    task: str
    area: str
    n: int
    accuracy: float
    stderr: float
    majority: float
    chance: float
    items: tuple[ItemScore, ...]


@dataclass(frozen=True)
class SuiteResult:
    """Several tasks on one model; averages are over tasks, not over items."""

    model: str
    options: ScoreOptions
    tasks: tuple[TaskResult, ...]

    @property
    def accuracy(self) -> Estimate:
        """The mean of the tasks' accuracies, and its standard error."""
        return mean_over_tasks([[float(i.right) for i in t.items] for t in self.tasks])

    @property
    def majority(self) -> float:
        return float(np.mean([t.majority for t in self.tasks]))


def score_tasks(
    model: Model, specs: Sequence[TaskSpec], options: ScoreOptions | None = None, progress: Progress | None = None
) -> SuiteResult:
    """Accuracy on each task: every choice's loglikelihood behind the prompt, the largest sum picked (lm-eval's `acc`).

    `progress` gets (requests done, requests in all). Raises InputError for bad tasks, before anything is scored, and
    EngineError when a prompt does not fit the model.
    """
    options = options or ScoreOptions()
    if options.limit is not None and options.limit < 1:
        raise InputError(f"limit is {options.limit}, but must be 1 or more.")
    loaded = [(s, build_items(s, options.shots, options.limit, options.seed, options.split)) for s in specs]
    total = sum(len(item.continuations) for _, items in loaded for item in items)
    done, results = 0, []
    for spec, items in loaded:
        before = done

        def report(n: int, _total: int, before: int = before) -> None:
            if progress is not None:
                progress(before + n, total)

        results.append(_score_task(model, spec, items, report))
        done += sum(len(item.continuations) for item in items)
    return SuiteResult(model.name, options, tuple(results))


def _score_task(model: Model, spec: TaskSpec, items: Sequence[Item], progress: Progress) -> TaskResult:
    requests = [r for item in items for r in make_requests(model, item.prompt, item.continuations)]
    scores = iter(score_requests(model, requests, progress))
    scored = []
    for item in items:
        logprobs = tuple(next(scores).logprob for _ in item.continuations)
        scored.append(ItemScore(item.index, logprobs, int(np.argmax(logprobs)), item.answer))
    right = [float(s.right) for s in scored]
    return TaskResult(
        task=spec.name,
        area=spec.area,
        n=len(scored),
        accuracy=float(np.mean(right)),
        stderr=standard_error(right),
        majority=majority_rate(items),
        chance=float(np.mean([1 / len(item.continuations) for item in items])),
        items=tuple(scored),
    )
