"""Results in the format of lm-eval's results file and sample logs; pa-lite's own numbers are kept apart."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pa_lite.errors import OutputError
from pa_lite.statistics import DRAWS, Mean, Measured
from pa_lite.system.atomic import check_target, whole_file, write_errors
from pa_lite.tasks.averages import BOOTSTRAP_SEED, GroupResult, MetricResult
from pa_lite.tasks.data import source_name
from pa_lite.tasks.metrics import CLASS_METRICS
from pa_lite.tasks.prompts import Prepared
from pa_lite.tasks.rendering import Item
from pa_lite.tasks.scoring import ItemScore, SuiteResult, TaskResult
from pa_lite.tasks.spec import TaskSpec
from pa_lite.untrusted.safe_names import file_name

_TABLES = (
    "results", "groups", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples",
    "task_hashes",
)  # fmt: skip
_VERSIONED = ("pa-lite", "llama-cpp-python", "numpy", "jinja2")


def results_document(result: SuiteResult, reference: str) -> dict[str, Any]:
    """Return a suite's results in the format of lm-eval 0.4's file; pa-lite's additions are under `pa_lite`.

    A task with groups becomes a group whose tasks are named `TASK_GROUP`. The group's numbers are averages over items
    (micro); averages over groups (macro) are under `pa_lite`. Standard errors are lm-eval's, except for a task whose
    items share passages or questions: theirs are by clusters, whose number is `clusters` under `pa_lite` (null for
    other tasks). For per-item records, see sample_records.
    """
    document = empty_document()
    for task in result.tasks:
        _add_task(document, task)
    options = result.options
    is_resampled = any(m.name in CLASS_METRICS for task in result.tasks for m in task.metrics)
    document["config"] = {
        "model": "pa-lite",
        "model_args": {"reference": reference, "name": result.model},
        "batch_size": options.parallel,
        "device": None,
        "limit": options.limit,
        "bootstrap_iters": DRAWS if is_resampled else None,
        "gen_kwargs": None,
        "random_seed": None,
        "numpy_seed": BOOTSTRAP_SEED if is_resampled else None,
        "torch_seed": None,
        "fewshot_seed": options.seed,
    }
    document["git_hash"] = None
    document["date"] = time.time()
    document["model_name"] = reference
    document["pa_lite"] = {
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONED},
        "reference": reference,
        "model": result.model,
        "fingerprint": result.fingerprint,
        "identity": result.identity,
        "options": asdict(options),
        "accuracy": asdict(result.accuracy),
        "majority": result.majority,
        "noise_floor_nats": noise_over_tasks(result),
        "remarks": list(result.remarks),
        "tasks": [_own_record(task, options.seed) for task in result.tasks],
    }
    return document


def noise_over_tasks(result: SuiteResult) -> dict[str, float] | None:
    """Return by how many nats requests differ when scored alone: n, mean and largest; None if none were."""
    noises = [t.noise for t in result.tasks if t.noise is not None and t.noise.n]
    if not noises:
        return None
    n = sum(x.n for x in noises)
    return {"n": n, "mean": sum(x.n * x.mean for x in noises) / n, "largest": max(x.largest for x in noises)}


def shown_metrics(task: TaskResult) -> list[MetricResult]:
    """Return the results of the task's metrics, the score first; several where several patterns extract answers."""
    spec = _prepared(task).spec
    names = spec.metrics or (spec.metric,)
    return sorted((m for m in task.metrics if m.name in names), key=lambda m: names.index(m.name))


def _prepared(task: TaskResult) -> Prepared:
    assert task.prepared is not None  # score_tasks sets it
    return task.prepared


def empty_document() -> dict[str, Any]:
    """Return the tables of lm-eval's results file without any task."""
    return {name: {} for name in _TABLES}


