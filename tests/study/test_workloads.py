"""Tests of decoding: workloads read back every kind of record with its type and value, and refuse others."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pa_lite.study.workloads import WORKLOADS

ANSWER = {"instruction": "Say yes.", "output": "yes", "ended": True}
RECORDS: dict[str, list[tuple[dict[str, Any], float]]] = {
    "task": [
        ({"metric": "acc", "metrics": {"acc": 1.0, "f1": 0.5}, "picked": 2}, 1.0),
        ({"metric": "f1", "metrics": {"acc": 1.0, "f1": 0.5}, "remarks": ["a smaller batch"], "truncated": True}, 0.5),
    ],
    "follow": [({**ANSWER, "followed": True}, 1.0), ({**ANSWER, "followed": None}, math.nan)],
    "answers": [(ANSWER, math.nan)],
    "wins": [({"preference": 1.25, "answer_mass": 0.9}, 0.25), ({"preference": None}, math.nan)],
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
])  # fmt: skip
def test_invalid_records_are_refused(kind: str, record: Any, message: str) -> None:
    with pytest.raises(ValueError, match="record") as failed:
        WORKLOADS[kind].decode(record)
    assert str(failed.value) == message
