"""Tests of known preferences: what a file may hold, how its pairs match, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pa_lite.alpaca.annotations import read_annotations
from pa_lite.alpaca.known import compare_judge, mirrored, pair_key, read_known
from pa_lite.alpaca.win_rate import win_rate
from pa_lite.errors import InputError
from tests.support.alpaca_files import annotation_rows, write_rows


def row(instruction: str, first: str, second: str, preference: float | None, **other: Any) -> dict[str, Any]:
    return {"instruction": instruction, "output_1": first, "output_2": second, "preference": preference, **other}


def test_preferences_are_averaged_over_annotators_and_orders(tmp_path: Path) -> None:
    rows = [
        row("Greet.", "Hi", "Hello!", 2, annotator="one"),
        row("Greet.", "Hello! ", "Hi", 2, annotator="two"),  # the other order, and a space that does not count
        row("Greet.", "Hi", "Hello!", 0, annotator="three"),  # a draw
        row("Count.", "1 2 3", "1", None),
        row("Count.", "1 2 3", "<think>Short.</think>1", 1),  # reasoning is not part of an output
    ]
    known = read_known(write_rows(tmp_path / "known.json", rows))
    key = pair_key("Greet.", "Hi", "Hello!")
    assert known.find(key) == (0.5, 1.0)  # of 1, 0 and 1/2
    assert known.find(mirrored(key)) == (0.5, 0.0)
    assert known.find(pair_key("Count.", "1 2 3", "1")) == (0.0, 0.0)
    assert known.find(pair_key("Count.", "1 2 3", "2")) is None
    assert [(p.reference, p.model) for p in known.pairs] == [("Hi", "Hello!"), ("1 2 3", "1")]
    assert mirrored(mirrored(key)) == key != mirrored(key)
    assert known.among([key, mirrored(key), "0" * 48]) == {key: (0.5, 1.0)}  # a pair counts in one order


def test_a_pair_counts_once_and_instructions_are_clusters(tmp_path: Path) -> None:
    rows = [row(f"i{i // 2}", "a", "b" * (2 + i % 2), 1 + i % 2) for i in range(40)]
    known = read_known(write_rows(tmp_path / "known.json", rows))
    judged = [(pair_key(f"i{i // 2}", "a", "b" * (2 + i % 2)), float(i % 2)) for i in range(40)]
    check = compare_judge(known, [*judged, *judged, (mirrored(judged[0][0]), 1.0), (pair_key("x", "y", "z"), 1.0)])
    assert check is not None
    assert (check.n, check.agreement.value, check.by_length.value, check.win_rate) == (40, 1.0, 0.5, None)
    assert check.by_length.stderr == 0  # one of each instruction's two pairs is right: the clusters are all equal
    assert check.beats_length
    assert compare_judge(known, [(pair_key("x", "y", "z"), 1.0)]) is None


def test_a_judge_of_a_file_is_compared_and_its_win_rate_adjusted(tmp_path: Path) -> None:
    rows = annotation_rows(60, 3)
    read = read_annotations(write_rows(tmp_path / "judged.json", rows))
    people = [
        {**r, "preference": 1.0 + (r["preference"] > 1.7), "annotator": "people",
         "output_1": r["output_2"], "generator_1": "model", "output_2": r["output_1"], "generator_2": "reference"}
        for r in rows[:40]
    ]  # fmt: skip
    for each in people:
        each["preference"] = 3 - each["preference"]
    found = win_rate(read, known=read_known(write_rows(tmp_path / "people.json", people)))
    check = found.judge_check
    assert check is not None
    assert check.win_rate is not None
    sides: dict[bool, list[float]] = {True: [], False: []}
    for r in rows[:40]:
        is_draw, wins = r["preference"] == 1.5, r["preference"] > 1.7
        sides[wins].append(0.5 if is_draw else float((r["preference"] > 1.5) == wins))
    assert check.agreement.value == pytest.approx(sum(sum(side) / len(side) for side in sides.values()) / 2)
    assert (check.n, check.n_model, check.n_reference) == (40, len(sides[True]), len(sides[False]))
    share = sum(r["preference"] > 1.7 for r in rows[:40]) / 40
    assert abs(check.win_rate.value - share) < 0.1
    assert check.win_rate.stderr > 0
    assert win_rate(read).judge_check is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("i", "a", "b", None)], "none of its 1 entries has a preference, so it has nothing to compare with"),
        ([{"instruction": "i", "output_1": "a", "output_2": "b"}], "entry 1 has no 'preference'"),
        ([row("i", "a", "b", 3)], "entry 1: 'preference' is 3, outside [1, 2]"),
        ([row("another", "a", "b", 2)], "has none of the pairs of model against reference"),
        ([{**r, "annotator": "someone"} for r in annotation_rows(5, 1)], "by 'someone', the judge itself"),
        ([{**r, "annotator": "people", "generator_1": "model", "generator_2": "reference"}
          for r in annotation_rows(5, 1)], "Check the order of generator_1 and generator_2"),
    ],
)  # fmt: skip
def test_unusable_preferences_are_refused(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    read = read_annotations(write_rows(tmp_path / "judged.json", annotation_rows(5, 1)))
    path = write_rows(tmp_path / "known.json", rows)
    with pytest.raises(InputError) as e:
        win_rate(read, known=read_known(path))
    assert message in str(e.value)
    assert str(path) in str(e.value)
