"""Parts that the campaigns share: processes with a time limit, the errors they may print, and findings."""

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
MOST_SHOWN = 3  # findings of one row that are printed


class ChaosError(PaLiteError):
    """The campaign itself cannot continue."""


@dataclass(frozen=True)
class Outcome:
    """How a process ended: its status (negative: the signal), what it wrote, and how long it took, in seconds."""

    status: int
    out: str
    err: str
    seconds: float


@dataclass
class Row:
    """A line of the table: fault, job, rounds, rounds in which the fault met the job at work, and findings."""

    fault: str
    job: str
    rounds: int = 0
    met: int = 0
    findings: list[str] = field(default_factory=list)
    note: str = ""

    def found(self, *problems: str) -> None:
        """Record broken promises, and print them immediately, because a campaign may be stopped."""
        for problem in problems:
            print(f"{self.fault}, {self.job}: {problem}", file=sys.stderr, flush=True)
        self.findings += problems


def command(*words: str | Path) -> list[str]:
    """Return pa-lite's command line, run by this Python."""
    return [sys.executable, "-m", "pa_lite", *map(str, words)]


class Process:
    """A process in a separate group, so that a kill includes its children; output goes to files."""

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
        """Send a signal to the whole group, if it still exists."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def end(self, limit: float = PATIENCE) -> Outcome:
        """Wait for the end. After `limit` seconds it is killed, and the outcome says so."""
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
    """Run a process until it ends."""
    return Process(words, environment, folder).end()


def good_end(outcome: Outcome) -> list[str]:
    """Return problems of a process that should have succeeded."""
    if outcome.status == 0 and "Traceback" not in outcome.err:
        return []
    return [f"ended with status {outcome.status}: {last_line(outcome.err)}"]


def clear_error(outcome: Outcome) -> list[str]:
    """Return problems of a process that had to fail with one error line, status 1 and no traceback."""
    lines = [line for line in outcome.err.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    if outcome.status == 1 and len(errors) == 1 and len(lines) == 1 and "a bug in pa-lite" not in errors[0]:
        return []
    return [f"status {outcome.status}, {len(lines)} lines of error: {last_line(outcome.err)}"]


def last_line(text: str) -> str:
    """Return the last line that is not empty."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no output")


@contextlib.contextmanager
def at_moments(moments: Sequence[tuple[float, Callable[[], None]]]) -> Iterator[None]:
    """Call each function after its seconds, within the block; those that are not due by its end are skipped."""
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
    """Return a random moment within an undisturbed run, from its start to its end."""
    return rng.uniform(0.0, seconds)


def show(rows: Sequence[Row], seconds: float) -> None:
    """Print the table, as Markdown, and each row's findings below it."""
    print("| fault | job | rounds | met at work | found |")
    print("|---|---|---|---|---|")
    for row in rows:
        found = f"{len(row.findings)} findings" if row.findings else row.note or "nothing"
        print(f"| {row.fault} | {row.job} | {row.rounds} | {row.met} | {found} |")
    findings = sum(len(row.findings) for row in rows)
    print(f"\n{sum(row.rounds for row in rows)} rounds, {findings} findings, {seconds:.0f} s")
    for row in rows:
        for problem in row.findings[:MOST_SHOWN]:
            print(f"- {row.fault}, {row.job}: {problem}")
        if len(row.findings) > MOST_SHOWN:
            print(f"- {row.fault}, {row.job}: {len(row.findings) - MOST_SHOWN} more")
