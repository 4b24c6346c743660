"""Tests of win rates against plain sums and the published leaderboard, and of malformed annotations."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pa_lite.alpaca.annotations import Annotations, Judgement, read_annotations
from pa_lite.alpaca.win_rate import BY_DEFINITION, FULL, MINIMAL, find_length_data, win_rate
from pa_lite.errors import HubError, InputError
from tests.support.alpaca_files import SHARED, annotation_rows, data_set, write_data_set, write_rows
from tests.support.hub_server import running_hub

PUBLISHED = sorted((SHARED / "annotations").glob("*.json"))


@pytest.mark.skipif(not PUBLISHED, reason=f"{SHARED} does not exist")
@pytest.mark.parametrize("path", PUBLISHED, ids=lambda p: p.stem)
def test_figures_equal_the_published_leaderboard(path: Path) -> None:
    with (SHARED / "leaderboard.csv").open(encoding="utf-8", newline="") as f:
        published = {row[""]: row for row in csv.DictReader(f)}[path.stem]
    got = win_rate(read_annotations(path))
    assert got.model == path.stem
    for name in ("win_rate", "standard_error", "discrete_win_rate"):
        assert getattr(got, name) == pytest.approx(float(published[name]), abs=1e-9), name
    for name in ("n_wins", "n_wins_base", "n_draws", "n_total"):
        assert getattr(got, name) == int(published[name]), name
    if got.n_total == 805:  # the published length also counts outputs without annotation
        assert int(got.avg_length) == int(published["avg_length"])


@given(st.lists(st.one_of(st.floats(1, 2), st.sampled_from([1.0, 1.5, 2.0])), min_size=2, max_size=60))
@settings(deadline=None)
def test_rates_and_errors_are_plain_means(preferences: list[float]) -> None:
    rows = tuple(
        Judgement(instruction=f"i{i}", output_1="one", output_2="three", preference=p)
        for i, p in enumerate(preferences)
    )
    got = win_rate(Annotations(model="m", reference="r", annotator="j", judgements=rows))
    root = math.sqrt(len(preferences))
    points = [100 if p > 1.5 else 50 if p == 1.5 else 0 for p in preferences]
    assert got.win_rate == pytest.approx(mean(100 * (p - 1) for p in preferences), abs=1e-9)
    assert got.standard_error == pytest.approx(100 * stdev(preferences) / root, abs=1e-9)
    assert got.discrete_win_rate == pytest.approx(mean(points), abs=1e-9)
    assert got.discrete_standard_error == pytest.approx(stdev(points) / root, abs=1e-9)
    assert (got.n_wins, got.n_draws, got.n_wins_base) == (points.count(100), points.count(50), points.count(0))
    assert (got.avg_length, got.avg_length_reference) == (5, 3)


def test_zero_is_a_draw_and_null_is_not_judged(tmp_path: Path) -> None:
    rows = annotation_rows(8, 1)
    for row, preference in zip(rows, [0, 1.5, 1, 2, None, 1.25, 1.75, 2.0], strict=True):
        row["preference"] = preference
    got = win_rate(read_annotations(write_rows(tmp_path / "a.json", rows)))
    assert (got.n_wins, got.n_wins_base, got.n_draws, got.n_total, got.n_unjudged) == (3, 2, 2, 7, 1)
    assert got.win_rate == pytest.approx(100 * (0.5 + 0.5 + 0 + 1 + 0.25 + 0.75 + 1) / 7)


def test_model_against_itself_has_50_percent(tmp_path: Path) -> None:
    rows = annotation_rows(9, 1)
    for row in rows:
        row["generator_2"] = row["generator_1"]
    got = win_rate(read_annotations(write_rows(tmp_path / "a.json", rows)))
    assert got.length_controlled is not None
    assert (got.length_controlled.value, got.length_controlled_form) == (50, BY_DEFINITION)


def test_few_annotations_have_no_length_control(tmp_path: Path) -> None:
    got = win_rate(read_annotations(write_rows(tmp_path / "a.json", annotation_rows(4, 1))))
    assert got.length_controlled is None
    assert got.length_controlled_note == "fewer than 5 preferences to fit"


def test_form_of_length_control_depends_on_the_data(tmp_path: Path) -> None:
    folder = write_data_set(tmp_path / "data", 60)
    read = read_annotations(write_rows(tmp_path / "a.json", annotation_rows(40, 2)))
    full = win_rate(read, *find_length_data(read, folder=folder))
    assert (full.length_controlled_form, full.length_controlled_note) == (FULL, None)
    minimal = win_rate(read, *find_length_data(read, "minimal", folder))
    assert (minimal.length_controlled_form, minimal.length_controlled_note) == (MINIMAL, "as asked for")
    assert full.length_controlled is not None
    assert (full.length_controlled_winrate, full.length_controlled_minimal_winrate) == (full.length_controlled, None)
    assert (minimal.length_controlled_winrate, minimal.length_controlled_minimal_winrate) == (
        None, minimal.length_controlled
    )  # fmt: skip
    assert minimal.length_controlled is not None
    assert full.length_controlled.value != minimal.length_controlled.value
    small = write_data_set(tmp_path / "small", 30)
    data, note = find_length_data(read, folder=small)
    assert (data, note) == (None, "10 of 40 instructions are not AlpacaEval's")
    with pytest.raises(InputError, match="10 of 40 instructions are not AlpacaEval's, which full length"):
        find_length_data(read, "full", small)


def test_difficulty_follows_the_instruction(tmp_path: Path) -> None:
    """The order of the rows does not change which difficulty an instruction gets."""
    folder = write_data_set(tmp_path / "data", 40)
    rows = annotation_rows(40, 2)
    results = []
    for some in (rows, rows[::-1]):
        read = read_annotations(write_rows(tmp_path / "a.json", some))
        control = win_rate(read, *find_length_data(read, "full", folder)).length_controlled
        assert control is not None
        results.append(control.stderr)  # the spread of the predictions by difficulty
    assert results[0] == pytest.approx(results[1], rel=0.05)


def test_hub_is_used_only_for_alpacaevals_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    ours = read_annotations(write_rows(tmp_path / "a.json", annotation_rows(40, 2, dataset="mine")))
    theirs = read_annotations(write_rows(tmp_path / "b.json", annotation_rows(40, 2)))
    with running_hub() as hub:
        hub.add("tatsu-lab/alpaca_eval", data_set(40), kind="dataset")
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        assert find_length_data(ours) == (None, "the annotations are not of AlpacaEval's data sets")
        data, note = find_length_data(theirs)
        assert note is None
        assert data is not None
        assert len(data.difficulty) == 40
        assert len(data.gamed.preference) == 80
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert find_length_data(theirs)[0] is not None  # from the cache
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    data, note = find_length_data(theirs)
    assert data is None
    assert "HF_HUB_OFFLINE" in str(note)
    with pytest.raises(HubError):
        find_length_data(theirs, "full")


def broken(**changes: Any) -> list[dict[str, Any]]:
    """Return three annotations, the second with changes; the value "gone" removes a key."""
    rows = annotation_rows(3, 1)
    rows[1].update(changes)
    rows[1] = {k: v for k, v in rows[1].items() if v != "gone"}
    return rows


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"a": 1}, "entry 1 has no 'preference'"),
        ([], "has no entries"),
        ([3], "row 1: is not a JSON object"),
        (broken(preference="gone"), "entry 2 has no 'preference'. Is this an annotations file?"),
        (broken(preference="2"), "entry 2: 'preference' is '2', not a number"),
        (broken(preference=True), "not a number"),
        (broken(preference=2.5), "entry 2: 'preference' is 2.5, outside"),
        (broken(answer_mass=1.2), "entry 2: 'answer_mass' is 1.2, not a probability"),
        (broken(model_first="0.5"), "entry 2: 'model_first' is '0.5', not a probability"),
        (broken(output_1="gone"), "entry 2 has no string under 'output_1'"),
        (broken(instruction=" "), "entry 2 has an empty string under 'instruction'"),
        (broken(generator_2="other"), "several names under 'generator_2' (model, other)"),
        ([{**r, "preference": None} for r in annotation_rows(3, 1)], "none of its 3 entries has a preference"),
        ([{k: v for k, v in r.items() if k != "generator_1"} for r in annotation_rows(3, 1)], "no entry has a name"),
    ],
)
def test_malformed_annotations_are_refused(tmp_path: Path, rows: object, message: str) -> None:
    path = write_rows(tmp_path / "a.json", rows)
    with pytest.raises(InputError) as e:
        read_annotations(path)
    assert message in str(e.value)
    assert str(path) in str(e.value)


def test_files_that_are_not_json_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("preference,1", "utf-8")
    with pytest.raises(InputError, match=r"a\.json:1: is not JSON"):
        read_annotations(tmp_path / "a.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_annotations(tmp_path / "none.json")
    (tmp_path / "a.json").write_text("[" * 10**5, "utf-8")
    with pytest.raises(InputError, match=r"a\.json: is not JSON: it is nested more than 64 deep"):
        read_annotations(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b"\xff\xfe[]")
    with pytest.raises(InputError, match=r"is UTF-16, not UTF-8\."):
        read_annotations(tmp_path / "a.json")
