from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pa_lite.engine.model import EngineOptions
from pa_lite.engine.reference import open_model
from pa_lite.errors import InputError
from pa_lite.follow.checks import followed
from pa_lite.follow.instructions import follow_instructions, load_instructions
from pa_lite.follow.outputs import demo_instructions_path

ROW = {"split": "test", "kind": "upper", "instruction": "Shout.", "checks": [{"kind": "uppercase"}]}


def test_the_demos_instructions() -> None:
    test, dev = (load_instructions(demo_instructions_path(), split) for split in ("test", "dev"))
    assert len(test) >= 300
    assert len(dev) >= 200
    assert not {i.text for i in test} & {i.text for i in dev}
    assert len({i.kind for i in test}) >= 8


def test_answers_are_checked_one_by_one() -> None:
    some = load_instructions(demo_instructions_path())[::12]
    seen: list[tuple[int, int]] = []
    with open_model("demo@1", EngineOptions(threads=1)) as model:
        result = follow_instructions(model, some, 32, lambda done, total: seen.append((done, total)))
    assert result.n == len(some) == seen[-1][0]
    for instruction, answer in zip(some, result.answers, strict=True):
        assert answer.instruction == instruction.text
        assert answer.followed == (answer.ended and followed(answer.output, instruction.checks))
    assert result.accuracy == sum(bool(a.followed) for a in result.answers) / result.n
    assert set(result.by_kind()) == {i.kind for i in some}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("{", "is no file of instructions"),
        ({**ROW, "checks": [{"kind": "x"}]}, r"i.jsonl:1: unknown check kind 'x'"),
        ({"split": "test"}, "is no file of instructions"),
        ({**ROW, "split": "dev"}, "has no instructions of split 'test'"),
    ],
)
def test_bad_files(tmp_path: Path, row: Any, told: str) -> None:
    path = tmp_path / "i.jsonl"
    path.write_text(row if isinstance(row, str) else json.dumps(row), "utf-8")
    with pytest.raises(InputError, match=told):
        load_instructions(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_instructions(tmp_path / "no.jsonl")
