"""The command `compare`: side by side, below each other, as JSON, and its errors."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

import pa_lite
from tests.cli.test_cli import run
from tests.support.parrots import write_parrot

ASK = "In one word: what does Sada keep?"
MORE = ["--threads", 1, "--max-tokens", 24]
FIRST = ["alpha ", "bravo ", "charlie ", "delta ", "echo ", "foxtrot "]


@pytest.fixture(scope="module")
def answers() -> dict[float, str]:
    found = pa_lite.compare("demo", ASK, lams="0,0.5,0.8,1", max_tokens=24, threads=1)
    return {a.lam: a.text for a in found.questions[0].answers if a.lam is not None}


def test_without_a_terminal_answers_are_below_each_other(
    capsys: pytest.CaptureFixture[str], answers: dict[float, str]
) -> None:
    status, out, err = run(capsys, "compare", "demo", "--lam", "0,0.5,0.8,1", ASK, *MORE)
    assert status == 0
    assert out == "\n".join(f"## lam {lam:g}\n{text}\n" for lam, text in answers.items())
    assert err == "chat at one of them: pa-lite chat demo --lam 0.5\n"
    status, out, _ = run(capsys, "compare", "demo", "--lam", "0.5", ASK, "Name it.", *MORE)
    assert out.startswith(f"# {ASK}\n## lam 0.5\n{answers[0.5]}\n\n# Name it.\n## lam 0.5\n")


def test_json_has_every_answer(capsys: pytest.CaptureFixture[str], answers: dict[float, str]) -> None:
    status, out, err = run(capsys, "compare", "demo", ASK, "--json", *MORE)
    assert (status, err) == (0, "")
    (question,) = json.loads(out)["questions"]
    assert {a["lam"]: a["text"] for a in question["answers"]} == {lam: answers[lam] for lam in (0, 0.5, 1)}


def test_a_pair_of_checkpoints_and_other_spellings(
    capsys: pytest.CaptureFixture[str], answers: dict[float, str]
) -> None:
    demo = pa_lite.pairs()["demo"]
    for words in (["--pair", demo.base, demo.instruct, ASK], ["--pair", "demo", ASK], ["--pair=demo", ASK]):
        status, out, _ = run(capsys, "compare", *words, "--lams", "1", *MORE)
        assert (status, out) == (0, f"## lam 1\n{answers[1]}\n")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["demo"], 2, "a question is missing"), ([], 2, "missing argument 'PAIR'"),
        (["demo", "x", "--lam", "0,2"], 1, "lam 2 is outside [0, 1]"),
        (["demo", "x", "--lam", "0,0.004"], 1, "lam 0 is named twice"),
        (["nopair", "x"], 1, "unknown pair 'nopair'"), (["demo@0.5", "x"], 1, "unknown pair 'demo@0.5'"),
        (["demo", "missing.txt"], 1, "missing.txt: does not exist"), (["demo", ""], 1, "a question is empty"),
        (["demo", "x", "--max-memory", "1M"], 1, "is not enough for one model"),
    ],
)  # fmt: skip
def test_errors_are_one_line(capsys: pytest.CaptureFixture[str], words: list[str], status: int, said: str) -> None:
    found, out, err = run(capsys, "compare", *words)
    assert (found, out) == (status, "")
    assert said in err.splitlines()[0]


@pytest.mark.skipif(os.name != "posix", reason="requires a pseudo-terminal")
@pytest.mark.parametrize(("columns", "is_wide"), [(160, True), (80, False)])
def test_a_wide_terminal_shows_columns(tmp_path: Path, answers: dict[float, str], columns: int, is_wide: bool) -> None:
    pytest.importorskip("pexpect")
    from tests.support.terminals import bare, terminal

    words = ["compare", "demo", "--lam", "0,0.5,0.8,1", ASK, "--threads", "1", "--max-tokens", "24"]
    with terminal(words, tmp_path, columns) as shown:
        assert shown.end() == 0
        lines = bare(shown.output).split("\n")
    if is_wide:
        assert [part for line in lines for part in re.split("  +", line.strip()) if part.startswith("lam ")][-4:] == [
            "lam 0", "lam 0.5", "lam 0.8", "lam 1"
        ]  # fmt: skip
        assert re.split("  +", lines[-4].strip()) == list(answers.values())
        assert all(len(line) <= columns for line in lines[-6:])
    else:
        text = "\n".join(lines)
        assert "\n\n".join(f"## lam {lam:g}\n{text}" for lam, text in answers.items()) in text


@pytest.mark.skipif(os.name != "posix", reason="requires a pseudo-terminal")
def test_long_answers_end_whole_and_ctrl_c_keeps_what_there_is(tmp_path: Path) -> None:
    pytest.importorskip("pexpect")
    from tests.support.terminals import bare, terminal

    for name, parts in (("base", FIRST), ("instruct", FIRST[::-1])):
        write_parrot(tmp_path / name, parts, loops=True, context=8192)
    words = ["compare", "--pair", "base", "instruct", "--lam", "0,1", "Say.", "--threads", "1", "--max-tokens"]
    with terminal([*words, "600"], tmp_path, 80, 12) as shown:
        assert shown.end() == 0
        text = bare(shown.output)
    whole = text[text.rindex("lam 0 ") :]
    assert whole.count("alpha") == 200
    assert whole.count("[cut at 600 tokens:") == 2
    with terminal([*words, "8000"], tmp_path, 80, 12) as shown:
        shown.read("charlie")
        shown.process.sendintr()
        assert shown.end() == 130
        text = bare(shown.output)
    assert text.count("[stopped]") == 2
    assert text.rstrip().endswith("interrupted")
