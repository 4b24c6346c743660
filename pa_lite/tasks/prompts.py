"""Rows of a task's data become prompts: splits, exemplars, templates. Knows no model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import jinja2.sandbox
import numpy as np

from pa_lite.checkpoints.pairs import models_folder
from pa_lite.errors import InputError
from pa_lite.tasks.spec import TaskSpec

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Item:
    """A row ready to be scored: its place in the split, the whole prompt, the continuations, the right one's index."""

    index: int
    prompt: str
    continuations: tuple[str, ...]
    answer: int
    row: Row


def data_path(spec: TaskSpec) -> Path:
    """Where the task's rows lie."""
    if spec.data.startswith("models:"):
        return models_folder() / spec.data.removeprefix("models:")
    return spec.folder / spec.data


def load_rows(spec: TaskSpec) -> dict[str, list[Row]]:
    """The task's rows by split. Raises InputError, naming file, line and column, for the first row that is wrong."""
    path = data_path(spec)
    splits: dict[str, list[Row]] = {}
    try:
        with path.open(encoding="utf-8") as f:
            for number, line in enumerate(f, 1):
                if line.strip():
                    row = _row(line, f"{path}:{number}")
                    splits.setdefault(row["split"], []).append(row)
    except OSError as e:
        raise InputError(f"{path}: data of task {spec.name} cannot be read: {e.strerror}.") from e
    except UnicodeDecodeError as e:
        raise InputError(f"{path}: data of task {spec.name} is no UTF-8: {e}.") from e
    return splits


def _row(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as e:
        raise InputError(f"{where}: is no JSON: {e}.") from e
    if not isinstance(row, dict):
        raise InputError(f"{where}: is no JSON object.")
    for column in ("split", "choices", "answer"):
        if column not in row:
            raise InputError(f"{where}: has no column {column!r}.")
    choices, answer = row["choices"], row["answer"]
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c for c in choices):
        raise InputError(f"{where}: choices must be two or more texts.")
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise InputError(f"{where}: answer is {answer!r}, but must be a choice's index, 0 to {len(choices) - 1}.")
    if not isinstance(row["split"], str):
        raise InputError(f"{where}: split must be a text.")
    return row


def build_items(
    spec: TaskSpec, shots: int | None = None, limit: int | None = None, seed: int = 0, split: str | None = None
) -> list[Item]:
    """The task's items in file order, at most `limit`, each behind the same exemplars.

    Exemplars are drawn from the shots split by `seed` and shared by all items; where the two splits are one, drawn rows
    are not scored. Raises InputError when rows, exemplars or columns are missing or the template fails.
    """
    splits, split = load_rows(spec), split or spec.split
    n_shots = spec.shots if shots is None else shots
    if not splits.get(split):
        raise InputError(f"{data_path(spec)}: has no rows of split {split!r}; it has {', '.join(sorted(splits))}.")
    # a task whose rows bring their own exemplars has no split to draw from, and --shots does not concern it
    pool = splits.get(spec.shots_split, [])
    if spec.shots == 0 and not pool:
        n_shots = 0
    if n_shots > len(pool):
        raise InputError(
            f"{data_path(spec)}: {n_shots} shots asked for, split {spec.shots_split!r} has {len(pool)} rows."
        )
    chosen = [pool[i] for i in np.random.default_rng(seed).permutation(len(pool))[:n_shots]]
    try:
        template = jinja2.sandbox.ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined).from_string(
            spec.template
        )
    except jinja2.TemplateError as e:
        raise InputError(f"task {spec.name}: its template is broken: {e}.") from e
    lead = "".join(
        _render(template, spec, row) + " " + row["choices"][row["answer"]] + spec.separator for row in chosen
    )
    rows = [row for row in splits[split] if not any(row is c for c in chosen)][:limit]
    return [
        Item(i, lead + _render(template, spec, row), tuple(f" {c}" for c in row["choices"]), row["answer"], row)
        for i, row in enumerate(rows)
    ]


def _render(template: jinja2.Template, spec: TaskSpec, row: Row) -> str:
    try:
        return template.render(**row)
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, AttributeError) as e:
        raise InputError(f"{data_path(spec)}: the template of task {spec.name} fails on a row: {e}.") from e


def majority_rate(items: Sequence[Item]) -> float:
    """The accuracy of always giving the answer text that is most often right."""
    texts = [item.continuations[item.answer] for item in items]
    return max(texts.count(t) for t in set(texts)) / len(texts)