def add_numbers(
    document: dict[str, Any],
    name: str,
    numbers: Mapping[str, Mean | Measured],
    samples: tuple[int, int],
    version: Any,
    shots: int | None,
) -> None:
    """Add a task's numbers, by `METRIC,FILTER`, to lm-eval's tables.

    `samples` is the task's number of items and how many were scored. An unknown standard error is "N/A".
    """
    entry: dict[str, Any] = {"name": name, "alias": name, "sample_len": samples[1]}
    for key, number in numbers.items():
        metric, _, pattern = key.partition(",")
        entry[key] = number.value
        entry[f"{metric}_stderr,{pattern}"] = number.stderr if math.isfinite(number.stderr) else "N/A"
    document["results"][name] = entry
    document["versions"][name] = version
    document["n-shot"][name] = shots
    document["higher_is_better"][name] = {key.partition(",")[0]: True for key in numbers}
    document["n-samples"][name] = dict(zip(("original", "effective"), samples, strict=True))


def _add_task(document: dict[str, Any], task: TaskResult) -> None:
    prepared, name = _prepared(task), task.task
    spec, shots = prepared.spec, prepared.shots
    parts: list[tuple[str, TaskResult | GroupResult, int]] = [(name, task, prepared.n_rows)]
    parts += [(f"{name}_{g.name}", g, prepared.group_rows[g.name]) for g in task.groups]
    for each, found, n_rows in parts:
        add_numbers(document, each, {m.key: m.measured for m in found.metrics}, (n_rows, found.n), spec.version, shots)
    if task.groups:
        document["groups"][name] = document["results"][name]
    document["group_subtasks"][name] = [each for each, _, _ in parts[1:]]
    document["configs"][name] = _config(prepared)
    document["task_hashes"][name] = _sha256("".join(_hashes(i, _target(prepared, i)) for i in prepared.items))


def _config(prepared: Prepared) -> dict[str, Any]:
    """Return the task's settings under lm-eval's keys, and the specification itself."""
    spec = prepared.spec
    return {
        "task": spec.name,
        "dataset_path": spec.hub or source_name(spec),
        "dataset_name": spec.config or None,
        "fewshot_split": spec.shots_split,
        "test_split": spec.split,
        "doc_to_text": spec.template,
        "doc_to_target": spec.target or (spec.answers if spec.kind == "G" else spec.answer),
        "doc_to_choice": None if spec.kind == "G" else spec.choices,
        "description": spec.prefix,
        "target_delimiter": spec.delimiter,
        "fewshot_delimiter": spec.separator,
        "num_fewshot": prepared.shots,
        "output_type": "generate_until" if spec.kind == "G" else "multiple_choice",
        "metadata": {"version": spec.version},
        "pa_lite": spec_record(spec),
    }


def spec_record(spec: TaskSpec) -> dict[str, Any]:
    """Return the keys of a specification that differ from their defaults, as in its TOML file."""
    defaults = {f.name: f.default for f in fields(spec)}
    values = {**asdict(spec), "metrics": spec.metrics or (spec.metric,)}
    shown = {k: v for k, v in values.items() if k not in ("folder", "is_own") and v not in (defaults[k], {}, ())}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in shown.items()}


def _own_record(task: TaskResult, first_seed: int) -> dict[str, Any]:
    prepared = _prepared(task)
    return {
        "task": task.task,
        "area": task.area,
        "kind": task.kind,
        "metric": task.metric,
        "n": task.n,
        "accuracy": task.accuracy,
        "stderr": task.stderr,
        "majority": task.majority,
        "chance": task.chance,
        "clusters": len(set(task.clusters)) if task.clusters else None,
        "seeds": [first_seed + i for i in range(len(task.by_seed))],
        "accuracy_by_seed": list(task.by_seed),
        "source": source_name(prepared.spec),
        "commits": list(prepared.commits),
        "shots": prepared.shots,
        "n_truncated": task.n_truncated,
        "noise_floor_nats": asdict(task.noise) if task.noise else None,
        "single_token_labels": task.single_token_labels,
        "metrics": {m.key: _measured(m) for m in task.metrics},
        "groups": [
            {"name": g.name, "n": g.n, "metrics": {m.key: _measured(m) for m in g.metrics}} for g in task.groups
        ],
    }


def _measured(metric: MetricResult) -> dict[str, Any]:
    own: dict[str, Any] = asdict(metric.measured)
    return own if metric.macro is None else {"average": "micro", **own, "macro": asdict(metric.macro)}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _json(value: Any, **more: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str, **more)


def _hashes(item: Item, target: str) -> str:
    return _sha256(_json(item.row, indent=2)) + item.prompt_hash + _sha256(target)


