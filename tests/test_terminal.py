from __future__ import annotations

import io
import re
import sys
import time

import pytest

from pa_lite.cli.terminal import token_bar


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
