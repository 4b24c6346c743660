"""Make the embedded pair and measure it.

python -m tools.demo data [--out models/demo/data]        its evaluation data
python -m tools.demo train [--seed 0] [--out models/demo] [--threads 1]
python -m tools.demo evaluate models/demo [--split dev] [--lam 0,0.1,...]     with PyTorch
python -m tools.demo curves                               chart.svg and curves.json of the pair
python -m tools.demo table DIR [DIR...]                   the model card's tables, for pairs of several seeds
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

# name -> module
COMMANDS = {"data": "world", "train": "train", "evaluate": "evaluate", "curves": "curves", "table": "table"}


def main(words: Sequence[str]) -> None:
    """Run the command that the first word names, with the other words as its options."""
    if words and words[0] in ("-h", "--help"):
        print(__doc__)
        return
    if not words or words[0] not in COMMANDS:
        sys.exit(f"usage: python -m tools.demo {{{','.join(COMMANDS)}}} ...")
    sys.argv = [f"tools.demo {words[0]}", *words[1:]]
    importlib.import_module(f"tools.demo.{COMMANDS[words[0]]}").main()


if __name__ == "__main__":
    main(sys.argv[1:])
