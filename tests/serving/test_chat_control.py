"""What is typed in a chat, with the embedded pair: each command, unknown ones, and messages."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pa_lite
from pa_lite.api.serving import (
    ChatControl,
    ChatSession,
    Confirmation,
    ContextFullError,
    Left,
    LiveComparison,
    LiveTurn,
    Said,
    open_chat,
)
from pa_lite.errors import InputError, OutputError, PaLiteError
from pa_lite.serving.chat_commands import COMMANDS, Line, parse_line

ASK = "In one word: what does Sada keep?"
ONE = pa_lite.EngineOptions(threads=1)


@pytest.fixture(scope="module")
def opened() -> Iterator[ChatSession]:
    with open_chat("demo", pa_lite.GenerationOptions(max_tokens=24), engine=ONE, max_memory="60M") as session:
        yield session


@pytest.fixture
def control(opened: ChatSession) -> ChatControl:
    opened.clear()
    opened.set_system("")
    opened.options = pa_lite.GenerationOptions(max_tokens=24)
    opened.move(0.6)
    return ChatControl(opened)


def said(control: ChatControl, text: str) -> str:
    outcome = control.run(text)
    assert isinstance(outcome, Said)
    return outcome.text


def answered(control: ChatControl, text: str) -> str:
    outcome = control.run(text)
    assert isinstance(outcome, LiveTurn)
    return "".join(piece.text for piece in outcome.pieces())


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Hello", Line("", "Hello")), ("  two\nlines ", Line("", "two\nlines")), ("//lam", Line("", "/lam")),
        ("/lam 0.4", Line("/lam", "0.4")), ("/LAM", Line("/lam", "")), ("/quit", Line("/exit", "")),
        ("/system a\nb", Line("/system", "a\nb")), ("/?", Line("/help", "")),
    ],
)  # fmt: skip
def test_lines_are_commands_or_messages(text: str, line: Line) -> None:
    assert parse_line(text) == line


@pytest.mark.parametrize(
    ("text", "hint"),
    [("/lamb 0.4", "Did you mean /lam"), ("/sav x", "Did you mean /save"), ("/usr/bin", "/help lists all"),
     ("/\x1b[31m", "unknown command /\\x1b[31m")],
)  # fmt: skip
def test_unknown_commands_get_the_nearest_known_one(text: str, hint: str) -> None:
    with pytest.raises(InputError, match=r"sent with // at its start") as caught:
        parse_line(text)
    assert hint in str(caught.value)


def test_every_command_runs(control: ChatControl) -> None:
    shown = said(control, "/help")
    for command in COMMANDS:
        assert f"{command.name} {command.arguments}".strip() in shown
        if command.name == "/exit":
            assert control.run(command.name) == Left()
        else:
            try:
                control.run(command.name)
            except PaLiteError as e:
                assert re.search(r"empty|takes a file name", str(e)), command.name  # noqa: PT017
    assert max(map(len, shown.splitlines())) <= 80


def test_lam_moves_says_how_long_and_shows_what_is_in_memory(control: ChatControl) -> None:
    assert re.fullmatch(r"lam 0\.35: moved in \d+\.\d\d s\.", said(control, "/lam 0.35"))
    assert said(control, "/lam 0.6") == "lam 0.6: it was in memory."
    assert re.fullmatch(r"lam 0\.6; in memory: .*0\.35, 0\.6.* \(room for \d+ models\)\.", said(control, "/lam"))
    with pytest.raises(InputError, match=r"Did you mean 0\.4\?"):
        control.run("/lam 0,4%")
    with pytest.raises(InputError, match="has 2 lams"):
        control.run("/lam 0,1")


def test_compare_takes_lams_in_any_form(control: ChatControl) -> None:
    answered(control, ASK)
    for text, lams in (("0 0.5 1", [0, 0.5, 1]), ("", [0, 0.5, 1]), ("0.2,0.4", [0.2, 0.4]), ("0:1:0.5", [0, 0.5, 1])):
        outcome = control.run(f"/compare {text}")
        assert isinstance(outcome, LiveComparison)
        assert outcome.lams == lams
        assert [a.lam for a in outcome.result()] == lams
    with pytest.raises(InputError, match="'x' is not a number"):
        control.run("/compare x")


def test_system_set_undo_retry_and_clear_say_what_they_did(control: ChatControl) -> None:
    assert said(control, "/system") == "no system prompt; /system TEXT sets one."
    assert said(control, "/system Be brief.") == "system prompt set: it counts from the next answer on."
    assert said(control, "/system") == "system prompt: Be brief."
    answered(control, ASK)
    assert said(control, "/system off").startswith(
        "system prompt removed: it counts from the next answer on. The turns"
    )
    assert said(control, "/set temperature 0.7") == "temperature 0.7, from the next answer on."
    assert said(control, "/set top-k=5") == "top_k 5, from the next answer on."
    assert said(control, "/set") == "max_tokens 24, temperature 0.7, top_p 1, min_p 0, top_k 5, seed 0"
    retried = control.run("/retry")
    assert isinstance(retried, LiveTurn)
    assert retried.is_repeated
    retried.close()
    assert said(control, "/undo") == f"removed: {ASK}"
    assert said(control, "/clear") == "a new conversation: 0 turns dropped."
    for text, error in (
        ("/set temprature 1", "unknown setting 'temprature'. Did you mean temperature?"),
        ("/set temperature", "takes one value"), ("/set top_k 1.5", "must be an integer"),
        ("/set top_p 2", "top_p is 2.0; it must be above 0"), ("/undo 3", "/undo takes nothing after it"),
        ("/forget x", "takes a number of turns"),
    ):  # fmt: skip
        with pytest.raises(InputError) as caught:
            control.run(text)
        assert error in str(caught.value)
    assert control.session.options.temperature == 0.7


def test_forget_asks_the_question_again_that_did_not_fit(control: ChatControl) -> None:
    long = "In one word: what does Sada keep, and what does Mili wear, and where does Bana live? " * 3
    n = 0
    with contextlib.suppress(ContextFullError):
        for n in range(20):
            answered(control, f"{n} {long}")
    assert 2 < n < 19
    outcome = control.run("/forget")
    assert isinstance(outcome, LiveTurn)
    assert (outcome.is_repeated, outcome.n_forgotten) == (True, 1)
    assert list(outcome.pieces()) is not None
    assert outcome.turn is not None
    assert outcome.turn.question == outcome.question.strip()
    assert said(control, "/forget 2").startswith("dropped the oldest turns, 2; ")


def test_save_writes_what_chat_reads_and_overwrites_only_after_yes(control: ChatControl, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to save"):
        control.run(f"/save {tmp_path / 'x.json'}")
    said(control, "/system Be brief.")
    first = answered(control, ASK)
    said(control, "/lam 1")
    second = answered(control, ASK)
    path = tmp_path / "my chat.json"
    assert said(control, f'/save "{path}"') == f"{path}: 2 turns written."
    saved = json.loads(path.read_text("utf-8"))
    assert [m["role"] for m in saved["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    assert [m["content"] for m in saved["messages"][2::2]] == [first, second]
    assert [a["lam"] for a in saved["answers"]] == [0.6, 1.0]
    assert saved["answers"][0]["finish_reason"] == "end"
    assert (saved["model"], saved["settings"]["max_tokens"]) == ("demo", 24)
    with pa_lite.load("demo@1", ONE) as model:  # the file's messages are a conversation
        assert model.chat(saved["messages"][:4], max_tokens=24).text == second
    path.write_text("mine")
    asked = control.run(f"/save {path}")
    assert isinstance(asked, Confirmation)
    assert asked.question == f"{path} exists already. Overwrite it?"
    assert path.read_text() == "mine"
    assert asked.then().text.endswith("2 turns written.")
    assert json.loads(path.read_text("utf-8")) == saved
    if hasattr(os, "symlink"):
        (tmp_path / "link").symlink_to(tmp_path / "nowhere")
        assert isinstance(control.run(f"/save {tmp_path / 'link'}"), Confirmation)
    with pytest.raises(OutputError, match="is a folder"):
        control.run(f"/save {tmp_path}")
    with pytest.raises(OutputError, match="does not exist"):
        control.run(f"/save {tmp_path / 'no' / 'x.md'}")


def test_save_as_markdown_names_the_lam_of_each_answer(control: ChatControl, tmp_path: Path) -> None:
    said(control, "/system Be \x1b[31mbrief.")
    answer = answered(control, ASK)
    said(control, f"/save {tmp_path / 'x.md'}")
    text = (tmp_path / "x.md").read_text("utf-8")
    assert text == (
        "# A conversation with demo\n\n**System prompt**\n\nBe \\x1b[31mbrief.\n\n## User\n\n"
        f"{ASK}\n\n## demo (lam 0.6)\n\n{answer}\n"
    )
