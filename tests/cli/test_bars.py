"""What bars and lines say of work: phase, speed, time left; and what an interrupt says."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pa_lite.cli.bars import bar, duration
from pa_lite.progress import expect


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_bar_shows_phase_speed_and_time_left(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "120")
    with bar("generate") as progress:
        progress("generate", 4, 24, "answers")  # four are from an earlier run
        for done in (6, 8):
            clock[0] += 1.0
            progress("generate", (done - 4) * 50, 0, "tokens")
            clock[0] += 1.0
            progress("generate", done, 24, "answers")
    shown = screen.getvalue()
    assert " 33%|" in shown
    assert re.search(r"generate \xb7 1 answers/s \xb7 50 tokens/s \xb7 16 s left", shown)


def test_an_estimate_of_the_work_itself_is_preferred(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "120")
    with bar("sweep") as progress:
        progress("lam 0 \xb7 few-shot 1/8 boolq", 0, 1000, "items")
        clock[0] += 10
        expect(progress, 7200.0)
        progress("lam 0 \xb7 few-shot 2/8 rte", 500, 1000, "items")
    assert "lam 0 \xb7 few-shot 2/8 rte \xb7 50 items/s \xb7 2 h 0 min left" in screen.getvalue()


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.2, "1 s"), (59.6, "60 s"), (179, "179 s"), (300, "5 min"), (5400, "1 h 30 min")]
)
def test_durations_are_said_as_people_say_them(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_lines_for_logs_come_at_the_start_once_a_minute_and_at_the_end(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with bar("sweep") as progress:
        progress("lam 0", 0, 1000, "items")
        for second in range(1, 131):
            clock[0] += 1
            progress("lam 0", 5 * second, 1000, "items")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "lam 0: started, 1,000 items in all"
    assert lines[1].startswith("32% (325 items): lam 0 \xb7 5 items/s \xb7 135 s left")
    assert len(lines) == 4
    assert lines[-1] == "lam 0: done, 650 items in 130 s"


def test_short_work_prints_nothing_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("generate") as progress:
        progress("generate", 0, 2, "answers")
        progress("generate", 5, 0, "tokens")
        progress("generate", 2, 2, "answers")
    assert capsys.readouterr() == ("", "")


def test_hostile_phases_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with bar("x") as progress:
        progress("a\x1b]0;t\x07b", 1, 1, "items")
    assert "\x07" not in screen.getvalue()
    assert r"a\x1b]0;t\x07b" in screen.getvalue()


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_says_what_is_kept(tmp_path: Path, number: signal.Signals) -> None:
    words = ["sweep", "demo", "--tasks", "demo", "--follow", "demo", "--run", str(tmp_path / "run")]
    process = subprocess.Popen(
        [sys.executable, "-m", "pa_lite", *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    while process.poll() is None and not list((tmp_path / "run").glob("study.sqlite*")):
        time.sleep(0.05)
    time.sleep(1.0)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    last = err.splitlines()[-1]
    assert last.startswith("interrupted: finished items are kept in ")
    assert "run the same command again to continue" in last
