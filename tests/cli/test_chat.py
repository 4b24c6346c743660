"""The chat in a real terminal, and line by line for scripts."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import stat
import sys
from pathlib import Path

import pytest

import pa_lite
from tests.cli.test_cli import run
from tests.support.parrots import write_parrot

if os.name != "posix":
    pytest.skip("requires a pseudo-terminal", allow_module_level=True)
pytest.importorskip("pexpect")

from tests.support.terminals import terminal

ASK = "In one word: what does Sada keep?"
HOSTILE = ["\x1b]0;pwned\x07", "\x1b[31mred", "\u202ertl", "\r over", "x\x08", "\n/exit\n", "plain"]
CHAT = ["chat", "demo", "--threads", "1", "--max-tokens", "24", "--max-memory", "60M"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files that say known texts."""
    folder = tmp_path_factory.mktemp("models")
    words = [f"{word} " for word in ("one", "two", "three", "four", "five", "six")]
    for name, parts, loops in (("hostile", HOSTILE, False), ("endless", words, True)):
        side = write_parrot(folder / name, parts, loops, context=8192)
        pa_lite.merge(side, side, lam=0, type="f16", output=folder / f"{name}.gguf")
    return folder


def alone(lam: float, *texts: str) -> list[str]:
    """Return the answers of a conversation with the model merged at that lam, without a chat."""
    found: list[str] = []
    messages: list[dict[str, str]] = []
    with pa_lite.load("demo", lam=lam, threads=1) as model:
        for text in texts:
            messages.append({"role": "user", "content": text})
            found.append(model.chat(messages, max_tokens=24).text)
            messages.append({"role": "assistant", "content": found[-1]})
    return found


def test_a_chat_moves_along_lam(tmp_path: Path) -> None:
    with terminal(CHAT, tmp_path) as chat:
        welcome = chat.wait_for_prompt()
        assert "demo at lam 0.6 (0 is base, 1 instruct); in memory: 0.6 (room for " in welcome
        assert "/compare 0 0.5 1 shows several lams" in welcome
        assert chat.say(ASK) == alone(0.6, ASK)[0]
        assert re.fullmatch(r"lam 1: moved in \d+\.\d\d s\.", chat.say("/lam 1"))
        chat.say("/clear")
        assert chat.say(ASK) == alone(1, ASK)[0]
        assert chat.say("/lam 0.6") == "lam 0.6: it was in memory."
        chat.say("/undo")
        assert chat.say(ASK) == alone(0.6, ASK)[0]
        second = chat.say("And what does Mili wear?")
        assert second == alone(0.6, ASK, "And what does Mili wear?")[1]
        columns = chat.say("/compare 0 0.6").split("\n")
        assert columns[-3].split("  ")[0] == "lam 0"
        assert columns[-3].rstrip().endswith("  lam 0.6")
        assert columns[-1].rstrip().endswith(second)
        assert chat.say("/undo") == "removed: And what does Mili wear?"
        assert chat.say("/save x.json") == "x.json: 1 turn written."
        chat.start("/exit")
        assert chat.end() == 0
    saved = json.loads((tmp_path / "x.json").read_text("utf-8"))
    assert [m["content"] for m in saved["messages"]] == [ASK, *alone(0.6, ASK)]


def test_ctrl_c_stops_an_answer_and_not_the_chat(tmp_path: Path, models: Path) -> None:
    with terminal(["chat", str(models / "endless.gguf"), "--max-tokens", "8000", "--threads", "1"], tmp_path) as chat:
        chat.wait_for_prompt()
        chat.start("Count.")
        chat.read("three four")
        chat.process.sendintr()
        assert chat.wait_for_prompt().strip().endswith("[stopped]")
        assert chat.say("/set max_tokens 4") == "max_tokens 4, from the next answer on."
        assert chat.say("Count.") == "one two three four\n[cut at 4 tokens: /set max_tokens]"
        assert chat.say("/save x.json") == "x.json: 2 turns written."
        chat.process.send("half a line")
        chat.process.send("\x03")
        assert "Ctrl-D" not in chat.wait_for_prompt()
        chat.process.send("\x03")
        assert "Ctrl-D or /exit leaves the chat." in chat.wait_for_prompt()
        chat.process.send("\x04")
        assert chat.end() == 0
    saved = json.loads((tmp_path / "x.json").read_text("utf-8"))
    assert [a["finish_reason"] for a in saved["answers"]] == ["stopped", "length"]
    assert saved["messages"][1]["content"].startswith("one two three four")


