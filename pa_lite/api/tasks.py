"""Few-shot tasks: suites and task specifications, single items, results files, and lm-eval's tasks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pa_lite.api.options import ChatOptions, EngineOptions, ModelLike, Names, Progress, fill, model_type, resolve_model
from pa_lite.errors import InputError
from pa_lite.instructions.following import FollowResult
from pa_lite.sanitize import without_nonfinite
from pa_lite.statistics import Measured
from pa_lite.system.atomic import check_target, write_text
from pa_lite.system.opening import read_regular
from pa_lite.tasks.lm_eval.options import HarnessOptions, parse_pairs, parse_seeds
from pa_lite.tasks.lm_eval.run import HarnessResult, run_harness
from pa_lite.tasks.prompts import prepare_task
from pa_lite.tasks.rendering import Item
from pa_lite.tasks.results import check_samples_target, noise_over_tasks, results_document, spec_record, write_samples
from pa_lite.tasks.scoring import SuiteResult
from pa_lite.tasks.spec import TaskSpec, find_tasks, suite_descriptions, suites
from pa_lite.untrusted.strict_json import parse_json

__all__ = [
    "HarnessOptions", "HarnessResult", "Item", "Measured", "SuiteResult", "TaskSpec", "check_samples_target",
    "check_target", "follow_document", "harness", "noise_over_tasks", "parse_pairs", "parse_seeds", "read_samples",
    "results_document", "spec_record", "suite_descriptions", "suites", "task_item", "write_document",
    "write_samples",
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


def write_document(document: Any, path: str | Path, ascii_only: bool = False) -> None:
    """Write a JSON document to a file, completely or not at all; NaN and infinities become null. Raises OutputError."""
    write_text(Path(path), json.dumps(without_nonfinite(document), indent=1, ensure_ascii=ascii_only) + "\n")


def read_samples(text: str) -> dict[str, list[int]]:
    """Read item numbers by task, `{TASK: [N, ...]}`, from a JSON string or file. Raises InputError."""
    try:
        document = parse_json(text if text.lstrip().startswith("{") else read_regular(Path(text)))
    except (OSError, ValueError) as e:
        raise InputError(f"{text!r} is neither a JSON object nor a file with one: {e}") from e
    if not isinstance(document, dict) or not all(
        isinstance(v, list) and all(type(i) is int and i >= 0 for i in v) for v in document.values()
    ):
        raise InputError('item numbers must be given as {"TASK": [0, 1, 2]}.')
    return document


def harness(
    model: ModelLike,
    tasks: Names | None = None,
    options: HarnessOptions | None = None,
    *,
    lam: float | str | None = None,
    type: str | None = None,
    engine: EngineOptions | None = None,
    parallel: int | str = "auto",
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

    `options` has lm-eval's options under their own names; the last keywords override the common ones. `parallel` is
    the number of texts generated at a time. `progress` gets the requests done. Raises PaLiteError.
    """
    chosen = fill(HarnessOptions, locals(), options)
    return run_harness(resolve_model(model, lam), chosen, engine, model_type(type), parallel, progress, chat)


def follow_document(result: FollowResult, reference: str, name: str, seed: int | None = None) -> dict[str, Any]:
    """Return a follow result as a JSON document, starting with the model reference, the set's name and the seed."""
    return {"reference": reference, "set": name, "seed": seed, **result.to_document()}
