"""Workloads: what is measured in a cell, and how items are run, their records read, and their values summarised.

`run` turns items into records, which are stored as JSON; `decode` turns a stored record into a typed result; `value` is
the result's number in an average; `summary` describes a finished cell. Code that runs, loads, exports or reports a
study uses these methods and never distinguishes the workloads.

A chunk is always run as a whole, so that the same items share a batch and records do not depend on where a run was
stopped and resumed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from pa_lite.alpaca.annotations import Annotations, Judgement
from pa_lite.alpaca.content import request
from pa_lite.alpaca.journal import digest
from pa_lite.alpaca.judge import JudgeOptions, Verdict, judge_pairs
from pa_lite.alpaca.known import key_of
from pa_lite.alpaca.outputs import answer_prompts, generator_name
from pa_lite.alpaca.pairing import AnswerPair
from pa_lite.alpaca.prompts import Prompt
from pa_lite.alpaca.win_rate import find_length_data, win_rate
from pa_lite.engine.chat_options import ChatOptions
from pa_lite.engine.generation import GenerationOptions
from pa_lite.engine.model import Model
from pa_lite.instructions.following import Instruction, follow_instructions
from pa_lite.progress import Progress
from pa_lite.statistics import spread_of_mean, spread_over_seeds, standard_error
from pa_lite.study.judges import Judge
from pa_lite.study.measures import FEW_SHOT, FOLLOWING, PREFERRED, Measure
from pa_lite.study.records import AnsweredItem, FinishedItem, FollowedItem, JudgedItem, Record, ScoredItem, read_result
from pa_lite.tasks.averages import cluster_numbers
from pa_lite.tasks.prompts import Prepared
from pa_lite.tasks.rendering import Item
from pa_lite.tasks.scoring import ScoreOptions, check_items, score_items

_R = TypeVar("_R", bound=FinishedItem)
_NOT_IN_DIGEST = (
    "folder",
    "description",
    "is_own",
    "cluster",
)  # keys of TaskSpec


class Workload(ABC, Generic[_R]):
    """A task, instruction set or set of judged pairs. Model and `facts` (JSON values) determine every record.

    `kind` is its name in the results file, `activity` that in progress; `measure` is the measure that its values belong
    to, if any; `judge`, if any, runs it instead of the study's model. Without `is_along_lam` it is run once, not at
    every lam. `summary_version` increases when `summary` gives more or other values, so that finished cells of older
    versions get a new summary from their records.
    """

    kind: ClassVar[str]
    activity: ClassVar[str]
    result: ClassVar[type[Any]]
    measure: ClassVar[Measure | None] = None
    summary_version: ClassVar[int] = 1
    is_along_lam: ClassVar[bool] = True
    name: str

    @property
    def judge(self) -> Judge | None:
        return None

    @property
    @abstractmethod
    def n_items(self) -> int:
        """The number of items."""

    @property
    @abstractmethod
    def facts(self) -> Mapping[str, Any]:
        """Everything that, with the model, determines the records."""

    @property
    @abstractmethod
    def tokens_of_item(self) -> float:
        """The approximate number of tokens that an item takes, each generated one counted as several."""

    @abstractmethod
    def check(self, model: Model) -> None:
        """Raise TextError, naming the item, for a text that the model's tokenizer cannot encode."""

    @abstractmethod
    def run(self, model: Model, items: Sequence[int], progress: Progress | None = None) -> dict[int, Record]:
        """Return the items' records, by number. Raises what scoring and generating raise.

        `progress` gets the requests or answers done of these items.
        """

    @classmethod
    def decode(cls, record: Any) -> _R:
        """Return a stored record as a typed result. Raises ValueError for one that `run` cannot have made."""
        result: _R = read_result(cls.result, record)
        return result

    @staticmethod
    @abstractmethod
    def value(result: _R) -> float:
        """Return a result's value in the average, in [0, 1]; NaN where it has none."""

    def summary(self, results: Sequence[_R]) -> dict[str, Any]:
        """Return the summary of a finished cell's results, as JSON values; `version` is that of the summary."""
        values = [value for value in map(self.value, results) if value == value]
        average = float(np.mean(values)) if values else float("nan")
        spread = {"value": average, "stderr": standard_error(values)}
        return {"version": self.summary_version, "n": len(values), **spread}


_CHARACTERS = 4  # of a token, about
_GENERATED = 4  # a generated token costs about as much as this many tokens of a prompt


