"""Workloads that need no right answers: plain text, and the greedy answers of the instruct model.

Text stands in for few-shot accuracy, and agreement with instruct's answers for following. Values are weighted: bits per
byte by bytes, what is per token by tokens, so that an average is the ratio of two sums.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from pa_lite.alpaca.content import request
from pa_lite.alpaca.journal import digest
from pa_lite.alpaca.prompts import Prompt, system_prompts
from pa_lite.engine.chat import chat_prompts
from pa_lite.engine.chat_options import ChatOptions
from pa_lite.engine.generation import GenerationOptions, generate_tokens
from pa_lite.engine.model import Model
from pa_lite.engine.requests import Request, rolling_requests
from pa_lite.engine.scoring import score_requests
from pa_lite.errors import InputError
from pa_lite.progress import Progress
from pa_lite.statistics import spread_of_mean
from pa_lite.study.measures import AGREEMENT, ANSWERS, TEXT, Measure
from pa_lite.study.records import AgreedItem, FinishedItem, InstructAnswer, Record, TextItem
from pa_lite.study.workload import CHARACTERS, GENERATED, Workload

_R = TypeVar("_R", bound=FinishedItem)
ANSWER_TOKENS = 128  # most new tokens of an answer of instruct's: the first ones tell most
ANSWER_NATS = "answer-nats"  # the name of the second value of `AgreementWorkload`


class _Weighted(Workload[_R]):
    """Common part of workloads whose items count by their length."""

    is_weighted = True

    @property
    def clusters(self) -> tuple[int, ...] | None:
        """The number of each item's cluster; None if all items are independent."""
        return None

    def summary(self, results: Sequence[_R]) -> dict[str, Any]:
        values, weights = [self.value(r) for r in results], [self.weight(r) for r in results]
        spread = spread_of_mean(values, self.clusters, weights)
        value = float(np.average(values, weights=weights))
        clusters = {} if self.clusters is None else {"clusters": list(self.clusters)}
        return {"version": self.summary_version, "n": len(results), "value": value, "stderr": spread.stderr, **clusters}

    def is_current(self, summary: Mapping[str, Any]) -> bool:
        clusters = None if self.clusters is None else list(self.clusters)
        return super().is_current(summary) and summary.get("clusters") == clusters


@dataclass(frozen=True, kw_only=True)
class TextWorkload(_Weighted[TextItem]):
    """Passages of plain text, each scored in windows of up to `window` tokens that start with the prefix token.

    `document_of` has the number of each passage's document where documents are what varies, else it is None.
    """

    kind, activity, result, measure = "text", "text", TextItem, TEXT
    name: str
    passages: tuple[str, ...]
    window: int
    document_of: tuple[int, ...] | None = None

    @property
    def clusters(self) -> tuple[int, ...] | None:
        return self.document_of

    @property
    def n_items(self) -> int:
        return len(self.passages)

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"text": digest(self.passages), "window": self.window}

    @property
    def tokens_of_item(self) -> float:
        return float(np.mean([len(p) for p in self.passages])) / CHARACTERS

    def check(self, model: Model) -> None:
        for number, passage in enumerate(self.passages, 1):
            model.check_text(passage, f"{self.name}: window {number}")

    def run(self, model: Model, items: Sequence[int], progress: Progress | None = None) -> dict[int, Record]:
        length = min(self.window, model.max_length)
        windows = {i: rolling_requests(model, self.passages[i], length) for i in items}
        scores = iter(score_requests(model, [r for each in windows.values() for r in each], progress))
        records = {}
        for i, each in windows.items():
            found = [next(scores) for _ in each]
            records[i] = {
                "nats": max(0.0, -math.fsum(s.logprob for s in found)),
                "n_tokens": sum(s.n_tokens for s in found),
                "n_bytes": len(self.passages[i].encode("utf-8")),
            }
        return records

    @staticmethod
    def value(result: TextItem) -> float:
        return result.nats / math.log(2) / result.n_bytes

    @staticmethod
    def weight(result: TextItem) -> float:
        return float(result.n_bytes)

    @property
    def mean_weight(self) -> float:
        return float(np.mean([len(p.encode("utf-8")) for p in self.passages]))


