"""Scoring of a few-shot task: choices by loglikelihood, generated answers by comparison, with uncertainties."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pa_lite.engine.generation import GenerationOptions, generate
from pa_lite.engine.model import Model
from pa_lite.engine.scoring import NoiseFloor, Request, Score, make_requests, noise_floor, score_requests
from pa_lite.errors import EngineError, InputError
from pa_lite.progress import Progress, part_of, silent
from pa_lite.statistics import Mean, spread_of_average, spread_of_mean
from pa_lite.tasks.answers import Extract
from pa_lite.tasks.averages import GroupResult, MetricResult, cluster_numbers, measure_metrics
from pa_lite.tasks.metrics import TEXT_METRICS, ChoiceScores, pick_choices
from pa_lite.tasks.prompts import Prepared
from pa_lite.tasks.rendering import Item
from pa_lite.tasks.sandbox import find_answers
from pa_lite.tasks.spec import TaskSpec
from pa_lite.untrusted.portions import portions

MOST_SEEDS = 1000  # draws of exemplars
# characters of prompts that are tokenized at a time; a token is about four characters, and 40 bytes in a list
_PORTION = 8_000_000
_WHOLE = Extract("none", r"(?s)\A.*\Z")  # without a pattern, the answer is the whole output


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """How tasks are scored, with the only defaults.

    `shots` None uses each task's own number; `limit` is the number of items, None for all; `seed` samples the
    exemplars, and with `seeds` above 1 every item is scored with that many draws of exemplars, of seeds `seed`,
    `seed` + 1, ...; `mutual_info` also scores every choice on an empty context (acc_mutual_info); `parallel` answers
    are generated at a time; about `noise_sample` requests over all tasks are scored again, each alone, to measure the
    effect of rounding.
    """

    shots: int | None = None
    limit: int | None = None
    seed: int = 0
    split: str | None = None
    mutual_info: bool = False
    parallel: int = 8
    noise_sample: int = 0
    seeds: int = 1

    def __post_init__(self) -> None:
        """Raise InputError unless there are 1 to 1000 seeds."""
        if not 1 <= self.seeds <= MOST_SEEDS:
            raise InputError(f"seeds is {self.seeds}, but must be from 1 to {MOST_SEEDS}.")

    @property
    def all_seeds(self) -> range:
        """The seeds of all draws of exemplars."""
        return range(self.seed, self.seed + self.seeds)


@dataclass(frozen=True, kw_only=True)
class ItemScore:
    """The scores of one item.

    MC and FMC: `logprobs` of the choices in nats, the choice `picked` by the task's metric (ties go to the first), and
    the correct `answer`. G: the generated `output` and what each pattern `found` in it; `picked` and `answer` are -1.
    `metrics` has the value of every metric, in [0, 1]; `metric` is the name of the task's own. `cluster` is that of
    `Item`.
    """

    index: int
    logprobs: tuple[float, ...]
    picked: int
    answer: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    metric: str = "acc"
    group: str = ""
    greedy: tuple[bool, ...] = ()
    unconditional: tuple[float, ...] = ()
    output: str = ""
    found: Mapping[str, str] = field(default_factory=dict)
    truncated: bool = False
    cluster: str = ""

    @property
    def value(self) -> float:
        """The item's contribution to its task's score: 0 or 1, or for F1 any value between."""
        return self.metrics.get(self.metric, float(self.picked == self.answer))

    @property
    def right(self) -> bool:
        return self.value == 1.0


@dataclass(frozen=True)
class ScoredItems:
    """The scores of some of a task's items.

    `single_token_labels` is whether each letter of an FMC task is one token, so that one row of logits scores them all;
    otherwise they are scored like any choices.
    """

    items: tuple[ItemScore, ...]
    noise: NoiseFloor | None = None
    single_token_labels: bool | None = None


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """A task's score in [0, 1] by its own metric, its standard error, all other metrics, and all items.

    `majority` is the accuracy of always giving the most common answer of rows that are not scored, `chance` that of
    picking at random (0 for generated answers). A task with groups is averaged over its items (micro);
    `metrics[i].macro` is over its groups. `noise` and `single_token_labels` are those of `ScoredItems`; `clusters` are
    those of `cluster_numbers`. With several draws of exemplars, `draws` has the result of each, averages are over all
    of them, and `items` are those of the first draw, then of the next, and so on.
    """

    task: str
    area: str
    n: int
    accuracy: float
    stderr: float
    majority: float
    chance: float
    items: tuple[ItemScore, ...]
    kind: str = "MC"
    metric: str = "acc"
    metrics: tuple[MetricResult, ...] = ()
    groups: tuple[GroupResult, ...] = ()
    n_truncated: int = 0
    noise: NoiseFloor | None = None
    single_token_labels: bool | None = None
    clusters: tuple[int, ...] | None = None
    prepared: Prepared | None = field(default=None, repr=False, compare=False)
    draws: tuple[TaskResult, ...] = ()

    @property
    def is_drawn(self) -> bool:
        """Whether another seed gives other exemplars, and so another score."""
        return self.prepared is not None and self.prepared.is_drawn

    @property
    def by_seed(self) -> tuple[float, ...]:
        """The score with each draw of exemplars."""
        return tuple(draw.accuracy for draw in self.draws) or (self.accuracy,)


@dataclass(frozen=True, kw_only=True)
class SuiteResult:
    """Results of several tasks on one model; averages are over tasks, not over items.

    `fingerprint` identifies the model's weights, `identity` also its tokenizer and settings (`Model.identity`).
    `remarks` say where the engine lacked memory and used less than planned, which moves scores by rounding.
    """

    model: str
    options: ScoreOptions
    tasks: tuple[TaskResult, ...]
    fingerprint: str = ""
    remarks: tuple[str, ...] = ()
    identity: str = ""

    @property
    def accuracy(self) -> Mean:
        """The mean of the tasks' scores, and its standard error, for fixed tasks."""
        value = float(np.mean([t.accuracy for t in self.tasks]))
        if any(t.draws for t in self.tasks):
            return Mean(value, float(np.linalg.norm([t.stderr for t in self.tasks])) / len(self.tasks))
        spread = spread_of_average([spread_of_mean([i.value for i in t.items], t.clusters) for t in self.tasks])
        return Mean(value, spread.stderr)

    @property
    def majority(self) -> float:
        return float(np.mean([t.majority for t in self.tasks]))