def chunks(n_items: int, size: int) -> Iterator[range]:
    """Divide items into chunks of `size`; the division depends on nothing else."""
    for start in range(0, n_items, size):
        yield range(start, min(n_items, start + size))


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
        return sum((p.items for p in self.more), self.prepared.items)

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
        answer = _GENERATED * self.prepared.spec.max_tokens / 2 if self.prepared.spec.kind == "G" else 0.0
        return float(np.mean(characters)) / _CHARACTERS + answer

    def check(self, model: Model) -> None:
        for prepared in (self.prepared, *self.more):
            check_items(model, prepared)

    def run(self, model: Model, items: Sequence[int], progress: Progress | None = None) -> dict[int, Record]:
        all_items = self.items
        part = replace(self.prepared, items=tuple(all_items[i] for i in items))
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
        clusters = cluster_numbers([i.cluster for i in self.prepared.items])
        own = self._average([self.value(r) for r in results], clusters)
        return {**super().summary(results), **own, "n": len(results) // self.seeds, "seeds": self.seeds,
                "area": self.prepared.spec.area, "majority": self.prepared.majority, "chance": chance,
                "truncated": sum(r.truncated for r in results), "metrics": self._other_metrics(results, clusters),
                **({"clusters": list(clusters)} if clusters else {})}  # fmt: skip

    def _average(self, values: Sequence[float], clusters: Sequence[int] | None) -> dict[str, float]:
        """Return the mean of a metric with its standard error, over draws of exemplars where there are several."""
        if self.more:
            spread = spread_over_seeds(np.reshape(values, (self.seeds, -1)), clusters)
        else:
            spread = spread_of_mean(values, clusters)
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
        return _GENERATED * self.max_tokens / 2

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


@dataclass(frozen=True, kw_only=True)
class _Judged(Workload[JudgedItem]):
    """Common part of workloads in which a judge compares the two answers of each pair to `answers`, a set's name."""

    result = JudgedItem
    answers: str
    decider: Judge
    pairs: tuple[AnswerPair, ...]

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.answers}, judged by {generator_name(self.decider.reference)}"

    @property
    def pair_keys(self) -> list[str]:
        """The key of every pair, by which known preferences are found."""
        return [key_of(pair) for pair in self.pairs]

    @property
    def judge(self) -> Judge:
        return self.decider

    @property
    def n_items(self) -> int:
        return len(self.pairs)

    @property
    def tokens_of_item(self) -> float:
        some = self.pairs[:100]
        characters = [len(p.instruction) + len(p.reference) + len(p.model) for p in some]
        return 2 * float(np.mean(characters)) / _CHARACTERS  # both orders

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"pairs": digest([asdict(p) for p in self.pairs]), "options": asdict(JudgeOptions())}

    def check(self, model: Model) -> None:
        """Accept all: a pair that the judge's tokenizer cannot encode is recorded as not judged."""

    def run(self, model: Model, items: Sequence[int], progress: Progress | None = None) -> dict[int, Record]:
        verdicts: dict[int, Verdict] = {}
        part = [self.pairs[i] for i in items]
        judge_pairs(model, part, JudgeOptions(), verdicts.__setitem__, progress, chat=self.decider.chat)
        return {i: {"instruction": part[k].instruction, **asdict(verdicts[k])} for k, i in enumerate(items)}

    @staticmethod
    def value(result: JudgedItem) -> float:
        return float("nan") if result.preference is None else float(result.preference) - 1

    def summary(self, results: Sequence[JudgedItem]) -> dict[str, Any]:
        out = super().summary(results)
        return {**out, "unjudged": len(results) - out["n"], "pairs": self.pair_keys}


@dataclass(frozen=True, kw_only=True)
class CalibrationWorkload(_Judged):
    """Pairs with known preferences, with which the judge is compared; `answers` names their file."""

    kind, activity, is_along_lam = "calibration", "calibrating", False


@dataclass(frozen=True, kw_only=True)
class WinsWorkload(_Judged):
    """One lam's answers compared with a reference's by a judge; `model` and `reference` name their authors.

    `datasets` are the sources of the instructions; AlpacaEval's allow the full length-controlled win rate.
    """

    kind, activity, measure = "wins", "judging", PREFERRED
    summary_version = 3  # 2: with the length-controlled win rate; 3: with the keys of the pairs
    model: str
    reference: str
    datasets: frozenset[str] = frozenset()

    def summary(self, results: Sequence[JudgedItem]) -> dict[str, Any]:
        return {**super().summary(results), "length_controlled": self._control(results)}

    def _control(self, results: Sequence[JudgedItem]) -> dict[str, Any]:
        """Return the length-controlled win rate in [0, 1], NaN if unknown, with its form and note from `win_rate`."""
        judged = tuple(
            Judgement(instruction=p.instruction, output_1=p.reference, output_2=p.model, preference=r.preference)
            for p, r in zip(self.pairs, results, strict=True)
        )
        out: dict[str, Any] = dict.fromkeys(("value", "stderr", "fit_stderr"), float("nan"))
        if all(j.preference is None for j in judged):
            return {**out, "form": None, "note": "no pair was judged"}
        annotations = Annotations(
            model=self.model,
            reference=self.reference,
            annotator=self.decider.reference,
            judgements=judged,
            datasets=self.datasets,
        )
        rate = win_rate(annotations, *find_length_data(annotations))
        if rate.length_controlled is not None:
            out = {name: getattr(rate.length_controlled, name) / 100 for name in out}
        return {**out, "form": rate.length_controlled_form, "note": rate.length_controlled_note}


WORKLOADS: Mapping[str, type[Workload[Any]]] = {
    w.kind: w for w in (TaskWorkload, FollowWorkload, AnswersWorkload, WinsWorkload, CalibrationWorkload)
}
