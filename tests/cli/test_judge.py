"""generate, judge and winrate as users run them, on the embedded pair; and one error line for each bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_cli import assert_refused, run
from tests.support.alpaca_files import annotation_rows, write_data_set, write_rows

TEXTS = ["What is the town of Suki?", "Greet me.", "What does Kedo keep?", "Name a colour."]


def outputs(generator: str, answers: list[str], texts: list[str] = TEXTS) -> list[dict[str, Any]]:
    return [
        {"instruction": t, "output": a, "generator": generator, "dataset": "mine"}
        for t, a in zip(texts, answers, strict=True)
    ]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Output files, good and bad, and annotations."""
    theirs = outputs("R", ["Oslo", "Hello!", "rabbit", "blue"])
    contents: dict[str, object] = {
        "ours": outputs("M", ["Rome", "Hello!", "a rabbit", "Red."])[::-1],
        "theirs": theirs,
        "fewer": theirs[:2],
        "empty": outputs("M", ["Rome", "", "a", "b"]),
        "twice": [*theirs, theirs[0]],
        "object": {"instruction": "x", "output": "y"},
        "long": outputs("M", ["w " * 400] * 4),
        "annotations": annotation_rows(30, 1),
        "unannotated": theirs,
    }
    paths = {name: write_rows(tmp_path / f"{name}.json", rows) for name, rows in contents.items()}
    (tmp_path / "text.json").write_text("no JSON", "utf-8")
    return {**paths, "text": tmp_path / "text.json", "data": write_data_set(tmp_path / "data", 30)}


def test_from_prompts_to_a_win_rate(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "prompts.json", [{"instruction": t} for t in TEXTS])
    for lam in (0, 1):
        common = ["--prompts", "prompts.json", "--max-tokens", 8, "--threads", 1, "-o", f"lam{lam}.json"]
        assert run(capsys, "generate", f"demo@{lam}", *common)[0] == 0
    words = ["judge", "lam1.json", "--reference", "lam0.json", "--judge", "demo@1", "--threads", 1, "--allow-empty"]
    status, out, _ = run(capsys, *words)
    assert status == 0
    assert "demo@1 against demo@0, judged by demo@1" in out
    assert "lam1-vs-lam0.json: see pa-lite winrate" in out
    assert run(capsys, *words)[0] == 1  # the file exists
    status, out, _ = run(capsys, *words, "--json", "--limit", 3, "-o", "few.json")
    document = json.loads(out)
    assert (document["n_pairs"], document["options"]["limit"], document["judge"]) == (3, 3, "demo@1")
    status, out, err = run(capsys, "winrate", "lam1-vs-lam0.json", "--json")
    assert (status, err) == (0, "")
    rates = json.loads(out)
    assert (rates["model"], rates["reference"], rates["annotator"], rates["n_total"]) == (
        "demo@1",
        "demo@0",
        "demo@1",
        4,
    )
    assert sorted(p.name for p in tmp_path.glob("*.json")) == sorted(
        ["few.json", "lam0.json", "lam1.json", "lam1-vs-lam0.json", "prompts.json"]
    )


def test_winrate_names_the_form_of_length_control(capsys: pytest.CaptureFixture[str], files: dict[str, Path]) -> None:
    status, out, _ = run(capsys, "winrate", files["annotations"], "--length-control", "minimal")
    assert status == 0
    assert "model against reference, judged by someone" in out
    assert "Length control: length_controlled_minimal (as asked for)." in out
    out = run(capsys, "winrate", files["annotations"], "--alpaca-data", files["data"])[1]
    assert "Length control: length_controlled_v1." in out


def test_winrate_gives_the_minimal_form_a_name_of_its_own(
    capsys: pytest.CaptureFixture[str], files: dict[str, Path]
) -> None:
    names = ["length_controlled_winrate", "length_controlled_minimal_winrate"]
    for words, missing, label in (
        (["--length-control", "minimal"], names[0], "length-controlled win rate (minimal) "),
        (["--alpaca-data", files["data"]], names[1], "length-controlled win rate "),
    ):
        document = json.loads(run(capsys, "winrate", files["annotations"], *words, "--json")[1])
        assert [name for name in names if document[name] is None] == [missing]
        assert "length_controlled" not in document
        out = run(capsys, "winrate", files["annotations"], *words)[1]
        assert label in out
        assert ("(minimal)" in out) == (missing == names[0])


