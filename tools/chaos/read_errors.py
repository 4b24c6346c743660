"""Break and change inputs while they are read: the fault is detected and named, and no result is built from it."""

from __future__ import annotations

import os
import random
import shutil
import signal
from pathlib import Path

import numpy as np

from tools.chaos.disks import can_mount, sick_disk
from tools.chaos.jobs import Fetch, Job, Merge, Stream, fresh
from tools.chaos.local import LocalJob, local_job
from tools.chaos.runs import Outcome, Process, Row, at_moments, clear_error, good_end, moment, run

_CHANGES = ("overwritten", "cut", "replaced", "deleted")
_PASSING, _LASTING = ("cut", "short", "drop", "status"), ("etag", "content", "size", "whole", "gzip")


def campaign(job: Job, rounds: int, rng: random.Random, folder: Path) -> list[Row]:
    """Run reads that fail, changes at random moments, changes between a kill and resuming; for the Hub, its faults."""
    if isinstance(job, (Fetch, Stream)):
        return [_hub(job, rounds, rng, folder)]
    local = local_job(job)
    local.measure(folder / "expected")
    sick = Row("input that cannot be read", job.name)
    changing = Row("input that changes", job.name)
    between = Row("input changed after a kill", job.name)
    for number in range(rounds):
        out = fresh(folder, number)
        if can_mount():
            _unreadable(local, rng, out, sick)
        else:
            sick.note = "skipped: mounting needs root or user namespaces"
        _changing(local, rng, _CHANGES[number % len(_CHANGES)], out, changing)
        _changed_between(local, rng, out, between)
        shutil.rmtree(out)
    return [sick, changing, between]


def _start(local: LocalJob, inputs: Path, out: Path, again: bool = False) -> Process:
    out.mkdir(exist_ok=True)
    return Process(local.words(inputs, out, again), local.environment(inputs, out), out.with_name("log"))


def _unreadable(local: LocalJob, rng: random.Random, folder: Path, row: Row) -> None:
    """Run with one unreadable byte in one file; then repair the disk and resume."""
    row.rounds += 1
    file = rng.choice(local.weights(local.source)).relative_to(local.source)
    byte = rng.randrange((local.source / file).stat().st_size)
    out, case = folder / "unreadable", f"byte {byte} of {file}"
    inputs = folder / "sick" / local.source.name  # the folder's name is part of the result
    with sick_disk(local.source, inputs) as disk:
        disk.sick = {file: byte}
        ended = _start(local, inputs, out).end()
        if disk.n_failed and (ended.status or local.judge.results(out) != local.expected):
            row.met += 1  # and not only read ahead by the system
            row.found(*(f"{case}: {problem}" for problem in _named(ended, file)))
            if isinstance(local.judge, Merge) and local.judge.results(out):
                row.found(f"{case}: a result was written anyway")
        else:
            row.found(*(f"{case}, not read: {problem}" for problem in good_end(ended)))
        disk.sick = {}
        if local.judge.results(out) != local.expected:
            row.found(*(f"{case}, repaired: {problem}" for problem in good_end(_go_on(local, inputs, out))))
        if local.judge.results(out) != local.expected:
            row.found(f"{case}, repaired: the result differs from an undisturbed one")


def _named(ended: Outcome, file: Path) -> list[str]:
    """Return problems of a job that had to stop because of a file; for mapped files the name may be unknown."""
    problems = clear_error(ended)
    if not problems and file.name not in ended.err and "memory-mapped file" not in ended.err:
        problems.append(f"the error does not name the file: {ended.err.strip()}")
    return problems


def _go_on(local: LocalJob, inputs: Path, out: Path) -> Outcome:
    return _start(local, inputs, out, again=any(out.glob(".*.part"))).end()


def _changing(local: LocalJob, rng: random.Random, kind: str, folder: Path, row: Row) -> None:
    """Change a file at a random moment: the result is that of one of its states, or an error without a result."""
    row.rounds += 1
    inputs, out = folder / "changing-inputs" / local.source.name, folder / "changing"
    shutil.copytree(local.source, inputs)
    file = rng.choice(local.weights(inputs))
    at = moment(rng, local.seconds)
    case = f"{file.relative_to(inputs)} {kind} at {at:.3f} s"
    process = _start(local, inputs, out)
    with at_moments([(at, lambda: change(file, kind, rng))]):
        ended = process.end()
    found = local.judge.results(out)
    if ended.status:
        row.met += 1
        row.found(*(f"{case}: {problem}" for problem in _named(ended, file)))
        if isinstance(local.judge, Merge) and found:
            row.found(f"{case}: a result was written anyway")
        if kind in ("overwritten", "replaced"):
            _check_going_on(local, inputs, out, case, row)
    elif found != local.expected and found != local.fresh_results(inputs, folder / "fresh"):
        row.found(f"{case}: it succeeded with a result of neither state")


