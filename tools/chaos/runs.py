"""What the campaign's parts share: processes with a time limit, what they may say when they fail, and findings."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pa_lite.errors import PaLiteError

PATIENCE = 180.0  # seconds after which a process counts as hung
MOST_SHOWN = 3  # findings of one row that are told in full


class ChaosError(PaLiteError):
    """The campaign itself cannot go on."""


@dataclass(frozen=True)
class Outcome:
    """How a process ended: its status (negative: the signal), what it wrote, and how long it took, in seconds."""

    status: int
    out: str
    err: str
    seconds: float


@dataclass
class Row:
    """A line of the table: what was done how often, how often it met the job at work, and what was found."""

    fault: str
    job: str
    rounds: int = 0
    met: int = 0
    findings: list[str] = field(default_factory=list)
    note: str = ""

    def found(self, *problems: str) -> None:
        """Note broken promises, and tell them at once: a campaign may be stopped."""
        for problem in problems:
            print(f"{self.fault}, {self.job}: {problem}", file=sys.stderr, flush=True)
        self.findings += problems


def command(*words: str | Path) -> list[str]:
    """pa-lite's command line, run by this Python."""
    return [sys.executable, "-m", "pa_lite", *map(str, words)]


class Process:
    """A process in a group of its own, so that a kill takes its helpers too; output goes to files."""

    def __init__(
        self, words: Sequence[str], environment: Mapping[str, str], folder: Path, err: int | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._paths = [folder / "stdout", folder / "stderr"]
        self._begin = time.monotonic()
        with self._paths[0].open("wb") as out, self._paths[1].open("wb") as own:
            self.process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=out, stderr=own if err is None else err,
                env={**os.environ, **environment}, cwd=folder, start_new_session=True,
            )  # fmt: skip

    def signal(self, number: int) -> None:
        """Send a signal to the whole group; one that is gone does no harm."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def end(self, limit: float = PATIENCE) -> Outcome:
        """Wait for the end. After `limit` seconds it is killed, and the outcome tells so."""
        hung = ""
        try:
            status = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            hung = f"hung for {limit:.0f} s"
            self.signal(signal.SIGKILL)
            status = self.process.wait()
        except BaseException:
            self.signal(signal.SIGKILL)
            self.process.wait()
            raise
        out, err = (path.read_text("utf-8", "replace") for path in self._paths)
        return Outcome(status, out, f"{err}{hung}", time.monotonic() - self._begin)


def run(words: Sequence[str], environment: Mapping[str, str], folder: Path) -> Outcome:
    """Run a process to its end."""
    return Process(words, environment, folder).end()


def good_end(outcome: Outcome) -> list[str]:
    """Problems of a process that should have done its work."""
    if outcome.status == 0 and "Traceback" not in outcome.err:
        return []
    return [f"ended with status {outcome.status}: {last_line(outcome.err)}"]


def clear_error(outcome: Outcome) -> list[str]:
    """Problems of a process that had to give up: one line of error, status 1, no traceback."""
    lines = [line for line in outcome.err.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    if outcome.status == 1 and len(errors) == 1 and len(lines) == 1 and "a bug in pa-lite" not in errors[0]:
        return []
    return [f"status {outcome.status}, {len(lines)} lines of error: {last_line(outcome.err)}"]


def last_line(text: str) -> str:
    """The last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")


@contextlib.contextmanager
def at_moments(moments: Sequence[tuple[float, Callable[[], None]]]) -> Iterator[None]:
    """Within the block, call each function so many seconds from now; what is not due by the end is left out."""
    import threading

    ended = threading.Event()

    def work() -> None:
        begin = time.monotonic()
        for moment, call in sorted(moments, key=lambda entry: entry[0]):
            if ended.wait(max(0.0, begin + moment - time.monotonic())):
                return
            call()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def moment(rng: random.Random, seconds: float) -> float:
    """A moment within an undisturbed run, from its very start to its end."""
    return rng.uniform(0.0, seconds)


def show(rows: Sequence[Row], seconds: float) -> None:
    """Print the table, as Markdown, and each row's findings below it."""
    print("| fault | job | rounds | met at work | found |")
    print("|---|---|---|---|---|")
    for row in rows:
        told = f"{len(row.findings)} findings" if row.findings else row.note or "nothing"
        print(f"| {row.fault} | {row.job} | {row.rounds} | {row.met} | {told} |")
    findings = sum(len(row.findings) for row in rows)
    print(f"\n{sum(row.rounds for row in rows)} rounds, {findings} findings, {seconds:.0f} s")
    for row in rows:
        for problem in row.findings[:MOST_SHOWN]:
            print(f"- {row.fault}, {row.job}: {problem}")
        if len(row.findings) > MOST_SHOWN:
            print(f"- {row.fault}, {row.job}: {len(row.findings) - MOST_SHOWN} more")
