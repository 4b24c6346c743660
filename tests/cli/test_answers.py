"""Answers as they are printed: wrapped at words, escaped, with reasoning and how they ended."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from rich.cells import cell_len

from pa_lite.cli import answers
from pa_lite.cli.answers import AnswerPrinter, WordWrap, note_of, show_heading

TEXT = "Once upon a time  there was a fox.\n\n\tIt was quick:\n```\na very long line of code that stays\n```\nThe end."


def wrapped(text: str, width: int, seed: int = 0) -> str:
    """Return the text wrapped, given in pieces of random lengths."""
    rng, wrap, out = random.Random(seed), WordWrap(width), []
    while text:
        n = rng.randint(1, 5)
        out.append(wrap.add(text[:n]))
        text = text[n:]
    return "".join(out) + wrap.end()


@pytest.mark.parametrize("width", [20, 24, 31, 200])
def test_words_stay_whole_and_nothing_else_changes(width: int) -> None:
    found = wrapped(TEXT, width)
    assert found == wrapped(TEXT, width, seed=1)
    assert found.split() == TEXT.split()
    lines = found.split("\n")
    assert "a very long line of code that stays" in lines
    assert all(cell_len(line.expandtabs()) <= width for line in lines if "long" not in line)
    if width == 200:
        assert found == TEXT


def test_long_words_and_scripts_without_spaces() -> None:
    assert wrapped("a " + "x" * 30 + " b", 10).split() == ["a", "x" * 30, "b"]
    japanese = "\u65e5\u672c\u8a9e" * 8
    lines = wrapped(f"ab {japanese}", 10).split("\n")
    assert "".join(lines) == f"ab {japanese}"
    assert max(map(cell_len, lines)) <= 10


@dataclass
class Part:
    text: str = ""
    reasoning: str = ""


def test_without_a_terminal_only_the_text_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    printer = AnswerPrinter()
    for part in (Part("", "let me think"), Part("a \x1b[31mred\u202e "), Part("word")):
        printer.add(part)
    printer.end("[stopped]")
    assert capsys.readouterr().out == "a \\x1b[31mred\\u202e word\n"
    AnswerPrinter().end()
    assert capsys.readouterr().out == "\n"
    show_heading("a\nquestion \x07", is_first=True)
    assert capsys.readouterr().out == "# a question \\x07\n"


def test_on_a_terminal_reasoning_and_endings_are_dimmed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "is_terminal", lambda: True)
    monkeypatch.setattr(answers, "terminal_width", lambda: 20)
    monkeypatch.setenv("NO_COLOR", "1")
    printer = AnswerPrinter()
    for part in (
        Part("", "I must think of "),
        Part("", "something long"),
        Part("It is "),
        Part("this."),
    ):
        printer.add(part)
    printer.end(note_of("length", "[cut]"))
    assert capsys.readouterr().out == "reasoning:\nI must think of\nsomething long\n\nIt is this.\n[cut]\n"
    AnswerPrinter().end()
    assert capsys.readouterr().out == "[empty answer]\n"
    printer = AnswerPrinter()
    printer.add(Part("", "only this"))
    printer.end(note_of("reasoning", ""))
    assert capsys.readouterr().out == ("reasoning:\nonly this\n\n[the model ended its turn within its reasoning]\n")
