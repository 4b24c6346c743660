"""The workloads of a study: few-shot tasks, instructions, and answers for a judge."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from typing import Any, TypeVar

import numpy as np

from pa_lite.alpaca.content import request
from pa_lite.alpaca.journal import digest
from pa_lite.alpaca.outputs import answer_prompts
from pa_lite.alpaca.prompts import Prompt
from pa_lite.engine.chat_options import ChatOptions
from pa_lite.engine.generation import GenerationOptions
from pa_lite.engine.model import Model
from pa_lite.instructions.following import Instruction, follow_instructions
from pa_lite.progress import Progress
from pa_lite.statistics import spread_of_draws
from pa_lite.study.judged_workloads import CalibrationWorkload, WinsWorkload
from pa_lite.study.measures import FEW_SHOT, FOLLOWING
from pa_lite.study.records import AnsweredItem, FinishedItem, FollowedItem, Record, ScoredItem
from pa_lite.study.unlabelled import AgreementWorkload, InstructWorkload, TextWorkload
from pa_lite.study.workload import CHARACTERS, GENERATED, Workload
from pa_lite.tasks.averages import cluster_numbers
from pa_lite.tasks.prompts import Prepared
from pa_lite.tasks.rendering import Item
from pa_lite.tasks.scoring import ScoreOptions, check_items, score_items

_R = TypeVar("_R", bound=FinishedItem)
_NOT_IN_DIGEST = ("folder", "description", "is_own", "cluster", "leave_one_out")  # keys of TaskSpec


@dataclass(frozen=True)
class TaskWorkload(Workload[ScoredItem]):
    """A few-shot task with prepared items: with several draws of exemplars, all items of the first, then of the next.

    `prepared` is the first draw, `more` are the others, which have the same items.
    """

    kind, activity, result, measure = "task", "few-shot", ScoredItem, FEW_SHOT
    summary_version = 2  # with clusters, all metrics, and the majority baseline of rows that are not scored
    prepared: Prepared
    options: ScoreOptions
    more: tuple[Prepared, ...] = ()

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.prepared.spec.name

    @property
    def seeds(self) -> int:
        """The number of draws of exemplars."""
        return 1 + len(self.more)

    @property
    def items(self) -> tuple[Item, ...]:
        """The items of all draws, in their order."""
        return tuple(chain(self.prepared.items, *(p.items for p in self.more)))

    @property
    def clusters(self) -> tuple[int, ...] | None:
        """The number of each item's cluster; None if all items are independent."""
        return cluster_numbers([i.cluster for i in self.prepared.items])

    @property
    def n_items(self) -> int:
        return self.seeds * len(self.prepared.items)

    @property
    def facts(self) -> Mapping[str, Any]:
        items = [[i.prompt_hash, i.contexts, i.continuations, i.answer, i.golds] for i in self.items]
        spec = {k: v for k, v in asdict(self.prepared.spec).items() if k not in _NOT_IN_DIGEST}
        options = {k: v for k, v in asdict(self.options).items() if k in ("mutual_info", "parallel")}
        seeds = {"seeds": self.seeds} if self.more else {}
        return {"items": digest(items), "spec": digest(spec), "shots": self.prepared.shots, **options, **seeds}

    @property
    def tokens_of_item(self) -> float:
        some = self.prepared.items[:100]  # the exemplars before the items are shared
        characters = [sum(len(c) for c in (*i.contexts, *i.continuations)) for i in some]
        answer = GENERATED * self.prepared.spec.max_tokens / 2 if self.prepared.spec.kind == "G" else 0.0
        return float(np.mean(characters)) / CHARACTERS + answer

    def check(self, model: Model) -> None:
        for prepared in (self.prepared, *self.more):
            check_items(model, prepared)

    def run(self, model: Model, items: Sequence[int], progress: Progress | None = None) -> dict[int, Record]:
        draws, n = (self.prepared, *self.more), len(self.prepared.items)
        part = replace(self.prepared, items=tuple(draws[i // n].items[i % n] for i in items))
        scored = score_items(model, part, self.options, progress).items
        return {
            i: {n: v for n, v in asdict(score).items() if n != "cluster" and v not in ((), [], {}, "", None)}
            for i, score in zip(items, scored, strict=True)
        }

    @classmethod
    def decode(cls, record: Any) -> ScoredItem:
        found = super().decode(record)
        if found.metric not in found.metrics:
            raise ValueError("'metrics' of record lacks the task's main metric")
        return found

    @staticmethod
    def value(result: ScoredItem) -> float:
        return float(result.metrics[result.metric])

    def summary(self, results: Sequence[ScoredItem]) -> dict[str, Any]:
        choices = [len(i.continuations) for i in self.prepared.items if i.continuations]
        chance = float(np.mean([1 / n for n in choices])) if choices else 0.0
        clusters = self.clusters
        own = self._average([self.value(r) for r in results], clusters)
        return {**super().summary(results), **own, "n": len(results) // self.seeds, "seeds": self.seeds,
                "area": self.prepared.spec.area, "majority": self.prepared.majority, "chance": chance,
                "truncated": sum(r.truncated for r in results), "metrics": self._other_metrics(results, clusters),
                **({"clusters": list(clusters)} if clusters else {})}  # fmt: skip

    def is_current(self, summary: Mapping[str, Any]) -> bool:
        clusters = self.clusters
        return super().is_current(summary) and summary.get("clusters") == (list(clusters) if clusters else None)

    def _average(self, values: Sequence[float], clusters: Sequence[int] | None) -> dict[str, float]:
        """Return the mean of a metric with its standard error, over draws of exemplars where there are several."""
        spread = spread_of_draws(np.reshape(values, (self.seeds, -1)), clusters)
        return {"value": float(np.mean(values)), "stderr": spread.stderr}

    def _other_metrics(self, results: Sequence[ScoredItem], clusters: Sequence[int] | None) -> dict[str, Any]:
        """Return the averages of the task's metrics, for every pattern that extracts answers, except its score."""
        keys = [k for k in results[0].metrics if all(k in r.metrics and k != r.metric for r in results)]
        return {
            key: self._average([float(r.metrics[key]) for r in results], clusters)
            for key in keys
            if key.partition(",")[0] in (*self.prepared.spec.metrics, self.prepared.spec.metric)
        }


@dataclass(frozen=True, kw_only=True)
class _Answered(Workload[_R]):
    """Common part of workloads whose instructions are answered greedily with up to `max_tokens` tokens.

    `chat` are resolved options; `chat_facts` is what they determine of the prompts.
    """

    name: str
    max_tokens: int
    parallel: int = 16
    chat: ChatOptions = field(default_factory=ChatOptions)
    chat_facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    @abstractmethod
    def texts(self) -> Sequence[tuple[str, ...]]:
        """The texts of each instruction that reach the model."""

    @property
    def n_items(self) -> int:
        return len(self.texts)

    @property
    def tokens_of_item(self) -> float:
        return GENERATED * self.max_tokens / 2

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"max_tokens": self.max_tokens, "parallel": self.parallel, **self.chat_facts}

    def check(self, model: Model) -> None:
        for number, texts in enumerate(self.texts, 1):
            for text in texts:
                model.check_text(text, f"{self.name}: instruction {number}", parse_special=True)


@dataclass(frozen=True, kw_only=True)
class FollowWorkload(_Answered[FollowedItem]):
    """Verifiable instructions, checked by rules; `must_end` as in `follow_instructions`."""

    kind, activity, result, measure = "follow", "instructions", FollowedItem, FOLLOWING
    summary_version = 2  # without answers that cannot be checked
    instructions: tuple[Instruction, ...]
    must_end: bool = True

    @property
    def texts(self) -> Sequence[tuple[str, ...]]:
        return [(i.text,) for i in self.instructions]

    @property
    def facts(self) -> Mapping[str, Any]:
        instructions = digest([asdict(i) for i in self.instructions])
        return {"instructions": instructions, "must_end": self.must_end, **super().facts}

    def run(self, model: Model, items: Sequence[int], progress: Progress | None = None) -> dict[int, Record]:
        part = [self.instructions[i] for i in items]
        limit = model.answer_tokens(self.max_tokens)  # as in `follow`, so that both measure the same
        found = follow_instructions(
            model, part, limit, must_end=self.must_end, parallel=self.parallel, chat=self.chat, progress=progress
        )
        return {i: a.document() for i, a in zip(items, found.answers, strict=True)}

    @staticmethod
    def value(result: FollowedItem) -> float:
        return float("nan") if result.followed is None else float(result.followed)

    def summary(self, results: Sequence[FollowedItem]) -> dict[str, Any]:
        unchecked = sum(r.followed is None for r in results)
        return {**super().summary(results), "unchecked": unchecked, "cut": sum(not r.ended for r in results)}


@dataclass(frozen=True, kw_only=True)
class AnswersWorkload(_Answered[AnsweredItem]):
    """Open-ended instructions as in AlpacaEval. Answers have no value until a judge compares them: `WinsWorkload`."""

    kind, activity, result = "answers", "answers", AnsweredItem
    prompts: tuple[Prompt, ...]

    @property
    def texts(self) -> Sequence[tuple[str, ...]]:
        return [(p.system, p.instruction) for p in self.prompts]

    @property
    def facts(self) -> Mapping[str, Any]:
        prompts = [[p.instruction, p.system] if p.system else p.instruction for p in self.prompts]
        return {"prompts": digest(prompts), **super().facts}

    def run(self, model: Model, items: Sequence[int], progress: Progress | None = None) -> dict[int, Record]:
        part = [self.prompts[i] for i in items]
        options = GenerationOptions(max_tokens=model.answer_tokens(self.max_tokens), parallel=self.parallel)
        answers = answer_prompts(model, part, options, self.chat, progress=progress)
        return {
            i: {
                "instruction": request(p.instruction, p.system),
                "output": g.text.strip(),
                "ended": g.ended,
                **({"reasoning": g.reasoning} if g.reasoning else {}),
            }
            for i, p, g in zip(items, part, answers, strict=True)
        }

    @staticmethod
    def value(result: AnsweredItem) -> float:
        return float("nan")

    def summary(self, results: Sequence[AnsweredItem]) -> dict[str, Any]:
        return {"version": self.summary_version, "n": len(results), "cut": sum(not r.ended for r in results),
                "mean_characters": float(np.mean([len(r.output) for r in results]))}  # fmt: skip


WORKLOADS: Mapping[str, type[Workload[Any]]] = {
    w.kind: w
    for w in (
        TaskWorkload,
        FollowWorkload,
        AnswersWorkload,
        WinsWorkload,
        CalibrationWorkload,
        TextWorkload,
        InstructWorkload,
        AgreementWorkload,
    )
}
