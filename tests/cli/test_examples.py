"""`--examples` and `tasks new` as users run them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_cli import run

ROWS = "\n".join(["question;answer;other", *(f"word {i};{'odd' if i % 2 else 'even'};x{i}" for i in range(30))])


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("my.csv").write_text(ROWS, "utf-8")
    return Path("my.csv")


def test_a_task_file_is_written_shown_and_scored_like_the_table(
    capsys: pytest.CaptureFixture[str], table: Path
) -> None:
    status, out, err = run(capsys, "tasks", "new", table)
    assert (status, out) == (0, "my.toml\n")
    assert err == "see it: pa-lite tasks show my.toml\nscore it: pa-lite score MODEL --tasks my.toml\n"
    status, out, err = run(capsys, "tasks", "show", "my.toml", "--json")
    shown = json.loads(out)
    assert (status, err) == (0, "")
    assert shown["prompt"].splitlines()[-1] == "- word 0 ->"
    assert [text for _, text in shown["requests"]] == [" even", " odd"]
    both: list[list[object]] = [["--examples", table], ["--tasks", "my.toml"]]
    documents = [json.loads(run(capsys, "score", "demo@0.5", *words, "--json")[1]) for words in both]
    assert documents[0]["results"] == documents[1]["results"]
    assert documents[0]["results"]["my"]["sample_len"] == 30
    assert documents[0]["task_hashes"] == documents[1]["task_hashes"]


def test_columns_and_kind_can_be_named_and_files_are_not_overwritten(
    capsys: pytest.CaptureFixture[str], table: Path
) -> None:
    words = ["tasks", "new", table, "--input", "other", "--output", "question", "--kind", "g"]
    assert run(capsys, *words, "-o", "t.toml", "--json")[1] == '{\n "task": "t.toml"\n}\n'
    text = Path("t.toml").read_text("utf-8")
    assert 'answers = "question | trim"' in text
    status, _, err = run(capsys, *words, "-o", "t.toml")
    assert (status, err.startswith("error: t.toml: exists already. Use --force")) == (1, True)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["score", "demo@0.5"], 2, "error: missing --tasks NAMES, or --examples FILE."),
        (["search", "demo"], 2, "error: missing --tasks NAMES, --examples FILE, --text or --prompts."),
        (["score", "demo@0.5", "--tasks", "demo", "--input", "x"], 2, "error: --input is for --examples."),
        (["sweep", "demo", "--tasks", "demo", "--output", "x"], 2, "error: --output-column is for --examples."),
        (["score", "demo@0.5", "--examples", "my.csv", "--output", "answer"], 2,
         "error: --output is the results file: name the column with --output-column answer."),
        (["score", "demo@0.5", "--tasks", "my.csv"], 1, "error: 'my.csv' is not a task but a table: use --examples"),
        (["sweep", "demo", "--examples", "my.csv", "--input", "q"], 1, "error: my.csv: has no column 'q'"),
        (["search", "demo", "--examples", "none.csv"], 1, "error: none.csv: cannot be read: "),
        (["tasks", "new", "my.csv", "-o", "below/t.toml"], 1, "error: below: the folder to write t.toml to does"),
        (["tasks", "new", "my.csv", "--kind", "x"], 2, "error: invalid value for '--kind'"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_error_line(
    capsys: pytest.CaptureFixture[str], table: Path, words: list[str], status: int, said: str
) -> None:
    assert table.exists()
    found, out, err = run(capsys, *words)
    assert (found, out) == (status, "")
    assert err.startswith(said)
    assert [path.name for path in Path().iterdir()] == ["my.csv"]
