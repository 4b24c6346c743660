"""Tests of decoding: workloads read back every kind of record with its type and value, and refuse others."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pa_lite.statistics import clustered_error
from pa_lite.study.records import ScoredItem
from pa_lite.study.rows import read_cell
from pa_lite.study.workloads import WORKLOADS, TaskWorkload
from pa_lite.tasks.prompts import prepare_task
from pa_lite.tasks.scoring import ScoreOptions
from pa_lite.tasks.spec import TaskSpec

ANSWER = {"instruction": "Say yes.", "output": "yes", "ended": True}
RECORDS: dict[str, list[tuple[dict[str, Any], float]]] = {
    "task": [
        ({"metric": "acc", "metrics": {"acc": 1.0, "f1": 0.5}, "picked": 2}, 1.0),
        ({"metric": "f1", "metrics": {"acc": 1.0, "f1": 0.5}, "remarks": ["a smaller batch"], "truncated": True}, 0.5),
    ],
    "follow": [({**ANSWER, "followed": True}, 1.0), ({**ANSWER, "followed": None}, math.nan)],
    "answers": [(ANSWER, math.nan)],
    "wins": [({"preference": 1.25, "answer_mass": 0.9}, 0.25), ({"preference": None}, math.nan)],
    "calibration": [({"preference": 1.75, "reference_first": 0.5, "model_first": 1.0, "answer_mass": 1.0}, 0.75)],
    "text": [({"nats": 8 * math.log(2), "n_tokens": 3, "n_bytes": 4}, 2.0)],
    "instruct": [({**ANSWER, "context": [0, 5], "tokens": [7, 2]}, math.nan)],
    "agreement": [({"nats": 3.0, "n_tokens": 4, "n_agreed": 3}, 0.75)],
}


@pytest.mark.parametrize("kind", WORKLOADS)
def test_records_are_decoded_to_their_values(kind: str) -> None:
    workload = WORKLOADS[kind]
    for record, value in RECORDS[kind]:
        found = workload.decode(record)
        assert type(found) is workload.result
        assert found.output == record.get("output", "")
        assert list(found.remarks) == record.get("remarks", [])
        assert workload.value(found) == pytest.approx(value, nan_ok=True)


@pytest.mark.parametrize(("kind", "record", "message"), [
    ("task", [], "record is not an object"),
    ("task", {"metric": "acc"}, "record has no 'metrics'"),
    ("task", {"metric": "acc", "metrics": {"f1": 1}}, "'metrics' of record lacks the task's main metric"),
    ("task", {"metric": "acc", "metrics": {"acc": 2}}, "'metrics' of record is not an object of numbers in [0, 1]"),
    ("task", {"metric": "acc", "metrics": {"acc": 1}, "remarks": "x"}, "'remarks' of record is not a list of strings"),
    ("follow", ANSWER, "record has no 'followed'"),
    ("follow", {**ANSWER, "followed": 1}, "'followed' of record is not true, false or null"),
    ("answers", {**ANSWER, "ended": "yes"}, "'ended' of record is not true or false"),
    ("answers", {"output": "x", "ended": True}, "record has no 'instruction'"),
    ("wins", {}, "record has no 'preference'"),
    ("wins", {"preference": 0.5}, "'preference' of record is not a number from 1 to 2, or null"),
    ("wins", {"preference": 1.5, "model_first": 2}, "'model_first' of record is not a number in [0, 1], or null"),
    ("wins", {"preference": 1.5, "answer_mass": "1"}, "'answer_mass' of record is not a number in [0, 1], or null"),
    ("text", {"nats": -1.0, "n_tokens": 3, "n_bytes": 4}, "'nats' of record is not a number from 0"),
    ("text", {"nats": 1.0, "n_tokens": 3, "n_bytes": 0}, "'n_bytes' of record is not a number from 1"),
    ("text", {"nats": 1.0, "n_tokens": 3}, "record has no 'n_bytes'"),
    ("instruct", {**ANSWER, "context": [0], "tokens": []}, "'tokens' of record is not a list of token ids"),
    ("instruct", {**ANSWER, "context": [0], "tokens": [1.5]}, "'tokens' of record is not a list of token ids"),
    ("instruct", {**ANSWER, "context": [-1], "tokens": [1]}, "'context' of record is not a list of token ids"),
    ("agreement", {"nats": 1.0, "n_tokens": 2, "n_agreed": 3},
     "'n_agreed' of record is not a part of at least one token"),
    ("agreement", {"nats": 1.0, "n_tokens": 0, "n_agreed": 0},
     "'n_agreed' of record is not a part of at least one token"),
    ("agreement", {"nats": math.inf, "n_tokens": 2, "n_agreed": 1}, "'nats' of record is not a number from 0"),
])  # fmt: skip
def test_invalid_records_are_refused(kind: str, record: Any, message: str) -> None:
    with pytest.raises(ValueError, match="record") as failed:
        WORKLOADS[kind].decode(record)
    assert str(failed.value) == message


def test_clusters_and_other_metrics_are_in_a_tasks_summary_but_not_in_its_facts(tmp_path: Path) -> None:
    rows = [{"split": "test", "q": f"q{i}", "choices": ["a", "b"], "answer": 0, "part": f"p{i // 2}"} for i in range(5)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    spec = TaskSpec(name="t", data="rows.jsonl", template="{{ q }}", folder=tmp_path, metrics=("acc", "acc_norm"))
    results = [ScoredItem(metric="acc", metrics={"acc": v, "acc_norm": 1.0, "acc_bytes": 0.0}) for v in (1, 1, 0, 0, 1)]
    found = {}
    for name in ("", "part", "q"):
        workload = TaskWorkload(prepare_task(replace(spec, cluster=name)), ScoreOptions())
        found[name] = workload.facts, workload.summary(results)
    plain, clustered, alone = found.values()
    assert plain == alone
    assert plain[0] == clustered[0]
    assert "clusters" not in plain[1]
    assert clustered[1]["clusters"] == [0, 0, 1, 1, 2]
    assert clustered[1]["version"] == 2
    assert clustered[1]["value"] == plain[1]["value"] == 0.6
    assert clustered[1]["stderr"] == pytest.approx(clustered_error([[1, 1], [0, 0], [1]]))
    assert clustered[1]["metrics"] == {"acc_norm": {"value": 1.0, "stderr": 0.0}}


@pytest.mark.parametrize(("change", "message"), [
    ({"clusters": [0, 1]}, "'clusters' of summary has 2 numbers for 3 items"),
    ({"clusters": [0, 1, -1]}, "'clusters' of summary is not a list of numbers of clusters"),
    ({"clusters": [0, 1, 2.0]}, "'clusters' of summary is not a list of numbers of clusters"),
    ({"clusters": [0, 1, True]}, "'clusters' of summary is not a list of numbers of clusters"),
    ({"clusters": [0, 1, 10**10]}, "'clusters' of summary is not a list of numbers of clusters"),
    ({"clusters": None}, "'clusters' of summary is not a list of numbers of clusters"),
    ({"metrics": {"acc": 1}}, "'metrics' of summary is not an object of metrics"),
    ({"metrics": {"acc": {"value": 1}}}, "'metrics' of summary is not an object of metrics"),
    ({"metrics": {"acc": {"value": "1", "stderr": 0}}}, "'metrics' of summary is not an object of metrics"),
    ({"clusters": [0, 1, 1], "metrics": {"acc": {"value": 1, "stderr": None}}}, ""),
])  # fmt: skip
def test_summaries_of_tasks_are_validated(change: dict[str, Any], message: str) -> None:
    row = {"key": "0" * 64, "lam": 0.5, "type": "F16", "kind": "task", "name": "t", "n_items": 3, "n_done": 3,
           "started": 1.0, "seconds": 1.0, "inputs": "{}", "environment": "{}",
           "summary": json.dumps({"value": 0.5, **change})}  # fmt: skip
    if message:
        with pytest.raises(ValueError, match="of summary") as failed:
            read_cell(row, WORKLOADS)
        assert str(failed.value) == message
    else:
        assert read_cell(row, WORKLOADS)["summary"]["clusters"] == [0, 1, 1]
