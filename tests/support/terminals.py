"""A chat, or another command, in a real terminal of a given size. POSIX only: requires pexpect."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pexpect

import pa_lite

_TREE = Path(pa_lite.__file__).parents[1]
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1b[=>]|\r")
_READY, _SENT = "\x1b[?2004h", "\x1b[?2004l"  # the line editor accepts pasted text; it no longer does
SECONDS = 120  # the machine may be busy


def bare(text: str) -> str:
    """Return a terminal's output without escape sequences and carriage returns."""
    return _ESCAPES.sub("", text)


class Terminal:
    """A running command of pa-lite. `output` is everything that it has written and was read."""

    def __init__(self, words: list[str], folder: Path, columns: int = 80, lines: int = 24, **settings: str) -> None:
        environment = {
            **os.environ, "PYTHONPATH": str(_TREE), "TERM": "xterm", "XDG_STATE_HOME": str(folder / "state"),
            "PROMPT_TOOLKIT_NO_CPR": "1", "PYTHONUTF8": "1", "COLUMNS": "", "LINES": "", **settings,
        }  # fmt: skip
        environment = {name: value for name, value in environment.items() if value}
        self.process: Any = pexpect.spawn(
            sys.executable, ["-m", "pa_lite", *words], env=environment, cwd=str(folder), timeout=SECONDS,
            encoding="utf-8", dimensions=(lines, columns),
        )  # fmt: skip
        self.process.delaybeforesend = None
        self.output = ""

    def read(self, until: str) -> str:
        """Return what the command writes up to a text, without escape sequences."""
        self.process.expect_exact(until)
        self.output += self.process.before + until
        return bare(str(self.process.before))

    def wait_for_prompt(self) -> str:
        """Return what the command writes before the line editor is ready."""
        return self.read(_READY)

    def start(self, line: str) -> None:
        """Type a line and press Enter, once the line editor is ready."""
        self.process.send(line + "\r")
        self.read(_SENT)

    def say(self, line: str) -> str:
        """Type a line and press Enter; return what is written up to the next prompt, without outer white space."""
        self.start(line)
        return self.wait_for_prompt().strip()

    def end(self) -> int:
        """Wait for the command's end; return its exit status."""
        self.process.expect(pexpect.EOF)
        self.output += self.process.before
        self.process.close()
        status = self.process.exitstatus
        return int(-self.process.signalstatus if status is None else status)


@contextmanager
def terminal(words: list[str], folder: Path, columns: int = 80, lines: int = 24, **settings: str) -> Iterator[Terminal]:
    """Run a command in a terminal, and end it after the block."""
    running = Terminal(words, folder, columns, lines, **settings)
    try:
        yield running
    finally:
        with suppress(pexpect.ExceptionPexpect):  # it has ended
            running.process.kill(signal.SIGKILL)
            running.process.wait()
        running.process.close()
