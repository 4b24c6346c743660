"""Two processes at once on one target: one result, complete and right; the one that stops says so in one line."""

from __future__ import annotations

import itertools
import random
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from tools.chaos.jobs import Fetch, Job, Merge, fresh
from tools.chaos.kill import go_on
from tools.chaos.runs import Process, Row, at_moments, clear_error, command, good_end, moment

_CLEANERS = 6  # doctors during one run


def campaign(job: Job, rounds: int, rng: random.Random, folder: Path) -> list[Row]:
    """Run the job twice at once; for merge also two different ones; and the job while doctors clean up."""
    variants = job.variants[:2]
    for variant in variants:
        job.measure(variant, folder / "undisturbed")
    twice, cleaned = Row("two at once", job.name), Row("doctor --clean at work", job.name)
    rows = [twice, cleaned]
    chosen = itertools.cycle(variants)
    for number in range(rounds):
        variant = next(chosen)
        out = fresh(folder, number)
        _twice(job, variant, rng, out, folder, twice)
        shutil.rmtree(out)
        out.mkdir()
        _cleaned(job, variant, rng, out, folder / "log", cleaned)
        shutil.rmtree(out)
    if type(job) is Merge:
        rows.append(_rivals(job, rounds, rng, folder))
    return rows


def _two(first: Sequence[str], second: Sequence[str], job: Job, out: Path, folder: Path, delay: float) -> list[Process]:
    """Run two processes, the second `delay` seconds after the first; return both when they have ended."""
    started = Process(first, job.environment(out), folder / "log-1")
    time.sleep(delay)
    return [started, Process(second, job.environment(out), folder / "log-2")]


def _twice(job: Job, variant: str, rng: random.Random, out: Path, folder: Path, row: Row) -> None:
    row.rounds += 1
    delay = moment(rng, job.seconds[variant]) * rng.choice((0.0, 0.05, 1.0))
    case = f"{variant} again after {delay:.3f} s"
    words = job.words(out, variant)
    ended = [process.end() for process in _two(words, words, job, out, folder, delay)]
    lost = [each for each in ended if each.status]
    row.met += bool(lost)
    row.found(*(f"{case}: {problem}" for each in lost for problem in clear_error(each)))
    if lost and isinstance(job, Fetch):
        row.found(f"{case}: one of two fetches failed: {lost[0].err.strip()}")
    if len(lost) == len(ended):
        row.found(f"{case}: neither finished: {lost[0].err.strip()} / {lost[1].err.strip()}")
    elif not job.is_done(out, variant):
        row.found(f"{case}: the result differs from an undisturbed one")
    row.found(*(f"{case}: {name} is left" for name in job.left(out)))


def _cleaned(job: Job, variant: str, rng: random.Random, out: Path, log: Path, row: Row) -> None:
    """Let doctors clean up the job's folders while it works, in some rounds after a killed run."""
    row.rounds += 1
    temporary = job.scene.folder / "tmp"
    clean = command("doctor", "--clean", "--yes", out, temporary)
    if rng.random() < 0.5:
        process = Process(job.words(out, variant), job.environment(out), log)
        with at_moments([(moment(rng, job.seconds[variant]), lambda: process.signal(signal.SIGKILL))]):
            process.end()
    doctors: list[Process] = []

    def begin() -> None:
        place = log.with_name(f"log-{len(doctors)}")
        doctors.append(Process(clean, job.environment(out), place))

    moments = [(moment(rng, job.seconds[variant]), begin) for _ in range(_CLEANERS)]
    case = f"{variant} with doctors at {', '.join(f'{at:.2f}' for at, _ in sorted(moments, key=lambda m: m[0]))} s"
    with at_moments(moments):
        ended = go_on(job, variant, out, log) if not job.is_done(out, variant) else None
    row.met += len(doctors) > 0
    row.found(*(f"{case}: {problem}" for problem in (good_end(ended) if ended is not None else [])))
    row.found(*(f"{case}, a doctor: {problem}" for doctor in doctors for problem in good_end(doctor.end())))
    if not job.is_done(out, variant):
        row.found(f"{case}: the result differs from an undisturbed one")


def _rivals(job: Job, rounds: int, rng: random.Random, folder: Path) -> Row:
    """Merge two lams to one file at once: without --force one is refused, with it the last one wins."""
    row = Row("two at once", "merge, other lam")
    pair = job.scene.small
    expected: dict[str, object] = {}

    def words(lam: str, out: Path, *options: str) -> list[str]:
        inputs = (pair / "base", pair / "instruct")
        return command("merge", *inputs, "--lam", lam, "--threads", "1", "-o", out / "m.gguf", *options)

    seconds = 0.0
    for lam in ("0.3", "0.6"):
        out = folder / f"alone-{lam}"
        out.mkdir()
        ended = Process(words(lam, out), job.environment(out), folder / "log").end()
        seconds = ended.seconds
        expected[lam] = job.results(out)
    for number in range(rounds):
        row.rounds += 1
        options = ([], ["--force"], ["--resume"])[number % 3]
        out = fresh(folder, number)
        delay = moment(rng, seconds) * rng.choice((0.0, 0.1, 1.0))
        case = f"{' '.join(options)} after {delay:.3f} s"
        both = _two(words("0.3", out, *options), words("0.6", out, *options), job, out, folder, delay)
        ends = [process.end() for process in both]
        lost = [each for each in ends if each.status]
        row.met += bool(lost)
        row.found(*(f"{case}: {problem}" for each in lost for problem in clear_error(each)))
        if job.results(out) not in expected.values():
            row.found(f"{case}: the result is that of neither")
        if not lost and options != ["--force"]:
            row.found(f"{case}: both reported that they wrote the file")
        if len(lost) == 2:
            row.found(f"{case}: neither finished: {lost[0].err.strip()} / {lost[1].err.strip()}")
        row.found(*(f"{case}: {name} is left" for name in job.left(out)))
        shutil.rmtree(out)
    return row