def test_winrate_compares_the_judge_and_warns(
    capsys: pytest.CaptureFixture[str], files: dict[str, Path], tmp_path: Path
) -> None:
    rows = annotation_rows(30, 1)
    people = [{**r, "annotator": "people", "preference": 1 + (i % 2)} for i, r in enumerate(rows)]
    known = write_rows(tmp_path / "people.json", people)
    undecided = write_rows(tmp_path / "undecided.json", [{**r, "preference": 1.499} for r in rows])
    words = ["winrate", undecided, "--length-control", "minimal"]
    status, out, err = run(capsys, *words)
    assert status == 0
    assert "win rate" in out  # always shown, with its warning
    assert "The judge was not compared with known preferences (--calibration FILE)." in out
    assert err == "warning: the judge prefers neither answer in 100% of pairs.\n"
    status, out, err = run(capsys, *words, "--calibration", known)
    assert status == 0
    assert "Calibration: on 30 pairs the judge agrees with known preferences in 50.0% (s.e. " in out
    assert "the judge is not measurably better than chance." in out
    assert "Win rate adjusted by the known preferences: 50.0% (s.e. 9.3)." in out  # that of the known ones
    document = json.loads(run(capsys, *words, "--calibration", known, "--json")[1])
    assert (document["judge_check"]["n"], document["judge_check"]["beats_length"]) == (30, False)
    assert document["judge_signs"] == ["the judge prefers neither answer in 100% of pairs"]
    few = write_rows(tmp_path / "few.json", people[:5])
    assert "on 5 pairs " in (out := run(capsys, *words, "--calibration", few)[1])
    assert "fewer than 20 pairs show nothing" in out
    status, out, err = run(capsys, "winrate", files["annotations"], "--length-control", "minimal")
    assert (status, err) == (0, "")  # a judge that decides has no signs


def test_judge_is_compared_with_other_known_pairs(
    capsys: pytest.CaptureFixture[str], files: dict[str, Path], tmp_path: Path
) -> None:
    people = [
        {"instruction": f"Count to {i}.", "output_1": f"{i}", "output_2": f"{i} or so", "preference": 1 + i % 2}
        for i in range(20)
    ]
    words = ["judge", files["ours"], "--reference", files["theirs"], "--judge", "demo@1", "--threads", 1]
    words += ["--calibration", write_rows(tmp_path / "people.json", people), "-o", tmp_path / "a.json"]
    status, out, _ = run(capsys, *words)
    assert status == 0
    assert "Calibration: on 20 pairs the judge agrees" in out
    assert "adjusted" not in out  # the known pairs are not those of the win rate
    assert len(json.loads((tmp_path / "a.json").read_text("utf-8"))) == 4


def test_pairs_not_judged_are_counted(
    capsys: pytest.CaptureFixture[str], files: dict[str, Path], tmp_path: Path
) -> None:
    words = ["judge", files["ours"], "--reference", files["theirs"], "--judge", "demo@1", "--threads", 1]
    status, out, _ = run(capsys, *words, "-o", tmp_path / "a.json", "--n-ctx", 150)
    assert status == 0
    assert "4 pairs: 0 asked, 0 of them ties; 1 identical answers; 3 not judged: too long for the judge." in out
    rows = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert [r["preference"] for r in rows] == [None, None, 1.5, None]
    assert all("the judge's context holds 150" in r["unjudged"] for r in rows if r["preference"] is None)
    out = run(capsys, "winrate", tmp_path / "a.json")[1]
    assert "1 pairs: 0 wins, 0 losses, 1 draws; 3 not judged." in out
    words[1] = files["long"]
    assert run(capsys, *words, "-o", tmp_path / "b.json")[0] == 0
    status, _, err = run(capsys, "winrate", tmp_path / "b.json")
    assert status == 1
    assert "none of its 4 entries has a preference" in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["judge", "{ours}", "--reference", "{fewer}", "--judge", "demo@1"], "lacks 2 of the 4 instructions"),
        (["judge", "{empty}", "--reference", "{theirs}", "--judge", "demo@1"], "1 of 4 outputs are empty"),
        (["judge", "{ours}", "--reference", "{twice}", "--judge", "demo@1"], "repeats the instruction of entry 1"),
        (["judge", "{object}", "--reference", "{theirs}", "--judge", "demo@1"], "lacks 1 of the 1 instructions"),
        (["judge", "{text}", "--reference", "{theirs}", "--judge", "demo@1"], ":1: is not JSON"),
        (["judge", "nope.json", "--reference", "{theirs}", "--judge", "demo@1"], "nope.json: cannot be read"),
        (["judge", "{ours}", "--reference", "{theirs}", "--judge", "nope.gguf"], "is not a model"),
        (["judge", "{ours}", "--reference", "{theirs}", "--judge", "demo@x"], "is not a number"),
        (["judge", "{ours}", "--reference", "{theirs}", "--judge", "demo@1", "-o", "no/a.json"], "does not exist"),
        (["winrate", "{unannotated}"], "entry 1 has no 'preference'"),
        (["winrate", "{object}"], "entry 1 has no 'preference'"),
        (["winrate", "nope.json"], "cannot be read"),
        (["winrate", "{annotations}", "--alpaca-data", "nope"], "alpaca_eval.json: cannot be read"),
        (["winrate", "{annotations}", "--calibration", "nope.json"], "nope.json: cannot be read"),
        (["winrate", "{annotations}", "--calibration", "{theirs}"], "entry 1 has no 'preference'"),
        (["winrate", "{annotations}", "--calibration", "{annotations}"], "by 'someone', the judge itself"),
        (
            ["judge", "{ours}", "--reference", "{theirs}", "--judge", "demo@1", "--calibration", "{theirs}"],
            "entry 1 has no 'preference'",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    words: list[str], told: str,
) -> None:  # fmt: skip
    assert_refused(capsys, monkeypatch, tmp_path, words, files, told)