def check_items(model: Model, prepared: Prepared) -> None:
    """Raise TextError, naming the row, for an item that the model's tokenizer cannot encode."""
    name = f"task {prepared.spec.name}"
    for lead in {id(item.lead): item.lead for item in prepared.items}.values():
        model.check_text(lead, f"{name}: the exemplar text before each row")
    for item in prepared.items:
        for context, continuation in item.requests or [(item.prompt, "")]:
            model.check_text(context + continuation, f"{name}: {item.where}: the prompt with its answer")


def score_items(
    model: Model, prepared: Prepared, options: ScoreOptions | None = None, progress: Progress | None = None
) -> ScoredItems:
    """Score all or some of a task's items, without averages. Raises EngineError if llama.cpp fails."""
    score = _score_texts if prepared.spec.kind == "G" else _score_choices
    return score(model, prepared, options or ScoreOptions(), silent if progress is None else progress)


def _wants_mutual_info(spec: TaskSpec, options: ScoreOptions) -> bool:
    return options.mutual_info or "acc_mutual_info" in spec.metrics


def n_requests(prepared: Prepared, options: ScoreOptions) -> int:
    """Return the number of requests of scoring a task: texts to score or to generate."""
    if prepared.spec.kind == "G":
        return len(prepared.items)
    extra = len(_alone(prepared.items)) if _wants_mutual_info(prepared.spec, options) else 0
    return sum(len(item.continuations) for item in prepared.items) + extra


def _alone(items: Sequence[Item]) -> list[str]:
    """Return the distinct continuations, to be scored on an empty context."""
    return list(dict.fromkeys(c for item in items for c in item.continuations))


def _requests(model: Model, item: Item) -> list[Request]:
    if len(item.contexts) == 1:
        return make_requests(model, item.prompt, item.continuations)
    return [make_requests(model, context, [text])[0] for context, text in item.requests]


