"""Fill disks: one clear error, no incomplete file under a final name, and resuming works once there is space."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from tools.chaos.disks import SmallDisk, can_mount
from tools.chaos.jobs import Job
from tools.chaos.kill import go_on
from tools.chaos.runs import Process, Row, at_moments, clear_error, good_end, moment

_ROOM = 3  # multiple of the job's size: enough for it, its log and its temporary files


def campaign(job: Job, rounds: int, rng: random.Random, folder: Path) -> list[Row]:
    """Run half of the rounds on disks of random sizes, half on one that another program fills at a random moment."""
    row = Row("full disk", job.name)
    if not can_mount():
        row.note = "skipped: mounting needs root or user namespaces"
        return [row]
    for variant in job.variants:
        job.measure(variant, folder / "undisturbed")
    shutil.rmtree(folder / "undisturbed")
    for number in range(rounds):
        variant = job.variants[number % len(job.variants)]
        _round(job, variant, rng, folder / f"round-{number}", folder / "log", row, fills=number % 2 == 1)
        shutil.rmtree(folder / f"round-{number}")
    return [row]


def _round(job: Job, variant: str, rng: random.Random, out: Path, log: Path, row: Row, fills: bool) -> None:
    row.rounds += 1
    enough = _ROOM * job.nbytes[variant] + (1 << 24)
    nbytes = enough if fills else int(job.nbytes[variant] * rng.uniform(0.0, 1.5))
    at, spare = moment(rng, job.seconds[variant]), rng.choice((0, 4096, 1 << 16, 1 << 20))
    case = f"{variant} filled at {at:.3f} s" if fills else f"{variant} on {nbytes} bytes"
    with SmallDisk(out, nbytes) as disk:
        process = Process(job.words(out, variant), job.environment(out), log)
        with at_moments([(at, lambda: disk.fill(spare))] if fills else []):
            ended = process.end()
        problems = job.not_whole(out, variant)
        if ended.status:
            row.met += 1
            problems += clear_error(ended)
            if not variant.endswith("resume"):  # with resume it is kept
                problems += [f"{name} was left" for name in job.left(out) if not job.is_kept(name)]
        elif not job.is_done(out, variant):
            problems.append("reported success although results are missing")
        disk.grow(enough)
        if not job.is_done(out, variant):
            problems += [f"with space: {problem}" for problem in good_end(go_on(job, variant, out, log))]
        if not job.is_done(out, variant):
            problems.append("with space: the result differs from an undisturbed one")
        problems += [f"with space: {name} is left" for name in job.left(out)]
    row.found(*(f"{case}: {problem}" for problem in problems))
