"""A clock that jumps by hours, there and back, while a job works: results, going on, locks and bars must not mind.

A `sitecustomize` turns the day's time as Python tells it (time.time), and leaves the steady clock alone, as on a
machine whose time is set. Setting the machine's own would disturb all else that runs there, and libfaketime has the
steady clock's sleeps fail. What C libraries read is not turned; SQLite and llama.cpp do not ask for the day's time.
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
_WRONG_BAR = re.compile(r"[\[<,] *-\d")  # a time gone, a time left or a speed below nothing
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
    """What turns the time of processes that are started with its environment."""

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
        """Set the clock so many hours off, at once."""
        other = self._file.with_suffix(".new")
        other.write_text(f"{hours:+.3f}h", "utf-8")
        other.replace(self._file)


def campaign(job: Job, rounds: int, rng: random.Random, folder: Path) -> list[Row]:
    """Runs under a clock that jumps; every second one is killed and gone on with under another time."""
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
    """Why the clock cannot be turned; empty if it can."""
    clock.turn(-100.0)
    code = "import time; a = time.monotonic(); print(time.time()); print(time.monotonic() - a)"
    ended = run([command()[0], "-c", code], clock.environment, folder / "log")
    try:
        now, steady = map(float, ended.out.split())
    except ValueError:
        return f"no clock could be turned ({ended.err[-200:]})"
    clock.turn(0.0)
    return "" if abs(now - time.time() + 360000) < 60 and 0 <= steady < 5 else "no clock could be turned"


def _round(
    job: Job, variant: str, rng: random.Random, out: Path, folder: Path, clock: Clock, row: Row, is_killed: bool
) -> None:
    row.rounds += 1
    hours = [rng.uniform(-_HOURS, _HOURS) for _ in range(_JUMPS)]
    moments = sorted(moment(rng, job.seconds[variant]) for _ in hours)
    told = f"{variant} jumps to {', '.join(f'{h:+.1f} h at {m:.2f} s' for h, m in zip(hours, moments, strict=True))}"
    jumps = [(at, functools.partial(clock.turn, h)) for at, h in zip(moments, hours, strict=True)]
    if is_killed:
        process = Process(job.words(out, variant), {**job.environment(out), **clock.environment}, folder / "log")
        at = moment(rng, job.seconds[variant])
        with at_moments([*jumps, (at, lambda: process.signal(signal.SIGKILL))]):
            process.end()
        told += f", killed at {at:.2f} s"
        clock.turn(rng.uniform(-_HOURS, _HOURS))
        for path in out.rglob("*"):
            if not path.is_symlink() and rng.random() < 0.5:  # files of the past and of the future
                os.utime(path, ns=(0, time.time_ns() + int(rng.uniform(-_HOURS, _HOURS) * 3.6e12)))
    row.met += 1
    if not job.is_done(out, variant):
        words = job.words(out, variant, again=is_killed)
        ended, screen = _on_screen(words, {**job.environment(out), **clock.environment}, folder / "log", jumps)
        row.found(*(f"{told}: {problem}" for problem in good_end(ended)))
        if _WRONG_BAR.search(screen) or "Traceback" in screen:
            row.found(f"{told}: the bar shows {_WRONG_BAR.search(screen)}")
    if not job.is_done(out, variant):
        row.found(f"{told}: the result differs from an undisturbed one")
    row.found(*(f"{told}: {name} is left" for name in job.left(out) if not variant.endswith("resume")))
    clock.turn(0.0)


def _on_screen(
    words: list[str], environment: dict[str, str], log: Path, jumps: Sequence[tuple[float, Callable[[], None]]]
) -> tuple[Outcome, str]:
    """Run with stderr on a terminal, where bars are drawn; the outcome, and what the terminal showed."""
    import pty

    master, slave = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        while True:
            try:
                piece = os.read(master, 1 << 16)
            except OSError:  # nobody has the other end any more
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