@dataclass(frozen=True, kw_only=True)
class InstructWorkload(Workload[InstructAnswer]):
    """Prompts that the instruct model answers greedily, once; its answers are what `AgreementWorkload` scores.

    `chat` are resolved options; `chat_facts` is what they determine of the prompts.
    """

    kind, activity, result, is_along_lam = "instruct", "instruct's answers", InstructAnswer, False
    name: str
    prompts: tuple[Prompt, ...]
    chat: ChatOptions
    chat_facts: Mapping[str, Any]
    parallel: int = 16

    @property
    def n_items(self) -> int:
        return len(self.prompts)

    @property
    def facts(self) -> Mapping[str, Any]:
        prompts = [[p.instruction, p.system] if p.system else p.instruction for p in self.prompts]
        limits = {"max_tokens": ANSWER_TOKENS, "parallel": self.parallel}
        return {"prompts": digest(prompts), **limits, **self.chat_facts}

    @property
    def tokens_of_item(self) -> float:
        return GENERATED * ANSWER_TOKENS / 2

    def check(self, model: Model) -> None:
        for number, prompt in enumerate(self.prompts, 1):
            for text in (prompt.system, prompt.instruction):
                model.check_text(text, f"{self.name}: prompt {number}", parse_special=True)

    def run(self, model: Model, items: Sequence[int], progress: Progress | None = None) -> dict[int, Record]:
        part = [self.prompts[i] for i in items]
        chats = chat_prompts(model, [p.instruction for p in part], self.chat, system_prompts(part, self.chat.system))
        limit = model.answer_tokens(ANSWER_TOKENS)
        self._check_lengths(model, items, [len(tokens) for tokens in chats.tokens], limit)
        options = GenerationOptions(max_tokens=limit, parallel=self.parallel)
        made = generate_tokens(model, chats.tokens, options, progress, chats.reasoning)
        return {
            i: {
                "instruction": request(p.instruction, p.system),
                "output": answer.generation.text.strip(),
                "ended": answer.generation.ended,
                "context": list(context),
                "tokens": list(answer.tokens),
            }
            for i, p, context, answer in zip(items, part, chats.tokens, made, strict=True)
        }

    def _check_lengths(self, model: Model, items: Sequence[int], lengths: Sequence[int], limit: int) -> None:
        for i, length in zip(items, lengths, strict=True):
            if length + limit > model.max_length:
                raise InputError(
                    f"{self.name}: prompt {i + 1} has {length} tokens; with an answer of {limit} they exceed the "
                    f"context of {model.max_length} tokens. Shorten it or leave it out."
                )

    @staticmethod
    def value(_result: InstructAnswer) -> float:
        return float("nan")

    def summary(self, results: Sequence[InstructAnswer]) -> dict[str, Any]:
        return {"version": self.summary_version, "n": len(results), "cut": sum(not r.ended for r in results)}


@dataclass(frozen=True, kw_only=True)
class AgreementWorkload(_Weighted[AgreedItem]):
    """Instruct's answers as a model at some lam predicts them: token by token, after the same prompt and answer so far.

    `answers` are those of an `InstructWorkload` with `n_prompts` prompts; None before they are known, when nothing can
    be run. Some of them can be missing for an estimate, which runs only the first.
    """

    kind, activity, result, measure = "agreement", "agreement", AgreedItem, AGREEMENT
    name: str
    n_prompts: int
    answers: tuple[InstructAnswer, ...] | None = None

    @property
    def n_items(self) -> int:
        return self.n_prompts

    @property
    def facts(self) -> Mapping[str, Any]:
        if self.answers is None:
            return {"answers": None}
        return {"answers": digest([[list(a.context), list(a.tokens)] for a in self.answers])}

    @property
    def tokens_of_item(self) -> float:
        if self.answers is None:
            return ANSWER_TOKENS
        return float(np.mean([len(a.context) + len(a.tokens) for a in self.answers]))

    def check(self, model: Model) -> None:
        for number, answer in enumerate(self.answers or (), 1):
            tokens = [*answer.context, *answer.tokens]
            if max(tokens) >= model.n_vocab or len(tokens) > model.max_length + 1:
                raise InputError(
                    f"{self.name}: the stored answer {number} of instruct is not one of this model's. Use another run "
                    "folder (--run)."
                )

    def run(self, model: Model, items: Sequence[int], progress: Progress | None = None) -> dict[int, Record]:
        assert self.answers is not None
        part = [self.answers[i] for i in items]
        scores = score_requests(model, [Request((*a.context, *a.tokens), len(a.context)) for a in part], progress)
        return {
            i: {"nats": max(0.0, -s.logprob), "n_tokens": s.n_tokens, "n_agreed": s.n_greedy}
            for i, s in zip(items, scores, strict=True)
        }

    @classmethod
    def decode(cls, record: Any) -> AgreedItem:
        found = super().decode(record)
        if not 0 <= found.n_agreed <= found.n_tokens or not found.n_tokens:
            raise ValueError("'n_agreed' of record is not a part of at least one token")
        return found

    @staticmethod
    def value(result: AgreedItem) -> float:
        return result.n_agreed / result.n_tokens

    @staticmethod
    def weight(result: AgreedItem) -> float:
        return float(result.n_tokens)

    @property
    def mean_weight(self) -> float:
        return float(np.mean([len(a.tokens) for a in self.answers])) if self.answers else 1.0

    @classmethod
    def measures(cls) -> Mapping[str, Measure]:
        return {cls.kind: AGREEMENT, ANSWER_NATS: ANSWERS}

    @classmethod
    def values(cls, result: AgreedItem) -> Mapping[str, float]:
        return {cls.kind: cls.value(result), ANSWER_NATS: result.nats / result.n_tokens}

    def of(self, answers: Sequence[InstructAnswer]) -> AgreementWorkload:
        """Return the workload with instruct's answers."""
        return replace(self, answers=tuple(answers))
