"""The command `tune`: its plan, its questions, what it prints, and one line for every wrong input."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from tests.cli.test_cli import run
from tests.study.test_examples import towns

ONE_CLASS = "question,answer\n" + "".join(f"q{i},yes\n" for i in range(12))
FEW = "question,answer\n" + "".join(f"q{i},{i % 2}\n" for i in range(7))
ODD = "alpha,beta,gamma\n" + "".join(f"q{i},{i % 2},x\n" for i in range(12))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    towns(tmp_path).rename("my.csv")
    return tmp_path


def type_in(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let standard input be a terminal on which a text is typed."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal(text))


def test_a_table_becomes_a_model_that_is_described(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    status, out, err = run(capsys, "tune", "demo", "--examples", "my.csv")
    assert status == 0
    lines = out.splitlines()
    assert lines[0].startswith("For few-shot accuracy alone: lam ")
    assert lines[-4].startswith("The written file, on 8 items that had no part in the choice: few-shot accuracy ")
    file, report, card = map(Path, lines[-3:])
    assert (report, card) == (Path("demo-tuned/report.html"), Path("demo-tuned/README.md"))
    assert all(path.is_file() for path in (file, report, card))
    assert "demo, for few-shot accuracy alone: Q8_0 file in demo-tuned\n" in err
    assert "my 22 at 4 of 11 lams\nheld out, to check the file: my 8\n" in err
    for line in (
        f"chat: pa-lite chat {file}",
        f"serve: pa-lite serve {file}",
        "share: pa-lite push demo-tuned ORG/NAME",
    ):
        assert line in err.splitlines()
    status, again, _ = run(capsys, "tune", "demo", "--examples", "my.csv", "--json")
    found = json.loads(again)
    assert (status, found["path"], found["held_out"]["n"]) == (0, str(file), 8)
    assert found["sentences"] == lines[:-3]
    status, out, _ = run(capsys, "generate", file, "--max-tokens", "4", "What does Tobi do?")
    assert status == 0


def test_a_dry_run_measures_nothing_that_is_kept(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    words = ["tune", "demo", "--examples", "my.csv", "--type", "q4_k_m", "-o", "there"]
    status, out, err = run(capsys, *words, "--dry-run")
    assert (status, out) == (0, "")
    assert "Q4_K_M file in there" in err
    assert "to measure; about " in err
    plan = json.loads(run(capsys, *words, "--dry-run", "--json")[1])
    assert (plan["lams"], plan["grid"], plan["items"], plan["held_out"]) == (4, 11, {"my": 22}, {"my": 8})
    assert 1e6 < plan["file_bytes"] < 4e6
    assert [path.name for path in here.iterdir()] == ["my.csv"]


def test_it_asks_once_on_a_terminal(
    capsys: pytest.CaptureFixture[str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    type_in(monkeypatch, "n\n")
    status, out, err = run(capsys, "tune", "demo", "--examples", "my.csv")
    assert (status, out) == (130, "")
    assert "Start? [Y/n]" in err
    assert not (here / "demo-tuned").exists()
    type_in(monkeypatch, "")  # --yes asks nothing
    assert run(capsys, "tune", "demo", "--examples", "my.csv", "--yes")[0] == 0


@pytest.mark.skipif(sys.platform == "win32", reason="requires a pseudo-terminal")
def test_on_a_terminal_the_next_step_can_be_chosen(here: Path) -> None:
    from tests.support.terminals import terminal

    with terminal(["tune", "demo", "--examples", "my.csv"], here) as tuning:
        tuning.read("Start? [Y/n]: ")
        tuning.process.send("\r")
        said = tuning.read("next: c chat, s serve, m compare, p share (push), Enter nothing: ")
        assert "The written file, on 8 items" in said
        tuning.process.send("m\r")
        tuning.read("Question: ")
        tuning.process.send("One word only: what does Tobi do?\r")
        assert "doctor" in tuning.read("chat at one of them: pa-lite chat demo --lam ")
        assert tuning.end() == 0


@pytest.mark.parametrize(("words", "status", "said"), [
    ([], 2, "error: missing --tasks NAMES, --examples FILE, --text or --prompts."),
    (["--examples", "odd.csv"], 1, "error: odd.csv: "),
    (["--examples", "one.csv"], 1, "error: one.csv: every row has the output 'yes'. At least two are required."),
    (["--examples", "few.csv"], 1, "error: few.csv: has 7 rows; at least 8 are required, 30 are useful."),
    (["--examples", "none.csv"], 1, "error: none.csv: cannot be read: "),
    (["--text", "short.txt"], 1, "error: the text has 5 bytes (--text): too few."),
    (["--examples", "my.csv", "--prompts", "long.txt"], 1, "error: long: prompt 1 has "),
    (["--examples", "my.csv", "--keep-follow", "0.9"], 1, "error: few-shot accuracy with at least 90% of instruct's"),
    (["--examples", "my.csv", "--weight", "2"], 1, "error: weight 2 is outside [0, 1]"),
    (["--examples", "my.csv", "--type", "q9"], 1, "error: unknown output type 'Q9'. Known: BF16, "),
    (["--examples", "my.csv", "-o", "my.csv"], 1, "error: my.csv: is a file. Name a folder (-o)."),
])  # fmt: skip
def test_wrong_input_is_one_error_line(
    capsys: pytest.CaptureFixture[str], here: Path, words: list[str], status: int, said: str
) -> None:
    for name, text in (("odd.csv", ODD), ("one.csv", ONE_CLASS), ("few.csv", FEW), ("short.txt", "short"),
                       ("long.txt", "word " * 600)):  # fmt: skip
        (here / name).write_text(text, "utf-8")
    found, out, err = run(capsys, "tune", "demo", *words, "--yes")
    assert (found, out) == (status, "")
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith(said)
    assert "Traceback" not in err
