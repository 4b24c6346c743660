"""The command `generate` with questions: words, standard input and files; as text, streamed, and as JSON."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import pytest

import pa_lite
from tests.cli.test_cli import run
from tests.support.parrots import write_parrot

ASK = ["In one word: what does Sada keep?", "One word only: what does Mili wear?"]
MORE = ["--threads", 1, "--max-tokens", 24]


@pytest.fixture(scope="module")
def answers() -> list[str]:
    with pa_lite.load("demo@0.7", threads=1) as model:
        return [each.output for each in model.generate(ASK, max_tokens=24)]


def give(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_a_question_gets_its_answer_as_text(capsys: pytest.CaptureFixture[str], answers: list[str]) -> None:
    for words in (["demo@0.7"], ["demo", "--lam", "0.7"]):
        assert run(capsys, "generate", *words, ASK[0], *MORE) == (0, f"{answers[0]}\n", "")


def test_several_questions_get_headings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answers: list[str]
) -> None:
    listed = "\n".join(f"# {text}\n{answer}\n" for text, answer in zip(ASK, answers, strict=True))
    assert run(capsys, "generate", "demo@0.7", *ASK, *MORE) == (0, listed, "")
    (tmp_path / "Q.TXT").write_text(f"\ufeff{ASK[0]}\r\n\n  {ASK[1]}\n", "utf-8")
    assert run(capsys, "generate", "demo@0.7", tmp_path / "Q.TXT", *MORE) == (0, listed, "")
    (tmp_path / "q.jsonl").write_text("".join(json.dumps({"instruction": text}) + "\n" for text in ASK))
    assert run(capsys, "generate", "demo@0.7", tmp_path / "q.jsonl", *MORE) == (0, listed, "")
    give(monkeypatch, f"{ASK[1]}\n".encode())
    assert run(capsys, "generate", "demo@0.7", ASK[0], "-", *MORE) == (0, listed, "")


def test_json_and_output_are_as_for_prompts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, answers: list[str]
) -> None:
    status, out, _ = run(capsys, "generate", "demo@0.7", ASK[0], "--json", *MORE)
    assert status == 0
    assert json.loads(out) == [
        {"instruction": ASK[0], "output": answers[0], "generator": "demo@0.7", "dataset": "custom"}
    ]
    assert run(capsys, "generate", "demo@0.7", ASK[0], "-o", tmp_path / "o.json", *MORE)[0] == 0
    assert json.loads((tmp_path / "o.json").read_text("utf-8")) == json.loads(out)
    (tmp_path / "q.txt").write_text(ASK[0])
    assert json.loads(run(capsys, "generate", "demo@0.7", "--prompts", tmp_path / "q.txt", *MORE)[1])[0] == {
        **json.loads(out)[0], "dataset": "q"
    }  # fmt: skip


def test_two_checkpoints_with_and_without_questions(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, answers: list[str]
) -> None:
    demo = pa_lite.pairs()["demo"]
    sides = [demo.base, demo.instruct]
    assert run(capsys, "generate", "--pair", *sides, "--lam", "0.7", ASK[0], *MORE) == (0, f"{answers[0]}\n", "")
    (tmp_path / "q.txt").write_text(ASK[0])
    status, out, _ = run(capsys, "generate", *sides, "--lam", "0.7", "--prompts", tmp_path / "q.txt", *MORE)
    assert (status, json.loads(out)[0]["output"]) == (0, answers[0])
    for words in (["--pair", "demo"], ["--pair=demo"]):  # an older spelling
        status, out, _ = run(capsys, "generate", *words, "--lam", "0.7", "--prompts", tmp_path / "q.txt", *MORE)
        assert (status, json.loads(out)[0]["output"]) == (0, answers[0])
    status, _, err = run(capsys, "generate", *sides, "--lam", "0.7", ASK[0], *MORE)
    assert (status, "questions follow --pair: --pair BASE INSTRUCT QUESTION" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["demo@0.7"], 2, "a question is missing, such as"), ([], 2, "missing argument 'MODEL'"),
        (["demo@0.7", "x y", "--prompts", "demo"], 2, "questions and --prompts are both given"),
        (["demo", "x y"], 1, "'demo' is a pair, and a model needs a lam"),
        (["demo@0.7", "foo.txt"], 1, "foo.txt: does not exist"), (["demo@0.7", "foo.jsonl"], 1, "foo.jsonl: does not"),
        (["demo@0.7", "other.gguf"], 1, "other.gguf: is a model, not a question. Two checkpoints are named as --pair"),
        (["demo@0.7", "notes.md"], 1, "notes.md: is a file, but only .txt, .json and .jsonl are read as prompts"),
        (["demo@0.7", " "], 1, "a question is empty"), (["demo@0.7", "empty.txt"], 1, "empty.txt: has no lines"),
        (["demo@0.7", "binary.txt"], 1, "binary.txt: is not text in UTF-8"),
        (["demo@0.7", "-", "-"], 1, "standard input (-) can be read once"),
        (["demo@0.7", "x", "--resume"], 1, "--resume requires -o"), (["nope", "x y"], 1, "'nope' is not a model"),
    ],
)  # fmt: skip
def test_errors_are_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: list[str],
    status: int, said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.md").write_text("x")
    (tmp_path / "other.gguf").write_text("x")
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe")
    found, out, err = run(capsys, "generate", *words)
    assert (found, out) == (status, "")
    assert said in err.splitlines()[0]


@pytest.mark.parametrize(("data", "said"), [(b"", "is empty"), (b" \n", "is empty"), (b"\xff", "is not text in UTF-8")])
def test_standard_input_must_be_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, data: bytes, said: str
) -> None:
    give(monkeypatch, data)
    status, _, err = run(capsys, "generate", "demo@0.7", "-")
    assert (status, said in err) == (1, True)


def test_unquoted_words_get_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "generate", "demo@0.7", "What", "is", "it?", "--max-tokens", 1, "--threads", 1)
    assert (status, out.count("# ")) == (0, 3)
    assert err == "note: these are 3 questions. Quote one of several words.\n"


@pytest.mark.skipif(os.name != "posix", reason="requires a pseudo-terminal")
def test_answers_are_streamed_to_a_terminal(tmp_path: Path) -> None:
    pytest.importorskip("pexpect")
    from tests.support.terminals import bare, terminal

    side = write_parrot(tmp_path / "side", ["one ", "two ", "three "], loops=True, context=8192)
    pa_lite.merge(side, side, lam=0, type="f16", output=tmp_path / "m.gguf")
    words = ["generate", "m.gguf", "Count.", "--threads", "1", "--max-tokens"]
    with terminal([*words, "40"], tmp_path) as shown:
        assert shown.end() == 0
        text = bare(shown.output)
    assert "one two three one two" in text
    assert text.rstrip().endswith("[cut at 40 tokens: --max-tokens]")
    assert all(len(line) <= 80 for line in text.split("\n"))
    with terminal([*words, "8000"], tmp_path) as shown:
        shown.read("two three")  # while the rest is generated
        shown.process.sendintr()
        assert shown.end() == 130
        assert "interrupted" in shown.output