@pytest.mark.parametrize(
    ("number", "is_answering"), [(signal.SIGTERM, True), (signal.SIGTERM, False), (signal.SIGHUP, True)]
)
def test_sigterm_ends_the_chat(tmp_path: Path, models: Path, number: signal.Signals, is_answering: bool) -> None:
    with terminal(["chat", str(models / "endless.gguf"), "--max-tokens", "8000", "--threads", "1"], tmp_path) as chat:
        chat.wait_for_prompt()
        if is_answering:
            chat.start("Count.")
            chat.read("three four")
        else:
            chat.read(">")
        chat.process.kill(number)
        assert chat.end() == 128 + number
        assert "interrupted" in chat.output
        assert "Traceback" not in chat.output


def test_hostile_answers_stay_text(tmp_path: Path, models: Path) -> None:
    with terminal(["chat", str(models / "hostile.gguf"), "--threads", "1"], tmp_path) as chat:
        chat.wait_for_prompt()
        assert "lam is fixed" in chat.output
        chat.start("Hello")
        chat.process.expect_exact("\x1b[?2004h")
        raw = chat.process.before
        assert "\\x1b]0;pwned\\x07\\x1b[31mred\\u202ertl" in raw
        for part in ("\x1b]", "\x1b[31m", "\u202e", "\x07", "\x08"):
            assert part not in raw
        assert "the lam of a GGUF file is fixed" in " ".join(chat.say("/lam 0.5").split())


def test_lines_pasted_continued_and_recalled(tmp_path: Path) -> None:
    with terminal(CHAT, tmp_path) as chat:
        chat.wait_for_prompt()
        chat.say("\x1b[200~/system one\ntwo\x1b[201~")
        assert chat.say("/system") == "system prompt: one\ntwo"
        chat.process.send("/system three \\\r")
        chat.say("four")
        assert chat.say("/system") == "system prompt: three \nfour"
        chat.process.send("/system five\x1b\r")
        chat.say("six")
        assert chat.say("/system") == "system prompt: five\nsix"
        chat.say("/system remembered")
        chat.process.send("\x04")
        assert chat.end() == 0
    kept = tmp_path / "state" / "pa-lite" / "chat-history"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    with terminal([*CHAT, "--no-history"], tmp_path) as chat:
        chat.wait_for_prompt()
        chat.say("/system new")
        chat.process.send("\x04")
        assert chat.end() == 0
    assert "remembered" in kept.read_text("utf-8")
    assert "new" not in kept.read_text("utf-8")
    with terminal(CHAT, tmp_path) as chat:
        chat.wait_for_prompt()
        chat.say("\x1b[A")  # the last line of the chat before the last
        assert chat.say("/system") == "system prompt: remembered"


