"""Fault campaigns against pa-lite's promises: outputs are complete or absent, and resuming is exact.

python -m tools.chaos [kill|disk|input|clock|race|links|folders|signals|limits|all] [--jobs merge,sweep,generate,fetch]
                      [--rounds N] [--seed N]

Every job is a real command line on small real inputs. The status is 1 if a promise was broken. Needs Linux; disks that
fill and disks that fail are mounted in a separate namespace, which takes root, or user namespaces.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pa_lite.errors import PaLiteError
from tools import program
from tools.chaos import clock, full_disk, kill, limits, race, read_errors, signals
from tools.chaos import links as chaos_links
from tools.chaos.commands import COMMANDS
from tools.chaos.disks import own_namespace
from tools.chaos.jobs import JOBS, Job, made_scene
from tools.chaos.runs import Row, show

Campaign = Callable[[Job, int, random.Random, Path], list[Row]]
# fault -> its campaign, and the default number of rounds
FAULTS: dict[str, tuple[Campaign, int]] = {
    "kill": (kill.campaign, 50),
    "disk": (full_disk.campaign, 20),
    "input": (read_errors.campaign, 20),
    "clock": (clock.campaign, 10),
    "race": (race.campaign, 10),
}
Commands = Callable[[int, random.Random, chaos_links.Links, Sequence[str]], list[Row]]
# the same for campaigns that disturb COMMANDS instead of JOBS; rounds are per command
OF_COMMANDS: dict[str, tuple[Commands, int]] = {
    "links": (chaos_links.campaign, 40),
    "folders": (chaos_links.run_folders, 40),
    "signals": (signals.campaign, 6),
    "limits": (limits.campaign, 0),
}


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description="Disturb pa-lite while it works, and check its promises.")
    parser.add_argument(
        "fault", nargs="?", default="all", choices=[*FAULTS, *OF_COMMANDS, "all"], help="by default all"
    )
    parser.add_argument("--jobs", default="", help="names separated by commas; by default all")
    parser.add_argument(
        "--rounds", type=int, default=0, help="rounds of each fault and job; by default depends on the fault"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of moments and sizes")
    parser.add_argument(
        "--folder", type=Path, help="where to work, on a disk with 3 GB free; by default a temporary one"
    )
    options = parser.parse_args(words)
    options.jobs = [name for name in options.jobs.split(",") if name]
    linked = {command.name.split()[0] for command in COMMANDS}
    known = {*JOBS, *(linked if options.fault in (*OF_COMMANDS, "all") else ())}
    if unknown := set(options.jobs) - known:
        parser.error(f"unknown job {unknown.pop()!r}: {', '.join(sorted(known))} are known")
    if options.rounds < 0:
        parser.error("--rounds must not be negative")
    return options


def campaign(options: argparse.Namespace, folder: Path) -> list[Row]:
    """Run the requested campaigns; return the table's rows."""
    rows: list[Row] = []
    if options.fault in (*OF_COMMANDS, "all"):
        place = folder / "commands"
        place.mkdir()
        with chaos_links.made_links(place) as links:
            for fault, (run_all, rounds) in OF_COMMANDS.items():
                if options.fault in (fault, "all"):
                    rng = random.Random(f"{options.seed} {fault}")
                    rows += run_all(options.rounds or rounds, rng, links, options.jobs)
    if options.fault in OF_COMMANDS:
        return rows
    with made_scene(folder) as scene:
        for name in [name for name in options.jobs or JOBS if name in JOBS]:
            for kind in JOBS[name]:
                for fault, (run, rounds) in FAULTS.items():
                    if options.fault in (fault, "all"):
                        place = folder / "rounds"
                        place.mkdir()
                        seed = f"{options.seed} {fault} {kind.name}"
                        rows += run(kind(scene), options.rounds or rounds, random.Random(seed), place)
                        shutil.rmtree(place)
                        found = sum(len(row.findings) for row in rows)
                        print(f"{fault} {kind.name}: done, {found} findings so far", file=sys.stderr, flush=True)
    return rows


def main(words: Sequence[str]) -> int:
    """Run the command line; return 1 if a promise was broken or the campaign could not run."""
    options = parse(words)
    if options.fault in ("disk", "input", "all"):
        own_namespace([*program("tools.chaos"), *words])
    begin = time.monotonic()
    try:
        if options.folder:
            options.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="chaos-", dir=options.folder and options.folder.resolve()) as folder:
            rows = campaign(options, Path(folder))
    except (PaLiteError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    show(rows, time.monotonic() - begin)
    return int(any(row.findings for row in rows))


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main(sys.argv[1:]))