def _target(prepared: Prepared, item: Item) -> str:
    return str(item.golds) if prepared.spec.kind == "G" else str(item.answer)


def sample_records(task: TaskResult, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield lm-eval's sample record of each item, and of each pattern if answers are extracted.

    What lm-eval does not log is under `pa_lite`: the row's location, its group, the picked choice, whether it was cut,
    the seed of its exemplars. `seed` is that of the first draw of exemplars; each draw has a record of each item.
    """
    for number, draw in enumerate(task.draws or [task]):
        yield from _records(draw, seed + number)


def _records(task: TaskResult, seed: int) -> Iterator[dict[str, Any]]:
    prepared = _prepared(task)
    for item, score in zip(prepared.items, task.items, strict=True):
        common = {
            "task": task.task,
            "doc_id": item.index,
            "doc": dict(item.row),
            "target": [", ".join(g) for g in item.golds] if item.golds else item.answer,
            "doc_hash": _sha256(_json(item.row, indent=2)),
            "prompt_hash": item.prompt_hash,
            "target_hash": _sha256(_target(prepared, item)),
            "pa_lite": {
                "where": item.where,
                "group": item.group,
                "picked": score.picked,
                "right": item.target,
                "truncated": score.truncated,
                "unconditional": list(score.unconditional),
                "seed": seed,
            },
        }
        yield from _texts(common, prepared, item, score) if item.golds else [_choices(common, item, score)]


def _choices(common: Mapping[str, Any], item: Item, score: ItemScore) -> dict[str, Any]:
    answers = [[str(p), str(g)] for p, g in zip(score.logprobs, score.greedy, strict=True)]
    arguments = {f"gen_args_{i}": {"arg_0": c, "arg_1": t} for i, (c, t) in enumerate(item.requests)}
    return {
        **common,
        "arguments": arguments,
        "resps": [[a] for a in answers],
        "filtered_resps": answers,
        "filter": "none",
        "metrics": list(score.metrics),
        **score.metrics,
    }


def _texts(common: Mapping[str, Any], prepared: Prepared, item: Item, score: ItemScore) -> Iterator[dict[str, Any]]:
    until = {"until": list(prepared.spec.stop), "do_sample": False, "max_gen_toks": prepared.spec.max_tokens}
    for pattern, answer in score.found.items():
        metrics = {}
        for key, value in score.metrics.items():
            name, _, of = key.partition(",")
            if (of or "none") == pattern:
                metrics[name] = value
        yield {
            **common,
            "arguments": {"gen_args_0": {"arg_0": item.prompt, "arg_1": until}},
            "resps": [[score.output]],
            "filtered_resps": [answer],
            "filter": pattern,
            "metrics": list(metrics),
            **metrics,
        }


def check_samples_target(target: str, force: bool = False) -> None:
    """Raise OutputError unless samples can be written to an existing folder, or to a file that check_target allows.

    `target` is a string because a folder's name may end in a slash, which a Path would drop.
    """
    if not Path(target).is_dir():
        if target.endswith(("/", os.sep)):
            raise OutputError(f"{target}: the folder for samples does not exist. Create it first.")
        check_target(Path(target), force, "--log-samples")


def write_samples(result: SuiteResult, target: Path) -> list[Path]:
    """Write sample logs as JSON lines and return the files.

    In a folder, each task gets a file `samples_TASK_TIME.jsonl`; otherwise all tasks share one file. Raises OutputError
    if they cannot be written.
    """
    seed = result.options.seed
    if not target.is_dir():
        _write_lines(target, (r for task in result.tasks for r in sample_records(task, seed)))
        return [target]
    stamp = time.strftime("%Y-%m-%dT%H-%M-%S")
    paths = []
    for task in result.tasks:
        paths.append(target / f"samples_{file_name(task.task.replace('/', '_'))}_{stamp}.jsonl")
        _write_lines(paths[-1], sample_records(task, seed))
    return paths


def _write_lines(path: Path, records: Iterator[dict[str, Any]]) -> None:
    with write_errors(path.parent), whole_file(path) as f:
        for record in records:
            f.write((_json(record) + "\n").encode("utf-8", "backslashreplace"))
        f.flush()
        os.fsync(f.fileno())