def test_errors_questions_and_confirmations_are_plain_lines(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("mine")
    with terminal(CHAT, tmp_path, NO_COLOR="1") as chat:
        chat.wait_for_prompt()
        assert "Did you mean /lam" in chat.say("/lamb 3")
        assert chat.say("/lam 3").startswith("error: lam 3 is outside [0, 1]")
        chat.say(ASK)
        for answer, content in (("n", "mine"), ("\x03", "mine"), ("y", "{")):
            chat.process.send("/save mine.json\r")
            chat.read("Overwrite it? [y/N]")
            if answer == "\x03":
                chat.process.send(answer)
            else:
                chat.process.send(answer + "\r")
            said = chat.wait_for_prompt()
            said += chat.wait_for_prompt() if "written" not in said else ""
            assert ("1 turn written" in said) == (answer == "y")
            assert (tmp_path / "mine.json").read_text("utf-8").startswith(content)


class Script:
    """Runs a chat without a terminal, in this process, in a folder."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self._capsys, self._monkeypatch = capsys, monkeypatch
        monkeypatch.chdir(folder)
        monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))

    def __call__(self, text: str | bytes, *words: str) -> tuple[int, str, str]:
        """Return exit status, stdout and stderr."""
        data = text.encode() if isinstance(text, str) else text
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return run(self._capsys, *(words or CHAT))


@pytest.fixture
def script(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Script:
    return Script(capsys, monkeypatch, tmp_path)


def test_scripts_get_plain_answers(script: Script, tmp_path: Path) -> None:
    lines = [
        ASK,
        "/lam 1",
        "/clear",
        "",
        "In one word: \\",
        "what does Sada keep?",
        "/compare 0 1",
        "/exit",
        "not asked",
    ]
    status, out, err = script("\n".join(lines))
    asked = "In one word: \nwhat does Sada keep?"
    below = "\n\n".join(f"## lam {lam}\n{alone(lam, asked)[0]}" for lam in (0, 1))
    assert status == 0
    assert out == f"{alone(0.6, ASK)[0]}\n\n{alone(1, asked)[0]}\n\n{below}\n"
    said = err.splitlines()
    assert re.fullmatch(r"lam 1: moved in \d+\.\d\d s\.", said[0])
    assert said[1:] == ["a new conversation: 1 turn dropped."]
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/lamb 1\n", "error: unknown command /lamb. Did you mean /lam"),
        ("\xff\n".encode("latin-1"), "error: line 1 of standard input is not text in UTF-8"),
        (f"{ASK}\n/save here.json\n{ASK}\n", "error: here.json exists already. Choose another name."),
        ("x " * 600, "error: the message has "),
    ],
)  # fmt: skip
def test_scripts_end_at_the_first_error(script: Script, tmp_path: Path, text: str | bytes, said: str) -> None:
    (tmp_path / "here.json").write_text("mine")
    status, _, err = script(text)
    assert status == 1
    assert err.splitlines()[-1].startswith(said)
    assert (tmp_path / "here.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["demo", "Who is it?"], 2, "'Who is it?' is not a checkpoint: MODEL is one name or file, or BASE and"),
        (["demoo"], 1, "nor PAIR@LAM such as demo@0.7. Did you mean demo?"),
        ([], 2, "missing argument 'MODEL'"), (["demo@0.5", "--lam", "0.3"], 1, "'demo@0.5' already has a lam"),
        (["demo", "--max-memory", "1M"], 1, "is not enough for one model"),
        (["demo", "--study", "nowhere"], 1, "nowhere: no study was found."),
        (["demo", "--lam", "2"], 1, "lam 2 is outside [0, 1]"),
    ],
)  # fmt: skip
def test_errors_before_the_chat_are_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], status: int, said: str
) -> None:
    found, out, err = run(capsys, "chat", *words)
    assert (found, out) == (status, "")
    assert said in err.splitlines()[0]


def test_a_full_context_is_one_line_unless_forget_drops_turns(script: Script) -> None:
    long = "In one word: what does Sada keep, and what does Mili wear, and where does Bana live? " * 3
    lines = "".join(f"{i} {long}\n" for i in range(7))
    status, _, err = script(lines)
    assert status == 1
    assert re.search(r"error: the context is full: \d+ of 512 tokens with this message", err)
    status, _, err = script(lines, *CHAT, "--forget")
    assert status == 0
    assert "the context was full: the oldest turn was dropped." in err


def test_a_chat_starts_at_a_studys_best_lam(script: Script, tmp_path: Path) -> None:
    pa_lite.sweep("demo", tasks="demo_kind", follow="demo", lams="0,1", limit=8, follow_limit=12, run=tmp_path / "run")
    _, _, err = script("/lam\n", *CHAT, "--study", "run")
    assert err.startswith("lam 1; in memory: 1 ")
    _, _, err = script("", *CHAT, "--study", "run", "--lam", "0.5")
    assert err == "error: lam 0.5 and study run are both given: leave one of them out.\n"


def test_a_dumb_terminal_works(tmp_path: Path) -> None:
    with terminal(CHAT, tmp_path, TERM="dumb") as chat:
        chat.read("lam 0.6 > ")
        chat.process.send(f"{ASK}\r")
        chat.read(alone(0.6, ASK)[0])
        chat.read("lam 0.6 > ")
        chat.process.send("/exit\r")
        assert chat.end() == 0


def test_commands_and_their_arguments_are_completed() -> None:
    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document

    from pa_lite.api.serving import open_chat
    from pa_lite.cli.line_editor import _Commands, state_in_words

    def offered(text: str) -> list[str]:
        return [c.text for c in completer.get_completions(Document(text), CompleteEvent())]

    with open_chat("demo", engine=pa_lite.EngineOptions(threads=1), lam=0.35, max_memory="30M") as session:
        completer = _Commands(session)
        assert offered("/s") == ["/system", "/set", "/save"]
        assert offered("/lam 0.3") == ["0.35", "0.3"][:1]
        assert offered("/compare 0 0.") == [f"0.{i}" for i in range(1, 10)]
        assert offered("/set te") == ["temperature"]
        assert offered("/system o") == ["off"]
        assert offered("//lam") == offered("text /lam") == offered("/lam 1\n") == []
        assert state_in_words(session, 80) == " demo | lam 0.35 | 0 of 512 tokens | in memory: 0.35 | /help "
        assert state_in_words(session, 30) == " demo | lam 0.35 "
        assert len(state_in_words(session, 4)) == 4
