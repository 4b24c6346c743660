"""Benchmarks of pa-lite against what it should match or beat. Every figure is a median of runs in separate processes.

python -m tools.bench busy [--model FILE.gguf] [--ways adaptive,all] [--load idle,loop] [--repeat 3] [--json FILE]
python -m tools.bench merge [--size 1b] [--larger 3b] [--repeat 5] [--peers FOLDER] [--only SECTION,...] [--json FILE]
python -m tools.bench generate [--model FILE.gguf] [--parallel 32] [--max-tokens 128] [--repeat 3] [--json FILE]
python -m tools.bench score [--model FILE.gguf] [--answers letters|texts] [--items 100] [--repeat 3] [--json FILE]
python -m tools.bench serve [--llama-server FILE] [--repeat 5] [--json FILE]
python -m tools.bench study [--model FILE.gguf] [--threads 2] [--repeat 3] [--json FILE]

python -m tools.bench vocabulary [FOLDER ...] [--max-memory 256] [--rounds 3] [--json FILE]

Things that are compared run in turn in one loop, and a ratio is the median of the loop's ratios: absolute times drift.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pa_lite.errors import PaLiteError
from tools.bench import busy, generate, merge, score, serve, study, vocabulary

# command -> its module, and what it measures
COMMANDS = {
    "busy": (busy, "scoring and generation while other programs run"),
    "generate": (generate, "batched generation, against sequential chat and bare llama.cpp"),
    "merge": (merge, "merging, against the disk, llama.cpp and mergekit"),
    "score": (score, "few-shot scoring, against llama.cpp and llama-cpp-python"),
    "serve": (serve, "the server, against llama-server; several lams at a time, against one"),
    "study": (study, "a sweep, against separate commands; lams in memory, against files"),
    "vocabulary": (vocabulary, "memory and time of large vocabularies, against --max-memory and the estimate"),
}


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description="Measure pa-lite against what it should match or beat.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (module, summary) in COMMANDS.items():
        module.add_arguments(commands.add_parser(name, help=summary))
    return parser.parse_args(words)


def main(words: Sequence[str]) -> None:
    """Run a command; an error becomes one line."""
    options = parse(words)
    try:
        COMMANDS[options.command][0].run(options)
    except (PaLiteError, OSError) as e:
        sys.exit(f"error: {e}")
    except KeyboardInterrupt:
        sys.exit("interrupted")


if __name__ == "__main__":
    main(sys.argv[1:])
