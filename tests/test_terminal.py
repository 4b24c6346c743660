from __future__ import annotations

import io
import json
import logging
import re
import sys
import time

import pytest

from pa_lite import cli
from pa_lite.cli.terminal import show_json, show_table, tell, token_bar
from pa_lite.texts import plain


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_shows_tokens_a_second_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, clock = Screen(), [100.0]
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with token_bar("generate") as (progress, on_tokens):
        progress(4, 9)  # four are there from an earlier run
        for done in (5, 6):
            clock[0] += 2.0
            on_tokens(50)
            time.sleep(0.11)  # tqdm draws no sooner
            progress(done, 9)
    shown = screen.getvalue()
    assert "25 tokens/s" in shown
    assert re.search(r" 5/9 \[\d\d:\d\d<\d\d:\d\d, .*25 tokens/s", shown)  # done of all, time gone < time left
    assert "0/9" not in shown.split("4/9")[1]


def test_no_bar_where_nobody_sees_it(capsys: pytest.CaptureFixture[str]) -> None:
    with token_bar("generate") as (progress, on_tokens):
        progress(0, 2)
        on_tokens(5)
        progress(2, 2)
    assert capsys.readouterr() == ("", "")


HOSTILE = "a\x1b]0;title\x07\x9b2J\x00\r\u202eb"
HARMLESS = r"a\x1b]0;title\x07\x9b2J\x00\r\u202eb"


def test_texts_from_files_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert plain(HOSTILE) == HARMLESS
    assert plain("größer\t名\n") == "größer\t名\n"
    tell(HOSTILE)
    tell(HOSTILE, err=True)
    show_table(["", HOSTILE], [["x", HOSTILE]])
    out, err = capsys.readouterr()
    assert err == f"{HARMLESS}\n"
    assert out.startswith(f"{HARMLESS}\n")
    assert out.count(HARMLESS) == 3
    assert plain(out) == out
    show_json({HOSTILE: [HOSTILE, "名"]})
    out = capsys.readouterr().out
    assert plain(out) == out
    assert json.loads(out) == {HOSTILE: [HOSTILE, "名"]}


def test_errors_and_log_lines_are_plain(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    with pytest.raises(SystemExit):
        cli.main(["inspect", f"no/{HOSTILE}".replace("\0", "")])
    logging.getLogger("pa_lite").warning("name %s", HOSTILE)
    error, warning = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: no/{HARMLESS}".replace(r"\x00", "").replace(r"\r", " "))
    assert warning == f"WARNING: name {HARMLESS}"
