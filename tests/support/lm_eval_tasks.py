"""Small lm-eval tasks, YAML and JSON lines, one of each output type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PICK, SAY, ROLL = "pa_test_pick", "pa_test_say", "pa_test_roll"
TOWNS = ("Rome", "Oslo", "a hammer", "Lyon")


def rows(n: int = 6) -> list[dict[str, Any]]:
    """Return questions whose options have different lengths, varying golds, and texts of several sentences."""
    return [
        {
            "q": f"Kani {i}",
            "options": [TOWNS[i % 4], TOWNS[(i + 1) % 4] + " x" * (i % 3), TOWNS[(i + 2) % 4]],
            "gold": i % 3,
            "text": f"- Kani -> {TOWNS[i % 4]}\n- Goro -> Oslo {i}. A robin is a bird." * (i + 1),
        }
        for i in range(n)
    ]


def write_task(folder: Path, name: str, keys: dict[str, Any], entries: list[dict[str, Any]]) -> None:
    """Write a task whose test split is a separate file; JSON is YAML."""
    data = folder / f"{name}.jsonl"
    data.write_text("\n".join(map(json.dumps, entries)), "utf-8")
    source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
    task = {"task": name, **source, **keys, "metadata": {"version": 1.0}}
    (folder / f"{name}.yaml").write_text(json.dumps(task), "utf-8")


def metrics(**higher_is_better: bool) -> list[dict[str, Any]]:
    means = {"word_perplexity": "weighted_perplexity", "bits_per_byte": "bits_per_byte"}
    return [
        {"metric": name, "aggregation": means.get(name, "mean"), "higher_is_better": higher}
        for name, higher in higher_is_better.items()
    ]


def write_tasks(folder: Path) -> Path:
    prompt = {"doc_to_text": "- {{q}} ->", "fewshot_split": "test", "num_fewshot": 2, "fewshot_delimiter": "\n"}
    pick = {"output_type": "multiple_choice", "doc_to_choice": "{{options}}", "doc_to_target": "gold"}
    settings = {"until": ["\n", "-"], "max_gen_toks": 6, "do_sample": False}
    say = {"output_type": "generate_until", "doc_to_target": "{{options[gold]}}", "generation_kwargs": settings}
    roll = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "text"}
    write_task(folder, PICK, {**prompt, **pick, "metric_list": metrics(acc=True, acc_norm=True)}, rows())
    write_task(folder, SAY, {**prompt, **say, "metric_list": metrics(exact_match=True)}, rows())
    write_task(folder, ROLL, {**roll, "metric_list": metrics(word_perplexity=False, bits_per_byte=False)}, rows())
    return folder
