"""Scarce resources: files, memory, processes, folders, encodings. One clear error, or the work is done."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tools.chaos.commands import COMMANDS, Command
from tools.chaos.links import Links
from tools.chaos.runs import PATIENCE, Outcome, Row, clear_error, good_end

_START = """
import os, runpy, sys
{before}
sys.argv = ["pa_lite", *sys.argv[1:]]
runpy.run_module("pa_lite", run_name="__main__")
"""
_LIMIT = "import resource; resource.setrlimit(resource.{name}, ({soft}, resource.getrlimit(resource.{name})[1]))"
_OF_BLAS = re.compile(r"OpenBLAS error: Memory allocation [^\n]*\n")
_COMMAS = """
import locale
try:
    locale.setlocale(locale.LC_ALL, "de_DE.UTF-8")
except locale.Error:
    pass
"""


@dataclass(frozen=True)
class Lack:
    """One missing resource: code that runs first, variables to set, and variables to remove."""

    name: str
    before: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    unset: tuple[str, ...] = ()
    must_work: bool = False


def _limited(name: str, *values: int) -> list[Lack]:
    return [Lack(f"{name} {value}", _LIMIT.format(name=name, soft=value)) for value in values]


LACKS = (
    *_limited("RLIMIT_FSIZE", 0, 100, 5_000, 100_000, 1_000_000),
    *_limited("RLIMIT_AS", 120 << 20, 250 << 20, 500 << 20, 1 << 30),
    *_limited("RLIMIT_NOFILE", 8, 16, 24, 64),
    *_limited("RLIMIT_NPROC", 0, 1),
    *_limited("RLIMIT_STACK", 256 << 10),
    *_limited("RLIMIT_MEMLOCK", 0),
    *_limited("RLIMIT_CORE", 0),
    Lack("no HOME", unset=("HOME",)),
    Lack("HOME that does not exist", variables={"HOME": "/nowhere/at/all"}),
    Lack("HOME that cannot be written", variables={"HOME": "/proc"}),
    Lack("no TMPDIR", unset=("TMPDIR",), must_work=True),
    Lack("TMPDIR that does not exist", variables={"TMPDIR": "/nowhere/at/all"}, must_work=True),
    Lack("caches that cannot be written", variables={"XDG_CACHE_HOME": "/proc/x", "MPLCONFIGDIR": "/proc/x"}),
    Lack("locale C", variables={"LC_ALL": "C"}, must_work=True),
    Lack("locale POSIX, no UTF-8 mode", variables={"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
         must_work=True),
    Lack("ASCII streams", variables={"PYTHONIOENCODING": "ascii"}, must_work=True),
    Lack("UTF-16 streams", variables={"PYTHONIOENCODING": "utf-16"}, must_work=True),
    Lack("comma decimals", _COMMAS, {"LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8"}, must_work=True),
    Lack("narrow terminal", variables={"COLUMNS": "1", "LINES": "1", "TERM": "dumb"}, must_work=True),
    Lack("unknown terminal", variables={"TERM": "", "COLUMNS": "-5"}, must_work=True),
    Lack("closed stdin", "os.close(0)", must_work=True),
    Lack("closed stdout", "os.close(1)"),
    Lack("closed streams", "os.close(0); os.close(1); os.close(2)"),
    Lack("umask 777", "os.umask(0o777)"),
    Lack("a deleted current folder", "import tempfile; d = tempfile.mkdtemp(); os.chdir(d); os.rmdir(d)"),
)  # fmt: skip


def campaign(rounds: int, rng: random.Random, links: Links, only: Sequence[str] = ()) -> list[Row]:
    """Run every command, or those named in `only`, with `rounds` of the missing resources; 0 means all."""
    rows: dict[str, Row] = {}
    for each in COMMANDS:
        if only and each.name.split()[0] not in only:
            continue
        row = rows.setdefault(each.name, Row("lack", each.name))
        for lack in rng.sample(LACKS, min(rounds, len(LACKS))) if rounds else LACKS:
            _lacking(links, each, lack, row)
        print(f"limits {each.name}: {row.rounds} rounds, {len(row.findings)} findings", file=sys.stderr, flush=True)
    return list(rows.values())


def _lacking(links: Links, each: Command, lack: Lack, row: Row) -> None:
    row.rounds += 1
    root = links.fresh(each)
    environment = {**os.environ, **links.environment(root), **lack.variables}
    for name in lack.unset:
        environment.pop(name, None)
    words = [sys.executable, "-c", _START.format(before=lack.before + each.before), *map(str, each.words(root))]
    log = links.folder / "log"
    log.mkdir(exist_ok=True)
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    try:
        done = subprocess.run(
            words, env=environment, cwd=log, capture_output=True, stdin=subprocess.DEVNULL, timeout=PATIENCE,
            check=False, start_new_session=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        row.found(f"{each.name} with {lack.name}: hung")
        return
    encoding = "utf-16" if "utf-16" in lack.variables.values() else "utf-8"
    ended = Outcome(done.returncode, "", done.stderr.decode(encoding, "replace"), 0.0)
    row.met += ended.status != 0
    is_silent = lack.name == "closed streams" and ended.status == 1
    # numpy's BLAS exits by itself, after printing its own line
    is_blas = "RLIMIT_AS" in lack.before and ended.status == 1 and bool(_OF_BLAS.fullmatch(ended.err))
    wrong = [] if is_silent or is_blas else (clear_error if ended.status and not lack.must_work else good_end)(ended)
    row.found(*(f"{' '.join(map(str, each.words(root)[:2]))} with {lack.name}: {problem}" for problem in wrong))
