"""What a cell does to a loaded model: score a task's items, or have instructions followed. Items in, records out.

A chunk is always scored in one piece: the same items lie in the same batches, so that a record does not depend on where
a run was stopped and taken up again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from pa_lite.alpaca.content import request
from pa_lite.alpaca.journal import digest
from pa_lite.alpaca.outputs import answer_prompts
from pa_lite.alpaca.prompts import Prompt
from pa_lite.engine.chat_options import ChatOptions
from pa_lite.engine.generation import GenerationOptions
from pa_lite.engine.model import Model
from pa_lite.instructions.following import Instruction, follow_instructions
from pa_lite.statistics import standard_error
from pa_lite.tasks.prompts import Prepared, majority_rate
from pa_lite.tasks.scoring import ScoreOptions, check_items, score_items

Record = dict[str, Any]


class Workload(Protocol):
    """One task or set of instructions. `facts` are JSON values that, with the model, decide every record."""

    @property
    def kind(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def area(self) -> str: ...

    @property
    def n_items(self) -> int: ...

    @property
    def facts(self) -> Mapping[str, Any]: ...

    def check(self, model: Model) -> None:
        """Raise TextError, naming the item, for a text of any item that the model's tokenizer cannot take."""
        ...

    def run(self, model: Model, items: Sequence[int]) -> dict[int, Record]:
        """Records of the items, by number. Raises what scoring and generating raise."""
        ...

    def value(self, record: Record) -> float:
        """What a record adds to the average, in [0, 1]."""
        ...

    def summary(self, records: Sequence[Record]) -> dict[str, Any]:
        """What a finished cell's records come to."""
        ...


def chunks(n_items: int, size: int) -> Iterator[range]:
    """Cut items into chunks of `size`; which items share one depends on nothing else."""
    for start in range(0, n_items, size):
        yield range(start, min(n_items, start + size))


def _average(values: Sequence[float]) -> dict[str, Any]:
    return {"n": len(values), "value": float(np.mean(values)), "stderr": standard_error(values)}


def _slim(record: Mapping[str, Any]) -> Record:
    """A record without the fields that are empty."""
    return {name: value for name, value in record.items() if value not in ((), [], {}, "", None)}


def _reasoned(text: str) -> Record:
    return {"reasoning": text} if text else {}


@dataclass(frozen=True)
class TaskWorkload:
    """A few-shot task whose items are ready."""

    prepared: Prepared
    options: ScoreOptions
    kind: str = "task"

    @property
    def name(self) -> str:
        return self.prepared.spec.name

    @property
    def area(self) -> str:
        return self.prepared.spec.area

    @property
    def n_items(self) -> int:
        return len(self.prepared.items)

    @property
    def facts(self) -> Mapping[str, Any]:
        items = [[i.prompt_hash, i.contexts, i.continuations, i.answer, i.golds] for i in self.prepared.items]
        spec = {k: v for k, v in asdict(self.prepared.spec).items() if k not in ("folder", "description", "is_own")}
        options = {k: v for k, v in asdict(self.options).items() if k in ("mutual_info", "parallel")}
        return {"items": digest(items), "spec": digest(spec), "shots": self.prepared.shots, **options}

    def check(self, model: Model) -> None:
        check_items(model, self.prepared)

    def run(self, model: Model, items: Sequence[int]) -> dict[int, Record]:
        part = replace(self.prepared, items=tuple(self.prepared.items[i] for i in items))
        scored = score_items(model, part, self.options).items
        return {i: _slim(asdict(s)) for i, s in zip(items, scored, strict=True)}

    def value(self, record: Record) -> float:
        return float(record["metrics"][record["metric"]])

    def summary(self, records: Sequence[Record]) -> dict[str, Any]:
        choices = [len(i.continuations) for i in self.prepared.items if i.continuations]
        chance = float(np.mean([1 / n for n in choices])) if choices else 0.0
        out = _average([self.value(r) for r in records])
        return {**out, "area": self.area, "majority": majority_rate(self.prepared.items), "chance": chance,
                "truncated": sum(r.get("truncated", False) for r in records)}  # fmt: skip


@dataclass(frozen=True)
class FollowWorkload:
    """Verifiable instructions, answered greedily and checked by rules; `must_end` as in `follow_instructions`.

    `chat` are settled options, `chat_facts` what of them decides the prompts.
    """

    name: str
    instructions: tuple[Instruction, ...]
    max_tokens: int
    must_end: bool = True
    parallel: int = 16
    chat: ChatOptions = field(default_factory=ChatOptions)
    chat_facts: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "follow"
    area: str = "following"

    @property
    def n_items(self) -> int:
        return len(self.instructions)

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"instructions": digest([asdict(i) for i in self.instructions]), "max_tokens": self.max_tokens,
                "must_end": self.must_end, "parallel": self.parallel, **self.chat_facts}  # fmt: skip

    def check(self, model: Model) -> None:
        for number, instruction in enumerate(self.instructions, 1):
            model.check_text(instruction.text, f"{self.name}: instruction {number}", parse_special=True)

    def run(self, model: Model, items: Sequence[int]) -> dict[int, Record]:
        part = [self.instructions[i] for i in items]
        most = model.answer_tokens(self.max_tokens)  # as `follow` does, so that the two measure the same
        found = follow_instructions(model, part, most, must_end=self.must_end, parallel=self.parallel, chat=self.chat)
        return {i: a.document() for i, a in zip(items, found.answers, strict=True)}

    def value(self, record: Record) -> float:
        return float(bool(record["followed"]))

    def summary(self, records: Sequence[Record]) -> dict[str, Any]:
        return {**_average([self.value(r) for r in records]), "cut": sum(not r["ended"] for r in records)}


@dataclass(frozen=True)
class AnswersWorkload:
    """Instructions of AlpacaEval's kind, answered greedily; a judge compares the answers when all lams have theirs.

    `chat` are settled options, `chat_facts` what of them decides the prompts.
    """

    name: str
    prompts: tuple[Prompt, ...]
    max_tokens: int
    parallel: int = 16
    chat: ChatOptions = field(default_factory=ChatOptions)
    chat_facts: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "answers"
    area: str = "following"

    @property
    def n_items(self) -> int:
        return len(self.prompts)

    @property
    def facts(self) -> Mapping[str, Any]:
        asked = [[p.instruction, p.system] if p.system else p.instruction for p in self.prompts]
        return {"prompts": digest(asked), "max_tokens": self.max_tokens,
                "parallel": self.parallel, **self.chat_facts}  # fmt: skip

    def check(self, model: Model) -> None:
        for number, prompt in enumerate(self.prompts, 1):
            for text in (prompt.system, prompt.instruction):
                model.check_text(text, f"{self.name}: instruction {number}", parse_special=True)

    def run(self, model: Model, items: Sequence[int]) -> dict[int, Record]:
        part = [self.prompts[i] for i in items]
        options = GenerationOptions(max_tokens=model.answer_tokens(self.max_tokens), parallel=self.parallel)
        made = answer_prompts(model, part, options, self.chat)
        return {
            i: {
                "instruction": request(p.instruction, p.system),
                "output": g.text.strip(),
                "ended": g.ended,
                **_reasoned(g.reasoning),
            }
            for i, p, g in zip(items, part, made, strict=True)
        }

    def value(self, record: Record) -> float:
        return float(record["ended"])

    def summary(self, records: Sequence[Record]) -> dict[str, Any]:
        return {"n": len(records), "cut": sum(not r["ended"] for r in records),
                "mean_characters": float(np.mean([len(r["output"]) for r in records]))}  # fmt: skip
