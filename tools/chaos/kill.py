"""Kill (-9) at random moments: no incomplete file has a final name, and resuming gives the undisturbed result."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import subprocess
from pathlib import Path

from tools.chaos.jobs import Job, fresh
from tools.chaos.runs import PATIENCE, Outcome, Process, Row, command, good_end, moment, run

_MOST_TRIES = 4  # multiple of the requested rounds: a kill after the end does not count


def campaign(job: Job, rounds: int, rng: random.Random, folder: Path) -> list[Row]:
    """Run each of the job's variants until `rounds` kills met it before its end."""
    rows = []
    each = -(-rounds * job.sorts // len(job.variants))
    for variant in job.variants:
        job.measure(variant, folder / "undisturbed")
        row = Row("kill -9", f"{job.name} {variant}".strip())
        for number in range(_MOST_TRIES * each):
            if row.met == each:
                break
            _round(job, variant, rng, fresh(folder, number), folder / "log", row)
            shutil.rmtree(folder / f"round-{number}")
        shutil.rmtree(folder / "undisturbed")
        row.note = f"nothing (of {job.seconds[variant]:.1f} s)"
        rows.append(row)
    return rows


def _round(job: Job, variant: str, rng: random.Random, out: Path, log: Path, row: Row) -> None:
    """Kill one to three times, then resume to the end, or clean up and start from scratch."""
    row.rounds += 1
    moments = [moment(rng, job.seconds[variant]) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    case = f"killed at {', '.join(f'{m:.3f}' for m in moments)} s of {job.seconds[variant]:.1f}"
    landed = 0
    for i, at in enumerate(moments):
        if job.is_done(out, variant):
            break
        landed += _kill(job.words(out, variant, again=i > 0), job, out, log, at)
        row.found(*(f"{case}: {problem}" for problem in job.not_whole(out, variant)))
    row.met += landed > 0
    cleaned = rng.random() < 0.25
    if cleaned:
        row.found(*(f"{case}: {problem}" for problem in _clean(job, out, log)))
    if not job.is_done(out, variant):
        ended = go_on(job, variant, out, log)
        row.found(*(f"{case}, {'cleaned' if cleaned else 'resumed'}: {problem}" for problem in good_end(ended)))
    if not job.is_done(out, variant):
        row.found(f"{case}: the result differs from an undisturbed one")
    if job.left(out):
        row.found(*(f"{case}: {problem}" for problem in _clean(job, out, log)))


def _kill(words: list[str], job: Job, out: Path, log: Path, at: float) -> bool:
    """Kill the job `at` seconds after its start; return whether it was still running."""
    process = Process(words, job.environment(out), log)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.process.wait(at)
    process.signal(signal.SIGKILL)
    return process.end(PATIENCE).status == -signal.SIGKILL


def go_on(job: Job, variant: str, out: Path, log: Path) -> Outcome:
    """Run the job again where a disturbed one stopped."""
    return run(job.words(out, variant, again=True), job.environment(out), log)


def _clean(job: Job, out: Path, log: Path) -> list[str]:
    """Let the doctor clean up; return problems if anything is left then, or it fails."""
    temporary = job.scene.folder / "tmp"
    ended = run(command("doctor", "--clean", "--yes", "--json", out, temporary), job.environment(out), log)
    # a database continues with its log: that is not a leftover
    left = [name for name in job.left(out) if not name.endswith(("-wal", "-shm"))]
    return [*good_end(ended), *(f"{name} is left after the doctor" for name in left)]
