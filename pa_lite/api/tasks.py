"""Few-shot tasks: suites and task specifications, single items, results files, and lm-eval's tasks."""

from __future__ import annotations

import builtins
import json
from collections.abc import Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pa_lite.api.options import ChatOptions, EngineOptions, ModelLike, Names, Progress, fill, model_type, resolve_model
from pa_lite.errors import InputError
from pa_lite.instructions.following import FollowResult
from pa_lite.sanitize import without_nonfinite
from pa_lite.statistics import Measured
from pa_lite.system.atomic import check_target, write_text
from pa_lite.tasks.examples import Examples, as_examples, column_names, examples_task
from pa_lite.tasks.lm_eval.config import lm_eval_parser, parse_words, read_config
from pa_lite.tasks.lm_eval.options import HarnessOptions
from pa_lite.tasks.lm_eval.run import HarnessResult, run_harness
from pa_lite.tasks.prompts import prepare_task
from pa_lite.tasks.rendering import Item
from pa_lite.tasks.results import (
    check_samples_target,
    noise_over_tasks,
    results_document,
    shown_metrics,
    spec_record,
    write_samples,
)
from pa_lite.tasks.scoring import SuiteResult
from pa_lite.tasks.spec import TaskSpec, find_tasks, split_names, suite_descriptions, suites
from pa_lite.tasks.task_file import task_text

if TYPE_CHECKING:
    from lm_eval.config.evaluate_config import EvaluatorConfig

__all__ = [
    "Examples", "HarnessOptions", "HarnessResult", "Item", "Measured", "SuiteResult", "TaskSpec",
    "check_samples_target", "check_target", "column_names", "follow_document", "harness", "lm_eval_parser",
    "new_task", "noise_over_tasks", "parse_words", "read_config", "results_document", "shown_metrics", "spec_record",
    "split_names", "suite_descriptions", "suites", "task_item", "write_document", "write_samples",
]  # fmt: skip


def task_item(name: str, item: int = 0, *, shots: int | None = None, seed: int = 0) -> tuple[TaskSpec, Item]:
    """Return a task's specification, and its item number `item` (from 0) as the model sees it.

    `name` is a task, TASK/GROUP, or a .toml file with one task. Raises PaLiteError.
    """
    found = find_tasks([name])
    if len(found) != 1:
        raise InputError(f"{name} has {len(found)} tasks: name one of {', '.join(s.name for s in found)}.")
    items = prepare_task(found[0], shots, item + 1, seed).items
    if item >= len(items):
        raise InputError(f"task {found[0].name} has no item {item}: it has {len(items)}, numbered from 0.")
    return found[0], items[item]


def new_task(examples: Examples | str | Path, path: str | Path | None = None, *, force: bool = False) -> Path:
    """Write the task that a table of own rows amounts to as a TOML file, to be changed; return its path.

    By default it is next to the table, with its name; elsewhere it must be in a folder above. Scoring it gives the
    numbers of scoring the examples. Raises PaLiteError.
    """
    table = Path(as_examples(examples).path)
    target = table.with_suffix(".toml") if path is None else Path(path)
    spec = examples_task(examples)
    check_target(target, force)
    write_text(target, task_text(spec, target.parent))
    return target


def write_document(document: Any, path: str | Path, ascii_only: bool = False) -> None:
    """Write a JSON document to a file, completely or not at all; NaN and infinities become null. Raises OutputError."""
    write_text(Path(path), json.dumps(without_nonfinite(document), indent=1, ensure_ascii=ascii_only) + "\n")


def harness(
    model: ModelLike,
    tasks: Names | None = None,
    options: HarnessOptions | EvaluatorConfig | None = None,
    *,
    lam: float | str | None = None,
    type: str | None = None,
    engine: EngineOptions | None = None,
    parallel: int | str | None = None,
    chat: ChatOptions | None = None,
    progress: Progress | None = None,
    num_fewshot: int | None = None,
    limit: float | None = None,
    output_path: str | Path | None = None,
    log_samples: bool | None = None,
    apply_chat_template: bool | str | None = None,
    include_path: str | Path | Sequence[Path] | None = None,
) -> HarnessResult:
    """Run lm-eval's tasks on a model (extra `harness`); `.document` of the result is lm-eval's results document.

    `options` has lm-eval's common options under their own names, or is an EvaluatorConfig of lm-eval's with all of
    them; the last keywords change the common ones. `parallel` is how many texts are generated at a time, by default
    what an EvaluatorConfig's `batch_size` says, else `auto`. Raises PaLiteError.
    """
    words = {name: value for name, value in locals().items() if name != "model"}  # which lm-eval's has a field for
    chosen: Any = fill(builtins.type(options) if is_dataclass(options) else HarnessOptions, words, options)
    return run_harness(resolve_model(model, lam), chosen, engine, model_type(type), parallel, progress, chat)


def follow_document(result: FollowResult, reference: str, name: str, seed: int | None = None) -> dict[str, Any]:
    """Return a follow result as a JSON document, starting with the model reference, the set's name and the seed."""
    return {"reference": reference, "set": name, "seed": seed, **result.to_document()}
