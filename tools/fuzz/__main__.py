"""Feed pa-lite's readers inputs that break every rule, guided by coverage, and report broken promises.

python -m tools.fuzz run TARGET [--executions N] [--seconds S] [--corpus DIR] [--findings DIR]
python -m tools.fuzz all --seconds 3600 [--executions N] [--corpus DIR] [--findings DIR] [--only TARGET,...]
python -m tools.fuzz replay TARGET FILE...         what each input does, without atheris
python -m tools.fuzz keep TARGET FILE...           inputs that broke a promise, into tests/corpus, where tests read them
python -m tools.fuzz merge TARGET DIR [--most N]   the fewest inputs that reach a corpus's code, into tests/corpus
python -m tools.fuzz engine [--count N] [--seconds S] ...   mutated models in llama.cpp itself

Fuzzing needs atheris (extra `fuzz`); the other commands do not. A finding does not stop the run: each kind of finding
is written once, and the run continues. tools/fuzz/oracle.py defines the findings.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pa_lite.errors import PaLiteError
from tools.fuzz import corpus, run


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description="Fuzz pa-lite's readers.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("engine", help="mutated models in llama.cpp itself: see engine --help")
    for name, summary in (("run", "one target"), ("all", "every target in turn"), ("child", "")):
        command = commands.add_parser(name, help=summary) if summary else commands.add_parser(name)
        if name != "all":
            command.add_argument("target")
        command.add_argument("--executions", type=int, default=0, help="executions of each target; 0: no limit")
        command.add_argument("--seconds", type=float, default=60.0, help="seconds of all targets together")
        command.add_argument("--corpus", type=Path, help="folder of inputs to start from and to add to")
        command.add_argument(
            "--findings", type=Path, default=Path("findings"), help="folder for inputs that break a promise"
        )
        command.add_argument("--only", default="", help="names of targets, separated by commas")
        command.add_argument("--turn", type=float, default=120.0, help="seconds that a target runs at a time")
        command.add_argument("--json", type=Path, help="file for the table's numbers")
        command.add_argument("--below", type=Path, help=argparse.SUPPRESS)
    replay = commands.add_parser("replay", help="run inputs through a target and print what each does")
    replay.add_argument("target")
    replay.add_argument("files", nargs="+", type=Path)
    merge = commands.add_parser("merge", help="reduce a large corpus to a small one")
    merge.add_argument("target")
    merge.add_argument("folder", type=Path)
    merge.add_argument("--most", type=int, default=20, help="inputs at most, besides those that broke a promise")
    keep = commands.add_parser("keep", help="add inputs that broke a promise to tests/corpus")
    keep.add_argument("target")
    keep.add_argument("files", nargs="+", type=Path)
    return parser.parse_args(words)


def replay(name: str, files: Sequence[Path]) -> int:
    """Print what each input does; return how many broke a promise."""
    from tools.fuzz.oracle import Finding, Judge, strict

    broken = 0
    with Judge(run.target_of(name)) as judge, strict():
        for file in files:
            try:
                print(f"{file}: {'read' if judge.judge(file.read_bytes()) else 'refused'}: {judge.message}")
            except Finding as e:
                broken += 1
                print(f"{file}: FINDING: {e}")
    return broken


def main(words: Sequence[str]) -> int:
    """Run a command; return the exit status, which is 1 if a promise was broken."""
    if list(words[:1]) == ["engine"]:
        from tools.fuzz import engine

        return engine.main(words[1:])
    options = parse(words)
    try:
        if options.command == "child":
            run.child(options)  # does not return
        if options.command == "replay":
            return min(1, replay(options.target, options.files))
        if options.command == "merge":
            kept = corpus.merge(run.target_of(options.target), options.folder, options.most)
            print(f"{len(kept)} inputs, {sum(map(len, kept))} bytes, in {corpus.path_of(options.target)}")
            return 0
        if options.command == "keep":
            corpus.keep(run.target_of(options.target).name, options.files)
            return 0
        names = [options.target] if options.command == "run" else run.names_of(options.only)
        rows = run.campaign(names, options)
        print(run.table(rows))
        return min(1, sum(row.findings for row in rows))
    except (PaLiteError, OSError) as e:
        sys.exit(f"error: {e}")
    except KeyboardInterrupt:
        sys.exit("interrupted")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