def _check_going_on(local: LocalJob, inputs: Path, out: Path, case: str, row: Row) -> None:
    """Check that resuming with changed inputs gives a fresh run's result, or is refused."""
    again = _go_on(local, inputs, out)
    if again.status:
        row.found(*(f"{case}, resumed: {problem}" for problem in clear_error(again)))
        if isinstance(local.judge, Merge):
            row.found(f"{case}: cannot be resumed: {again.err.strip()}")
    elif local.judge.results(out) != local.fresh_results(inputs, out.with_name("fresh")):
        row.found(f"{case}, resumed: the result is mixed")


def _changed_between(local: LocalJob, rng: random.Random, folder: Path, row: Row) -> None:
    """Kill the job, overwrite a file in place with the same header and size, and resume the job."""
    row.rounds += 1
    inputs, out = folder / "between-inputs" / local.source.name, folder / "between"
    shutil.copytree(local.source, inputs)
    file = rng.choice(local.weights(inputs))
    process, at = _start(local, inputs, out), moment(rng, local.seconds)
    with at_moments([(at, lambda: process.signal(signal.SIGKILL))]):
        ended = process.end()
    if ended.status != -signal.SIGKILL or local.judge.results(out) == local.expected:
        return
    row.met += 1
    change(file, "overwritten", rng)
    _check_going_on(local, inputs, out, f"killed at {at:.3f} s, then {file.relative_to(inputs)} overwritten", row)


def change(file: Path, kind: str, rng: random.Random) -> None:
    """Change a file as another program might; header and size stay the same unless it is truncated."""
    if kind == "deleted":
        file.unlink(missing_ok=True)
    elif kind == "cut":
        os.truncate(file, rng.randrange(file.stat().st_size))
    elif kind == "replaced":
        other = file.with_suffix(".new")
        shutil.copyfile(file, other)
        change(other, "overwritten", rng)
        other.replace(file)
    else:
        size = file.stat().st_size
        start, n = size // 4 // 2 * 2, size // 2 // 2 * 2
        with file.open("r+b", buffering=0) as f:
            values = np.frombuffer(os.pread(f.fileno(), n, start), np.uint8).copy()
            values[::2] ^= 1  # the lowest bit of each value
            os.pwrite(f.fileno(), values.data, start)


def _hub(job: Job, rounds: int, rng: random.Random, folder: Path) -> Row:
    """Break connections, which must be survived, and change files, which must be detected."""
    row, hub, variant = Row("Hub that fails", job.name), job.scene.hub, job.variants[-1]
    job.measure(variant, folder / "undisturbed")
    kinds = [*_PASSING, *_LASTING]
    if isinstance(job, Stream):
        kinds.remove("content")  # other bytes under the same tag: undetectable in a part of a file
    for number in range(rounds):
        row.rounds += 1
        kind, out = kinds[number % len(kinds)], fresh(folder, number)
        skip = rng.randrange(12 if isinstance(job, Stream) else 3)  # a fetch requests only a few files
        hub.fail(kind, times=rng.choice((1, 2)), skip=skip, after=rng.randrange(1, 1 << 20))
        ended = run(job.words(out, variant), job.environment(out), folder / "log")
        row.met += not hub.faults[-1].times
        hub.faults.clear()
        case = f"{kind} at request {skip}"
        row.found(*(f"{case}: {problem}" for problem in job.not_whole(out, variant)))
        if ended.status and (kind in _PASSING or clear_error(ended)):
            row.found(*(f"{case}: {problem}" for problem in [*good_end(ended), *clear_error(ended)]))
        if not job.is_done(out, variant):
            if not ended.status:
                row.found(f"{case}: it succeeded without its result")
            row.found(
                *(f"{case}, resumed: {p}" for p in good_end(run(job.words(out, variant), job.environment(out), folder)))
            )
        if not job.is_done(out, variant):
            row.found(f"{case}, resumed: the result differs from an undisturbed one")
        shutil.rmtree(out)
    return row
