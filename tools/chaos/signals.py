"""Send signals at random moments, and close readers: the status names the signal, and no temporary file is left."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.chaos.commands import COMMANDS, Command
from tools.chaos.links import Links
from tools.chaos.runs import PATIENCE, Outcome, Process, Row, good_end, last_line, moment, run

_STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
_SIGNALS = tuple(_STATUS)
_STARTING = 0.6  # seconds that Python may take until the command line has its handlers
_MOST_TRIES = 4  # multiple of the requested rounds: a signal after the end does not count


def campaign(rounds: int, rng: random.Random, links: Links, only: Sequence[str] = ()) -> list[Row]:
    """Send `rounds` signals that meet each command at work, and run as many rounds with closed readers."""
    rows: dict[str, Row] = {}
    for each in COMMANDS:
        if only and each.name.split()[0] not in only:
            continue
        row = rows.setdefault(each.name, Row("signal", each.name))
        piped = rows.setdefault(f"{each.name} piped", Row("reader that goes away", each.name))
        root = links.fresh(each)
        begin = run(each.line(root), links.environment(root), links.folder / "log")
        row.found(*good_end(begin))
        met = row.met
        for _ in range(_MOST_TRIES * rounds):
            if row.met - met >= rounds:
                break
            _signalled(links, each, rng, begin.seconds, row)
        for _ in range(rounds):
            _piped(links, each, rng, piped)
        print(f"signals {each.name}: {row.met} met, {len(row.findings)} findings", file=sys.stderr, flush=True)
    return list(rows.values())


def _signalled(links: Links, each: Command, rng: random.Random, seconds: float, row: Row) -> None:
    """Send one or two signals to the process, or to its whole group as a terminal or a supervisor does."""
    row.rounds += 1
    root = links.fresh(each)
    number, to_group, at = rng.choice(_SIGNALS), rng.random() < 0.5, _STARTING + moment(rng, max(seconds - 0.6, 0.1))
    process = Process(each.line(root), links.environment(root), links.folder / "log")
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.process.wait(at)
    is_running = process.process.poll() is None
    for _ in range(rng.choice((1, 1, 2))):
        if to_group:
            process.signal(number)
        elif process.process.poll() is None:
            process.process.send_signal(number)
    ended = process.end(PATIENCE)
    case = (
        f"{' '.join(map(str, each.words(root)[:2]))}, {number.name} at {at:.2f} s{' to the group' if to_group else ''}"
    )
    if not is_running or ended.status == 0 or (ended.status == -number and not ended.err):  # before Python had started
        return
    row.met += 1
    row.found(*(f"{case}: {problem}" for problem in _ended_well(ended, _STATUS[number]) + _left(root)))
    again = run([*each.line(root), *_again(each)], links.environment(root), links.folder / "log")
    row.found(*(f"{case}, again: {problem}" for problem in good_end(again)))


def _again(each: Command) -> list[str]:
    """Return the options that resume, for commands that do not resume by themselves."""
    is_resumed = each.name in ("generate", "judge", "merge") and not any(
        word in ("--resume", "--force") for word in each.words(Path("x"))
    )
    return ["--resume"] if is_resumed else []


def _ended_well(ended: Outcome, status: int) -> list[str]:
    lines = [line for line in ended.err.splitlines() if line.strip()]
    if ended.status == status and lines == ["interrupted"]:
        return []
    return [f"status {ended.status} and not {status}, {len(lines)} lines: {last_line(ended.err)}"]


def _left(root: Path) -> list[str]:
    """Return temporary files other than those that a command resumes from."""
    found = [p for folder in ("tmp", "out", "run") for p in (root / folder).rglob("*") if p.name.endswith(".own")]
    found += list((root / "tmp").glob("pa-lite-*"))
    return [f"{p.relative_to(root)} is left" for p in found]


def _piped(links: Links, each: Command, rng: random.Random, row: Row) -> None:
    """Close the reader of stdout, or also of stderr, immediately or after the first bytes."""
    row.rounds += 1
    root = links.fresh(each)
    both, n = rng.random() < 0.5, rng.choice((0, 1, 40))
    with subprocess.Popen(
        each.line(root), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if both else subprocess.PIPE, env={**os.environ, **links.environment(root)},
        cwd=links.folder / "log", start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.read(n)
        process.stdout.close()
        err = b"" if both else process.stderr.read() if process.stderr else b""
        try:
            status = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            status = -9
    case = f"{' '.join(map(str, each.words(root)[:2]))}, stdout{' and stderr' if both else ''} closed after {n} bytes"
    if status not in (0, 1) or b"Traceback" in err or b"Exception ignored" in err:
        row.found(f"{case}: status {status}: {last_line(err.decode('utf-8', 'replace'))}")
    row.met += status != 0
    row.found(*(f"{case}: {problem}" for problem in _left(root)))
