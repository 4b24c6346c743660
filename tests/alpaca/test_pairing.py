from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pa_lite.alpaca.pairing import AnswerPair, pair_outputs, read_outputs
from pa_lite.errors import InputError
from tests.support.alpaca_files import write_rows


def rows(generator: str, *texts: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"instruction": i, "output": o, "generator": generator, "dataset": "d"} for i, o in texts]


def test_outputs_match_by_instruction_not_by_position(tmp_path: Path) -> None:
    model = write_rows(tmp_path / "m.json", rows("M", ("two", "m2"), ("one", "m1")))
    reference = write_rows(tmp_path / "r.json", rows("R", ("one", "r1"), ("three", "r3"), ("two", "r2")))
    got = pair_outputs(model, reference)
    assert (got.model, got.reference, got.n_left) == ("M", "R", 1)
    assert got.pairs == (
        AnswerPair(instruction="two", reference="r2", model="m2", dataset="d"),
        AnswerPair(instruction="one", reference="r1", model="m1", dataset="d"),
    )


def test_file_without_generators_is_named_after_itself(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "mine.json", [{"instruction": "one", "output": "1"}])
    (only,) = read_outputs(path)
    assert (only.generator, only.dataset) == ("mine", "mine")


def test_outputs_match_by_the_whole_request(tmp_path: Path) -> None:
    """Separate `input` and `system` fields of another program's JSONL match our joined requests."""
    ask = "Which animal?"
    apart = [
        {"instruction": ask, "input": "A hen.", "output": "hen", "dataset": None},
        {"instruction": ask, "input": "A goat.", "output": "goat"},
        {"instruction": ask, "system": "Be brief.", "output": "none"},
    ]
    joined = rows("R", (f"{ask}\n\nA goat.", "a goat"), (f"Be brief.\n\n{ask}", "no"), (f"{ask}\n\nA hen.", "a hen"))
    model = tmp_path / "m.jsonl"
    model.write_text("\n".join(map(json.dumps, apart)) + "\n\n", "utf-8-sig")
    got = pair_outputs(model, write_rows(tmp_path / "r.json", joined))
    assert got.pairs == (
        AnswerPair(instruction=f"{ask}\n\nA hen.", reference="a hen", model="hen", dataset=None),
        AnswerPair(instruction=f"{ask}\n\nA goat.", reference="a goat", model="goat", dataset="m"),
        AnswerPair(instruction=f"Be brief.\n\n{ask}", reference="no", model="none", dataset="m"),
    )


GOOD = rows("M", ("one", "1"), ("two", "2"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"output": "1"}, "entry 1 has no string under 'instruction'"),
        ([], "has no entries"),
        ([{**GOOD[0], "messages": [{"role": "user", "content": "one"}]}], "has a conversation under 'messages'"),
        ([{**GOOD[0], "dataset": ["d"]}], "entry 1: 'dataset' must be a string or null"),
        (["one"], "row 1: is not a JSON object"),
        ([*GOOD, {"instruction": "three"}], "entry 3 has no string under 'output'"),
        ([*GOOD, {"output": "three"}], "entry 3 has no string under 'instruction'"),
        ([*GOOD, *rows("M", ("one", "again"))], "entry 3 repeats the instruction of entry 1: 'one'"),
        ([*GOOD, *rows("N", ("three", "3"))], "several names under 'generator' (M, N)"),
        ([*GOOD, *rows("M", ("three", " \n"))], "1 of 3 outputs are empty, the first in entry 3. Use --allow-empty"),
    ],
)
def test_malformed_outputs_are_refused(tmp_path: Path, content: object, message: str) -> None:
    path = write_rows(tmp_path / "m.json", content)
    with pytest.raises(InputError) as e:
        read_outputs(path)
    assert message in str(e.value)
    assert str(path) in str(e.value)


def test_empty_outputs_are_read_when_allowed(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "m.json", rows("M", ("one", "")))
    assert read_outputs(path, allow_empty=True)[0].output == ""


def test_reference_must_answer_all_instructions(tmp_path: Path) -> None:
    model = write_rows(tmp_path / "m.json", rows("M", ("one", "1"), ("a " * 100, "2")))
    reference = write_rows(tmp_path / "r.json", rows("R", ("one", "1")))
    with pytest.raises(InputError, match=r"r.json: lacks 1 of the 2 instructions of .*m.json, such as 'a a .*\.\.\.'"):
        pair_outputs(model, reference)
    assert pair_outputs(reference, model).n_left == 1
