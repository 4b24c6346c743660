"""Measures how well lams chosen without labels do on the demo's labelled tasks and instructions.

python -m tools.label_free [DIR ...] [--json FILE] [--work FOLDER]

Each DIR has base/ and instruct/, as `python -m tools.demo train` writes them; models/demo by default. For every text
and pair: the lam of the fewest bits per byte, the few-shot accuracy lost there against the best lam, and how many bytes
give the same lam. For instruct's answers: the lams at which shares of the agreement are kept, and the instructions
followed there. The texts are in tools/label_free/texts.py. Takes some minutes for a pair; --work keeps the run folders.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tools.label_free.measure import Pairs, lines, measure

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"


def main(words: Sequence[str] | None = None) -> None:
    """Print the tables, pair by pair, and then over the pairs."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.label_free", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="DIR", default=[DEMO])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="keep run folders there, and continue them")
    args = parser.parse_args(words)
    found: Pairs = {}
    with tempfile.TemporaryDirectory() as temporary:
        for folder in args.folders:
            found[str(folder)] = measure(folder, (args.work or Path(temporary)) / folder.resolve().name)
            print(f"{folder}\n" + "\n".join(lines(found[str(folder)])), flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
