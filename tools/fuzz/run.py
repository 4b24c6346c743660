"""Run fuzzing targets with atheris, each in child processes, and add up what they did."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

from pa_lite.errors import InputError, nearest
from tools import program
from tools.fuzz import corpus as fuzz_corpus
from tools.fuzz.oracle import Finding, Judge, Target, memory_folder, strict

_SHARE_OF_ATHERIS = 0.15  # share of mutations by libFuzzer, which sees what the code compares inputs with
_HANG = 25  # seconds after which libFuzzer kills the process
_MEMORY = 3072  # MB of the whole process, after which libFuzzer kills it
_KINDS = 50  # kinds of findings after which a child stops


def target_of(name: str) -> Target:
    """Return the target of that name. Raises InputError with the nearest names."""
    from tools.fuzz.targets import TARGETS

    if name not in TARGETS:
        raise InputError(f"unknown target {name!r}.{nearest(name, TARGETS)}")
    return TARGETS[name]


def names_of(only: str) -> list[str]:
    """Return every target's name, or those listed. Raises InputError for an unknown one."""
    from tools.fuzz.targets import TARGETS

    return [target_of(name).name for name in only.split(",")] if only else list(TARGETS)


# --- the child: fuzzes until its time or its executions are used up ---


def child(options: argparse.Namespace) -> None:
    """Fuzz one target in this process, which ends with it. Raises InputError without atheris."""
    try:
        import atheris
    except ImportError as e:
        raise InputError("fuzzing needs atheris (CPython on Linux, x86-64): pip install 'pa-lite[fuzz]'.") from e
    with atheris.instrument_imports(include=list(fuzz_corpus.PACKAGES), enable_loader_override=False):
        target = target_of(options.target)
    judge, kinds = Judge(target, options.below), set[str]()
    tempfile.tempdir = options.below and str(options.below)  # the parent removes what this process leaves there

    def one(data: bytes) -> None:
        try:
            judge.judge(data)
        except Finding as e:
            if e.kind not in kinds:
                kinds.add(e.kind)
                _note(options.findings, target.name, e, data)
            if len(kinds) >= _KINDS:
                raise

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < _SHARE_OF_ATHERIS:
            return bytes(atheris.Mutate(data, most))
        return target.mutate(data, random)[:most]

    settings = {
        "runs": options.executions or -1, "max_total_time": max(1, int(options.seconds)), "max_len": target.longest,
        "timeout": _HANG, "rss_limit_mb": _MEMORY, "len_control": 0, "print_final_stats": 1, "verbosity": 1,
        "artifact_prefix": f"{options.findings}/{target.name}-",
    }  # fmt: skip
    words = [sys.argv[0], *(f"-{key}={value}" for key, value in settings.items()), str(options.corpus)]
    with strict():
        atheris.Setup(words, one, custom_mutator=mutate)
        atheris.Fuzz()


def _note(folder: Path, name: str, finding: Finding, data: bytes) -> None:
    """Write a finding's input, and next to it a description."""
    stem = f"{name}-{hashlib.sha256(finding.kind.encode()).hexdigest()[:12]}"
    if not (folder / f"{stem}.txt").exists():
        (folder / f"{stem}.bin").write_bytes(data)
        (folder / f"{stem}.txt").write_text(f"{finding}\n", "utf-8", "backslashreplace")
        print(f"FINDING {name}: {finding}", file=sys.stderr)


# --- the parent ---


@dataclass
class Row:
    """Sums over a target's children. `covered` counts libFuzzer's edges, `kept` the inputs that reached new ones."""

    target: str
    executions: int = 0
    seconds: float = 0.0
    covered: int = 0
    kept: int = 0
    findings: int = 0
    deaths: list[str] = field(default_factory=list)
    is_dead: bool = False  # its last child did nothing


def campaign(names: Sequence[str], options: argparse.Namespace) -> list[Row]:
    """Fuzz targets in turn until the time is over, or each has had its executions; return the rows."""
    rows = {name: Row(name) for name in names}
    with tempfile.TemporaryDirectory(prefix="pa-lite-corpus-") as scratch:
        corpus = options.corpus or Path(scratch)
        for name in names:
            _begin(corpus / name, name)
        options.findings.mkdir(parents=True, exist_ok=True)
        end = time.monotonic() + options.seconds
        while left := [row for row in rows.values() if not _is_done(row, options)]:
            for row in left:
                seconds = min(options.turn if len(names) > 1 else options.seconds, end - time.monotonic())
                if seconds < 1:
                    return list(rows.values())
                _turn(row, corpus / row.target, seconds, options)
                if options.json:
                    options.json.write_text(json.dumps([asdict(r) for r in rows.values()], indent=1) + "\n", "utf-8")
    return list(rows.values())


def _is_done(row: Row, options: argparse.Namespace) -> bool:
    return row.is_dead or (bool(options.executions) and row.executions >= options.executions)


def _begin(folder: Path, name: str) -> None:
    """Put seeds and the kept corpus into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for data in (*target_of(name).seeds(), *fuzz_corpus.load(name)):
        (folder / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)


def _turn(row: Row, corpus: Path, seconds: float, options: argparse.Namespace) -> None:
    """Run one child process, and add what it did to the row."""
    runs = max(1, options.executions - row.executions) if options.executions else 0
    words = [*program("tools.fuzz"), "child", row.target]
    words += ["--executions", str(runs), "--seconds", str(seconds)]
    words += ["--corpus", str(corpus), "--findings", str(options.findings)]
    start = time.monotonic()
    # libFuzzer exits at once: its leftovers are removed here
    with tempfile.TemporaryDirectory(prefix="pa-lite-fuzz-", dir=memory_folder()) as below:
        done = subprocess.run([*words, "--below", below], capture_output=True, text=True, errors="replace", check=False)
    row.seconds += time.monotonic() - start
    executions = max((int(n) for n in _NUMBERS["executions"].findall(done.stderr)), default=0)
    row.executions, row.is_dead = row.executions + executions, not executions
    row.covered = max([row.covered, *(int(n) for n in _NUMBERS["covered"].findall(done.stderr))])
    row.kept = len(os.listdir(corpus))
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith(("#", "FINDING"))]
        if said and said[-1].startswith("error: "):
            raise InputError(said[-1].removeprefix("error: "))
        row.deaths.append(f"exit {done.returncode}: {' / '.join(said[-3:])}")
    row.findings = len(list(options.findings.glob(f"{row.target}-*"))) - len(
        list(options.findings.glob(f"{row.target}-*.txt"))
    )
    print(line_of(row), file=sys.stderr, flush=True)


_NUMBERS = {
    "executions": re.compile(r"(?:stat::number_of_executed_units: |^#)(\d+)", re.MULTILINE),
    "covered": re.compile(r"cov: (\d+)"),
}


def line_of(row: Row) -> str:
    """Return a row as one line."""
    speed = row.executions / row.seconds if row.seconds else 0.0
    deaths = f" {'; '.join(row.deaths)}" if row.deaths else ""
    return (
        f"{row.target:<14} {row.executions:>10} executions {row.seconds:>7.0f} s {speed:>7.0f}/s "
        f"{row.covered:>6} edges {row.kept:>5} inputs {row.findings:>3} findings{deaths}"
    )


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| target | executions | seconds | a second | edges | inputs kept | findings |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        speed = row.executions / row.seconds if row.seconds else 0.0
        cells = (row.executions, round(row.seconds), round(speed), row.covered, row.kept, row.findings)
        lines.append(f"| {row.target} | " + " | ".join(f"{cell:,}" for cell in cells) + " |")
    return "\n".join(lines)
