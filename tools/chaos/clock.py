"""Jump the clock by hours, forward and back, while a job works: results, resuming, locks and bars must not change.

A `sitecustomize` changes Python's time of day (time.time) and not the monotonic clock, as when a machine's time is set.
Setting the machine's clock would disturb other programs, and with libfaketime the monotonic clock's sleeps fail. The
time that C libraries read does not change; SQLite and llama.cpp do not use the time of day.
"""

from __future__ import annotations

import functools
import os
import random
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.chaos.jobs import Job, fresh
from tools.chaos.runs import Outcome, Process, Row, at_moments, command, good_end, moment, run

_HOURS = 12.0
_JUMPS = 4  # during a run
_WRONG_BAR = re.compile(r"[\[<,] *-\d")  # an elapsed time, a remaining time or a speed below 0
_SITE = """
import os, time
_time = time.time
def _turned():
    with open({path!r}) as f:
        return _time() + 3600 * float(f.read().rstrip("h") or 0)
time.time = _turned
time.time_ns = lambda: int(_turned() * 1e9)
"""


class Clock:
    """Changes the time of processes that are started with its environment."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "offset"
        self.turn(0.0)
        site = folder / "site"
        site.mkdir(exist_ok=True)
        (site / "sitecustomize.py").write_text(_SITE.format(path=str(self._file)), "utf-8")
        path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
        self.environment = {"PYTHONPATH": path}

    def turn(self, hours: float) -> None:
        """Set the clock `hours` off, atomically."""
        other = self._file.with_suffix(".new")
        other.write_text(f"{hours:+.3f}h", "utf-8")
        other.replace(self._file)


def campaign(job: Job, rounds: int, rng: random.Random, folder: Path) -> list[Row]:
    """Run with a clock that jumps; every second run is killed and resumed at another time."""
    row = Row("clock that jumps", job.name)
    clock = Clock(folder / "clock")
    problem = _turns(clock, folder)
    if problem:
        row.note = f"skipped: {problem}"
        return [row]
    for variant in job.variants[:2]:
        job.measure(variant, folder / "undisturbed")
    for number in range(rounds):
        variant = job.variants[number % min(2, len(job.variants))]
        out = fresh(folder, number)
        _round(job, variant, rng, out, folder, clock, row, is_killed=number % 2 == 0)
        shutil.rmtree(out)
    return [row]


def _turns(clock: Clock, folder: Path) -> str:
    """Return why the clock cannot be changed; empty if it can."""
    clock.turn(-100.0)
    code = "import time; a = time.monotonic(); print(time.time()); print(time.monotonic() - a)"
    ended = run([command()[0], "-c", code], clock.environment, folder / "log")
    try:
        now, steady = map(float, ended.out.split())
    except ValueError:
        return f"the clock could not be changed ({ended.err[-200:]})"
    clock.turn(0.0)
    return "" if abs(now - time.time() + 360000) < 60 and 0 <= steady < 5 else "the clock could not be changed"


def _round(
    job: Job, variant: str, rng: random.Random, out: Path, folder: Path, clock: Clock, row: Row, is_killed: bool
) -> None:
    row.rounds += 1
    hours = [rng.uniform(-_HOURS, _HOURS) for _ in range(_JUMPS)]
    moments = sorted(moment(rng, job.seconds[variant]) for _ in hours)
    case = f"{variant} jumps to {', '.join(f'{h:+.1f} h at {m:.2f} s' for h, m in zip(hours, moments, strict=True))}"
    jumps = [(at, functools.partial(clock.turn, h)) for at, h in zip(moments, hours, strict=True)]
    if is_killed:
        process = Process(job.words(out, variant), {**job.environment(out), **clock.environment}, folder / "log")
        at = moment(rng, job.seconds[variant])
        with at_moments([*jumps, (at, lambda: process.signal(signal.SIGKILL))]):
            process.end()
        case += f", killed at {at:.2f} s"
        clock.turn(rng.uniform(-_HOURS, _HOURS))
        for path in out.rglob("*"):
            if not path.is_symlink() and rng.random() < 0.5:  # files from the past and the future
                os.utime(path, ns=(0, time.time_ns() + int(rng.uniform(-_HOURS, _HOURS) * 3.6e12)))
    row.met += 1
    if not job.is_done(out, variant):
        words = job.words(out, variant, again=is_killed)
        ended, screen = _on_screen(words, {**job.environment(out), **clock.environment}, folder / "log", jumps)
        row.found(*(f"{case}: {problem}" for problem in good_end(ended)))
        if _WRONG_BAR.search(screen) or "Traceback" in screen:
            row.found(f"{case}: the bar shows {_WRONG_BAR.search(screen)}")
    if not job.is_done(out, variant):
        row.found(f"{case}: the result differs from an undisturbed one")
    row.found(*(f"{case}: {name} is left" for name in job.left(out) if not variant.endswith("resume")))
    clock.turn(0.0)


def _on_screen(
    words: list[str], environment: dict[str, str], log: Path, jumps: Sequence[tuple[float, Callable[[], None]]]
) -> tuple[Outcome, str]:
    """Run with stderr on a terminal, where bars are drawn; return the outcome, and what the terminal showed."""
    import pty

    master, slave = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        while True:
            try:
                piece = os.read(master, 1 << 16)
            except OSError:  # the other end is closed
                return
            if not piece:
                return
            shown.append(piece)

    process = Process(words, environment, log, err=slave)
    os.close(slave)
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with at_moments(jumps):
        ended = process.end()
    reader.join(10)
    os.close(master)
    screen = b"".join(shown).decode("utf-8", "replace")
    return Outcome(ended.status, ended.out, screen, ended.seconds), screen