def _portions(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Yield the items in portions whose prompts, over all choices, have at most _PORTION characters."""
    return portions(items, lambda item: item.length, _PORTION)


def _score_choices(model: Model, prepared: Prepared, options: ScoreOptions, progress: Progress) -> ScoredItems:
    spec, items = prepared.spec, prepared.items
    done, is_single, noise = 0, True, None
    total = n_requests(prepared, options)
    alone: dict[str, Score] = {}
    if _wants_mutual_info(spec, options):
        for texts in portions(_alone(items), len, _PORTION):
            own = part_of(progress, "score", done, total, "requests")
            scores = score_requests(model, make_requests(model, "", texts), own)
            alone |= zip(texts, scores, strict=True)
            done += len(texts)
    records = []
    for portion in _portions(items):
        per_item = [_requests(model, item) for item in portion]
        flat = [r for requests in per_item for r in requests]
        scores = score_requests(model, flat, part_of(progress, "score", done, total, "requests"))
        if options.noise_sample and noise is None:
            noise = noise_floor(model, flat, scores, options.noise_sample)
        waiting = iter(scores)
        for item, requests in zip(portion, per_item, strict=True):
            records.append(_choice_record(spec, item, [next(waiting) for _ in requests], alone))
        is_single = is_single and all(len(r.tokens) == r.n_context + 1 for r in flat)
        done += len(flat)
    return ScoredItems(tuple(records), noise, is_single if spec.kind == "FMC" else None)


def _choice_record(spec: TaskSpec, item: Item, scores: Sequence[Score], alone: Mapping[str, Score]) -> ItemScore:
    logprobs = tuple(s.logprob for s in scores)
    unconditional = tuple(alone[c].logprob for c in item.continuations) if alone else ()
    choices = tuple(c.removeprefix(spec.delimiter) for c in item.continuations)
    picks = pick_choices(
        ChoiceScores(
            logprobs=logprobs,
            choices=choices,
            n_tokens=tuple(s.n_tokens for s in scores),
            unconditional=unconditional or None,
        )
    )
    return ItemScore(
        index=item.index,
        logprobs=logprobs,
        picked=picks.get(spec.metric, picks["acc"]),
        answer=item.answer,
        metrics={name: float(picked == item.answer) for name, picked in picks.items()},
        metric=spec.metric,
        group=item.group,
        cluster=item.cluster,
        greedy=tuple(s.is_greedy for s in scores),
        unconditional=unconditional,
        truncated=any(s.truncated for s in scores),
    )


def _score_texts(model: Model, prepared: Prepared, options: ScoreOptions, progress: Progress) -> ScoredItems:
    spec = prepared.spec
    room = model.max_length - spec.max_tokens
    settings = GenerationOptions(max_tokens=spec.max_tokens, stop=spec.stop, parallel=options.parallel)
    records: list[ItemScore] = []
    for portion in _portions(prepared.items):
        tokens = [model.tokenize(item.prompt) for item in portion]
        cut = [t[-room:] for t in tokens]  # on the left, as lm-eval does
        made = generate(model, cut, settings, part_of(progress, "score", len(records), len(prepared.items), "requests"))
        answers = _found(spec, [answer.text for answer in made])
        for item, answer, found, whole in zip(portion, made, answers, tokens, strict=True):
            records.append(_text_record(spec, item, answer.text, found, len(whole) > room))
    return ScoredItems(tuple(records))


def _found(spec: TaskSpec, texts: Sequence[str]) -> list[dict[str, str]]:
    """Return what the task's patterns find in the answers. Raises InputError for patterns that take too long."""
    try:
        return find_answers(spec.extract or (_WHOLE,), texts, is_own=spec.is_own or not spec.extract)
    except EngineError as e:
        raise InputError(f"task {spec.name}: its extract patterns fail on the answers: {e}. Simplify them.") from e


def _text_record(spec: TaskSpec, item: Item, output: str, found: Mapping[str, str], truncated: bool) -> ItemScore:
    metrics = {
        _key(metric, name): TEXT_METRICS[metric](answer, item.golds, spec.normalise)
        for name, answer in found.items()
        for metric in spec.metrics or (spec.metric,)
    }
    own = _key(spec.metric, next(iter(found)))
    return ItemScore(
        index=item.index, logprobs=(), picked=-1, answer=-1, metrics=metrics, metric=own, group=item.group,
        cluster=item.cluster, output=output, found=found, truncated=truncated,
    )  # fmt: skip


def _key(metric: str, pattern: str) -> str:
    return metric if pattern == _WHOLE.name else f"{metric},{pattern}"


def chance_rate(items: Sequence[Item]) -> float:
    """Return the accuracy of picking choices at random: 0 if answers are generated."""
    return float(np.mean([1 / len(item.continuations) if item.continuations else 0.0 for item in items]))


def summarise(prepared: Prepared, scored: ScoredItems) -> TaskResult:
    """Return a task's averages over its scored items; standard errors and intervals are by clusters, if it has them."""
    spec, records, groups = prepared.spec, scored.items, dict[str, list[ItemScore]]()
    for record in records:
        groups.setdefault(record.group, []).append(record)
    metrics = measure_metrics(spec, list(groups.values()), len(prepared.group_rows))
    own = next(m.measured for m in metrics if _key(m.name, m.filter) == records[0].metric)
    return TaskResult(
        task=spec.name,
        area=spec.area,
        n=len(records),
        accuracy=own.value,
        stderr=own.stderr,
        majority=prepared.majority,
        chance=chance_rate(prepared.items),
        items=records,
        kind=spec.kind,
        metric=records[0].metric,
        metrics=metrics,
        groups=tuple(GroupResult(k, len(v), measure_metrics(spec, [v])) for k, v in groups.items())
        if spec.grouped
        else (),
        n_truncated=sum(r.truncated for r in records),
        noise=scored.noise,
        single_token_labels=scored.single_token_labels,
        clusters=cluster_numbers([r.cluster for r in records]),
        prepared=prepared,
    )
