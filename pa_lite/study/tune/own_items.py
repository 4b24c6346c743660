"""The items of a tuning: those that choose the lam, and those held out to measure what was written.

Besides right or wrong, items that choose have the probability that the model gives to the right answer, after the same
prompt. With some tens of items it says more about a lam than the share of right answers does: it moves a little at
every lam, where answers flip at few.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pa_lite.engine.model import Model
from pa_lite.engine.scoring import make_requests, score_requests
from pa_lite.errors import InputError
from pa_lite.progress import Progress
from pa_lite.study.records import Record
from pa_lite.study.unlabelled import TextWorkload
from pa_lite.study.workloads import TaskWorkload
from pa_lite.tasks.prompts import prepare_parts
from pa_lite.tasks.rendering import Item
from pa_lite.tasks.scoring import ScoreOptions
from pa_lite.tasks.spec import TaskSpec

HELD_OUT = 0.25  # of the items
_LEAST, _MOST = 2, 200  # items held out of one task, or windows of a text
LIKELIHOOD = "likelihood"  # the key of a record: the probability of the right answer


class LikelyTask(TaskWorkload):
    """A few-shot task whose records also have the probability of the right answer, in [0, 1]."""

    @property
    def facts(self) -> Mapping[str, Any]:
        return {**super().facts, LIKELIHOOD: True}

    def run(self, model: Model, items: Sequence[int], progress: Progress | None = None) -> dict[int, Record]:
        records = super().run(model, items, progress)
        if self.prepared.spec.kind == "G":
            stop = self.prepared.spec.stop[:1]
            texts = ["".join((_solved(self.prepared.spec, self.items[i]), *stop)) for i in items]
            requests = [make_requests(model, self.items[i].prompt, [t])[0] for i, t in zip(items, texts, strict=True)]
            found = [score.logprob for score in score_requests(model, requests)]
        else:
            found = [records[i]["logprobs"][records[i]["answer"]] for i in items]
        probable = (math.exp(min(0.0, logprob)) for logprob in found)
        return {i: {**records[i], LIKELIHOOD: p} for i, p in zip(items, probable, strict=True)}


def _solved(spec: TaskSpec, item: Item) -> str:
    """Return the right answer as it follows an item's prompt."""
    if item.continuations:
        return item.continuations[item.answer]
    return spec.delimiter + ", ".join(item.golds[0])


def solved_rows(workload: TaskWorkload) -> list[str]:
    """Return each item with its right answer, without exemplars before it, as one more line of a few-shot prompt."""
    out = []
    for item in workload.prepared.items:
        context = item.contexts[item.answer if len(item.contexts) > 1 else 0]
        out.append(context + _solved(workload.prepared.spec, item))
    return out


def likelihoods(records: Sequence[Record]) -> list[float]:
    """Return the probabilities of the right answers. Raises InputError for a record without one."""
    found = [record.get(LIKELIHOOD) for record in records]
    if not all(isinstance(p, float) and 0 <= p <= 1 for p in found):
        raise InputError("the results of this tuning are damaged: delete its folder, and run it again.")
    return [float(p) for p in found if p is not None]


def split_task(spec: TaskSpec, options: ScoreOptions, seed: int) -> tuple[LikelyTask, TaskWorkload]:
    """Return a task's items that choose, and those held out: a quarter, at random by seed, at most 200.

    Items that ask the same, or share a passage, are on one side. Raises InputError as `prepare_task`, and for a task
    with too few different items.
    """

    def apart(items: Sequence[Item]) -> Collection[int]:
        keys = [item.cluster or " ".join(item.key.casefold().split()) for item in items]
        return held_out(keys, seed, spec.name)

    kept, others = prepare_parts(spec, apart, options.shots, options.limit, options.seed, options.split)
    return LikelyTask(kept, options), TaskWorkload(others, options)


def split_text(workload: TextWorkload, seed: int) -> tuple[TextWorkload, TextWorkload]:
    """Return a text's windows that choose, and those held out, as `split_task` does; documents stay whole."""
    names = workload.document_of or tuple(range(workload.n_items))
    gone = held_out([str(name) for name in names], seed, workload.name)
    parts = []
    for is_held in (False, True):
        mine = [i for i in range(workload.n_items) if (i in gone) == is_held]
        of = None if workload.document_of is None else tuple(workload.document_of[i] for i in mine)
        parts.append(replace(workload, passages=tuple(workload.passages[i] for i in mine), document_of=of))
    return parts[0], parts[1]


def held_out(keys: Sequence[str], seed: int, name: str) -> set[int]:
    """Return the indices of the items held out: whole groups of the same key, in a random order, up to a quarter."""
    groups: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    if len(groups) < 2 * _LEAST:
        raise InputError(f"{name}: has {len(groups)} different items to choose by; at least {2 * _LEAST} are required.")
    wanted = min(_MOST, max(_LEAST, round(HELD_OUT * len(keys))))
    order = np.random.default_rng([seed, len(keys)]).permutation(len(groups))
    each, found = list(groups.values()), set[int]()
    for i in order[: len(groups) - _LEAST]:
        if len(found) >= wanted:
            break
        found.update(each[i])
    return found
