from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pa_lite.alpaca.outputs import demo_instructions_path
from pa_lite.engine.model import EngineOptions
from pa_lite.engine.model_reference import open_model
from pa_lite.errors import InputError
from pa_lite.instructions.checks import followed
from pa_lite.instructions.following import (
    Constraint,
    ConstraintResult,
    FollowResult,
    Instruction,
    Rate,
    check_answer,
    follow_instructions,
    load_instructions,
)
from pa_lite.instructions.sets import find_set
from pa_lite.statistics import Mean
from tests.support.reports import Reports

ROW = {"split": "test", "kind": "upper", "instruction": "Shout.", "checks": [{"kind": "uppercase"}]}


def test_the_demos_instructions() -> None:
    test, dev = (load_instructions(demo_instructions_path(), split) for split in ("test", "dev"))
    assert len(test) >= 300
    assert len(dev) >= 200
    assert not {i.text for i in test} & {i.text for i in dev}
    assert len({i.kind for i in test}) >= 8


def test_answers_are_checked_one_by_one() -> None:
    some = load_instructions(demo_instructions_path())[::12]
    seen = Reports()
    with open_model("demo@1", EngineOptions(threads=1)) as model:
        result = follow_instructions(model, some, 32, seen)
    assert result.n == len(some)
    assert seen[-1] == ("follow", len(some), len(some), "answers")
    for instruction, answer in zip(some, result.answers, strict=True):
        assert answer.instruction == instruction.text
        assert answer.followed == (answer.ended and followed(answer.output, instruction.checks))
    assert result.accuracy == sum(bool(a.followed) for a in result.answers) / result.n
    assert set(result.by_kind()) == {i.kind for i in some}


def instruction(*kinds: Any) -> Instruction:
    return Instruction("k", "Do it.", tuple(Constraint(c["kind"], (c,)) for c in kinds))


UPPER, SHORT, KLINGON = {"kind": "uppercase"}, {"kind": "word_count", "n": 1}, {"kind": "language", "code": "tlh"}


def test_strict_and_loose() -> None:
    both = instruction(UPPER, SHORT)
    assert check_answer(both, "BIRD").followed
    answer = check_answer(both, "Sure:\n**BIRD**")
    assert (answer.followed, answer.loose) == (False, True)
    assert answer.constraints == (
        ConstraintResult("uppercase", False, True),
        ConstraintResult("word_count", False, True),
    )
    cut = check_answer(both, "BIRD", ended=False)
    assert (cut.followed, cut.loose) == (False, False)
    assert check_answer(both, "BIRD", ended=False, must_end=False).followed
    assert not check_answer(both, " ").loose


def test_constraints_that_cannot_be_checked_are_left_out() -> None:
    answers = tuple(
        check_answer(i, "BIRD")
        for i in (instruction(UPPER, KLINGON), instruction(UPPER), instruction({"kind": "lowercase"}, SHORT))
    )
    assert [a.followed for a in answers] == [None, True, False]
    result = FollowResult(model="m", n=2, accuracy=0.5, stderr=0.5, answers=answers)
    assert (result.unchecked, result.cut) == (1, 0)
    assert result.prompts() == Rate(2, Mean(0.5, 0.5), Mean(0.5, 0.5))
    assert result.constraints().n == 4
    assert result.constraints().strict.value == 0.75
    rates = result.by_constraint()
    assert {n: (r.n, r.strict.value) for n, r in rates.items() if r.n} == {
        "uppercase": (2, 1.0), "lowercase": (1, 0.0), "word_count": (1, 1.0),
    }  # fmt: skip
    assert rates["language"].n == 0
    assert math.isnan(rates["language"].strict.value)
    document = result.to_document()
    assert document["unchecked_constraints"] == 1
    assert document["by_constraint"]["language"]["strict"] is None
    assert document["prompts"] == {
        "n": 2,
        "strict": {"value": 0.5, "stderr": 0.5},
        "loose": {"value": 0.5, "stderr": 0.5},
    }
    json.dumps(document, allow_nan=False)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("{", "i.jsonl:1: is not JSON"),
        ({**ROW, "checks": [{"kind": "x"}]}, r"i.jsonl:1: unknown check kind 'x'"),
        ({"split": "test"}, "i.jsonl:1: has no 'instruction'"),
        ("[1]", "i.jsonl: row 1: is not a JSON object"),
        ({**ROW, "checks": []}, "i.jsonl:1: 'checks' must be a list of checks"),
        ({**ROW, "checks": ["uppercase"]}, "i.jsonl:1: 'checks' must be a list of checks"),
        ({**ROW, "kind": 3}, "i.jsonl:1: 'kind' must be a string that is not empty, not 3"),
        ({**ROW, "check": []}, "i.jsonl:1: unknown key 'check'. Did you mean checks"),
        ({**ROW, "input": "Kani keeps a hen."}, "i.jsonl:1: unknown key 'input'"),
        ({**ROW, "split": 3}, "i.jsonl:1: 'split' must be a string or null, not 3"),
        ("", "has no instructions of split 'test'"),
        ({**ROW, "split": "dev"}, "has no instructions of split 'test'"),
    ],
)
def test_bad_files(tmp_path: Path, row: Any, told: str) -> None:
    path = tmp_path / "i.jsonl"
    path.write_text(row if isinstance(row, str) else json.dumps(row), "utf-8")
    with pytest.raises(InputError, match=told):
        load_instructions(path)


def test_rows_of_other_splits_are_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [ROW, {**ROW, "split": "dev"}, {**ROW, "split": None, "key": 7}]
    path = tmp_path / "i.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    assert len(load_instructions(path)) == 2
    assert caplog.messages == []
    assert len(find_set(str(path)).instructions) == 2
    assert caplog.messages == [f"{path}: left out 1 of 3 instructions, whose split is not 'test'."]


def test_a_file_that_is_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "i.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"i.jsonl: is UTF-16, not UTF-8"):
        load_instructions(tmp_path / "i.jsonl")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_instructions(tmp_path / "no.jsonl")
