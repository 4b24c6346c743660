"""Scoring of several tasks on one model, each with one draw of exemplars or with several, which are averaged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pa_lite.engine.model import Model
from pa_lite.errors import InputError
from pa_lite.progress import Progress, part_of
from pa_lite.statistics import Measured, Spread, score_interval, spread_over_seeds
from pa_lite.tasks.averages import MetricResult, cluster_numbers
from pa_lite.tasks.prompts import Prepared, prepare_draws
from pa_lite.tasks.scoring import (
    ItemScore,
    ScoreOptions,
    SuiteResult,
    TaskResult,
    check_items,
    n_requests,
    score_items,
    summarise,
)
from pa_lite.tasks.spec import TaskSpec


def score_tasks(
    model: Model, specs: Sequence[TaskSpec], options: ScoreOptions | None = None, progress: Progress | None = None
) -> SuiteResult:
    """Score each task: choices by their loglikelihood after the prompt, or answers that the model generates.

    `progress` counts requests. Raises InputError for invalid tasks, before anything is scored, what fetching their rows
    raises, and EngineError if llama.cpp fails.
    """
    options = options or ScoreOptions()
    for name in ("limit", "parallel"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise InputError(f"{name} is {value}, but must be 1 or more.")
    loaded = [prepare_draws(s, options.shots, options.limit, options.all_seeds, options.split) for s in specs]
    every = [prepared for draws in loaded for prepared in draws]
    for prepared in every:
        _check_room(model, prepared.spec)
        check_items(model, prepared)
    total, done = sum(n_requests(p, options) for p in every), 0
    n_choice = max(1, sum(draws[0].spec.kind != "G" for draws in loaded))
    each = replace(options, noise_sample=-(-options.noise_sample // n_choice))
    later = replace(options, noise_sample=0)
    results: list[TaskResult] = []
    for draws in loaded:
        found: list[TaskResult] = []
        for prepared in draws:
            own = part_of(progress, f"score {prepared.spec.name}", done, total, "requests")
            found.append(summarise(prepared, score_items(model, prepared, later if found else each, own)))
            done += n_requests(prepared, options)
        results.append(combine_draws(found))
    fingerprint, identity = model.known_by()
    return SuiteResult(
        model=model.name, options=options, tasks=tuple(results), fingerprint=fingerprint,
        remarks=(*model.remarks, *_draw_remarks(loaded, options)), identity=identity,
    )  # fmt: skip


def _draw_remarks(loaded: Sequence[Sequence[Prepared]], options: ScoreOptions) -> list[str]:
    """Return a remark on tasks without draws of exemplars, where several were requested."""
    once = [draws[0].spec.name for draws in loaded if len(draws) < options.seeds]
    if not once:
        return []
    return [f"scored once, not with {options.seeds} draws of exemplars, as no exemplars are drawn: {', '.join(once)}"]


def _check_room(model: Model, spec: TaskSpec) -> None:
    if spec.kind == "G" and spec.max_tokens >= model.max_length:
        raise InputError(
            f"task {spec.name}: max_tokens is {spec.max_tokens}, but the context of {model.name} is {model.max_length} "
            "tokens, prompt included."
        )


def combine_draws(draws: Sequence[TaskResult]) -> TaskResult:
    """Return the averages over draws of exemplars before the same items, with the uncertainty of both."""
    first = draws[0]
    if len(draws) == 1:
        return first
    metrics = _over_draws([d.metrics for d in draws], [d.items for d in draws])
    own = next(m.measured for m in metrics if _key(m) == first.metric)
    groups = []
    for same in zip(*(d.groups for d in draws), strict=True):
        records = [[r for r in d.items if r.group == same[0].name] for d in draws]
        groups.append(replace(same[0], metrics=_over_draws([g.metrics for g in same], records)))
    return replace(
        first, accuracy=own.value, stderr=own.stderr, items=tuple(i for d in draws for i in d.items), metrics=metrics,
        groups=tuple(groups), n_truncated=sum(d.n_truncated for d in draws), draws=tuple(draws),
    )  # fmt: skip


def _over_draws(
    found: Sequence[Sequence[MetricResult]], records: Sequence[Sequence[ItemScore]]
) -> tuple[MetricResult, ...]:
    """Return every metric over draws: the metrics of each, and the scores of its items."""
    out = []
    for same in zip(*found, strict=True):
        key, macros = _key(same[0]), [m.macro for m in same if m.macro is not None]
        values = [[r.metrics[key] for r in draw] for draw in records if key in draw[0].metrics]
        clusters = cluster_numbers([r.cluster for r in records[0]])
        found_values = np.array(values) if values else None
        measured = measure_draws([m.measured for m in same], found_values, len(records[0]), clusters)
        macro = measure_draws(macros, None, len(records[0]), clusters) if macros else None
        out.append(replace(same[0], measured=measured, macro=macro))
    return tuple(out)


def measure_draws(
    draws: Sequence[Measured],
    values: npt.NDArray[np.float64] | None,
    n: int,
    clusters: Sequence[int] | None = None,
) -> Measured:
    """Return the mean of a metric over draws: from its values [draws, items], or where items have none, its errors.

    The latter variance is that of items, and that between the draws, which contains some of it: too large, not too
    small.
    """
    value = float(np.mean([d.value for d in draws]))
    if values is not None:
        spread = spread_over_seeds(values, clusters)
    else:
        items, between = float(np.mean([d.stderr**2 for d in draws])), float(np.var([d.value for d in draws], ddof=1))
        units = len(set(clusters)) if clusters else n
        spread = Spread(math.sqrt(items + between / len(draws)), len(draws) - 1.0, units)
    low, high = score_interval(value, spread)
    return Measured(value=value, stderr=spread.stderr, low=low, high=high)


def _key(metric: MetricResult) -> str:
    """Return a metric's name in `ItemScore.metrics`."""
    return metric.name if metric.filter == "none" else metric.key
