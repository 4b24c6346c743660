"""Measures pa-lite's own intervals, tests, readings and searches on simulated items whose truth is known.

python -m tools.coverage [--runs SCALE] [--only WORDS] [--seed N] [--json FILE] [--summary] [--list]

A line of the table is one check in one situation: how often a 95% interval covers the truth, how often a 5% test errs,
by how much a number is wrong on average, or by how much the lam found is worse than the best one. The method "reported"
is pa-lite's own, "naive" a textbook's for comparison. --runs 0.1 takes a tenth of the usual runs. It takes minutes on
one core, and ends with 1 when a check of what pa-lite reports fails.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tools.coverage import along_lam, averages, judging, searching, texts
from tools.coverage.table import Case, Found, document, line, measure, summary


def cases() -> list[Case]:
    """Return every case, in the order of the table."""
    return [*averages.cases(), *along_lam.cases(), *texts.cases(), *searching.cases(), *judging.cases()]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.coverage", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--runs", type=float, default=1.0, metavar="SCALE", help="times each case's usual number of runs"
    )
    parser.add_argument("--only", default="", metavar="WORDS", help="cases whose name contains these words")
    parser.add_argument("--seed", type=int, default=0, help="of all that is simulated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there too")
    parser.add_argument("--summary", action="store_true", help="end with a Markdown table of the checks")
    parser.add_argument("--list", action="store_true", help="only name the cases")
    args = parser.parse_args()
    chosen = [case for case in cases() if args.only in case.name]
    if not chosen:
        parser.error(f"no case's name contains {args.only!r}; --list names them")
    found: list[Found] = []
    for case in chosen:
        if args.list:
            print(case.name)
            continue
        for each in measure(case, args.seed, args.runs):
            found.append(each)
            print(line(each), flush=True)
    if args.summary:
        print(summary(found))
    if args.json:
        args.json.write_text(json.dumps(document(found, args.seed), indent=1) + "\n", "utf-8")
    sys.exit(0 if all(each.holds for each in found if each.method == "reported") else 1)


if __name__ == "__main__":
    main()
