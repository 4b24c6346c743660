"""AlpacaEval's own data: its 805 instructions, their difficulties, and two baselines that game length.

They come from the Hub data set `tatsu-lab/alpaca_eval` (CC BY-NC 4.0) or from local files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pa_lite.alpaca.length_control import GamedBaselines
from pa_lite.alpaca.prompts import Prompt, read_prompts
from pa_lite.errors import InputError
from pa_lite.untrusted.rows import csv_rows, read_text

REPOSITORY = "tatsu-lab/alpaca_eval"
INSTRUCTIONS_FILE = "alpaca_eval.json"
GAMED_FILE = "df_gamed.csv"
DATASETS = frozenset({"helpful_base", "koala", "oasst", "selfinstruct", "vicuna"})  # sources of its instructions
_COLUMNS = ("index", "preference", "std_delta_len", "instruction_difficulty")


@dataclass(frozen=True)
class LengthData:
    """What the full length-controlled form needs besides annotations: each instruction's difficulty, the baselines."""

    difficulty: dict[str, float]
    gamed: GamedBaselines


def fetch(filename: str) -> Path:
    """Return the path of a file of the data set, downloaded if not cached. Raises PaLiteError when that fails."""
    from pa_lite.checkpoints.hub.repositories import fetch_file

    return fetch_file(REPOSITORY, filename, repo_type="dataset")


def load_alpaca_eval(source: str | Path | None = None) -> list[Prompt]:
    """Return the 805 instructions in the set's order, from a local copy of `alpaca_eval.json` or from the Hub.

    Raises InputError, naming file and entry, for a malformed file, and PaLiteError when the download fails.
    """
    return read_prompts(fetch(INSTRUCTIONS_FILE) if source is None else Path(source), "alpaca_eval")


def load_length_data(folder: Path | None = None) -> LengthData:
    """Return difficulties and baselines from `alpaca_eval.json` and `df_gamed.csv` in a folder or from the Hub.

    An instruction gets the difficulty of its index in the set. alpaca_eval uses the row number of the annotations as
    that index, which differs where rows are missing. Raises InputError for malformed files, and PaLiteError when the
    download fails.
    """
    find = fetch if folder is None else folder.joinpath
    instructions = [p.instruction for p in load_alpaca_eval(find(INSTRUCTIONS_FILE))]
    path = find(GAMED_FILE)
    difficulty: dict[int, float] = {}
    columns: list[tuple[float, float, float]] = []
    try:
        for row in csv_rows(path, read_text(path, is_csv=True), ",").rows:
            index, preference, delta, value = (row[name] for name in _COLUMNS)
            number = float(value)
            difficulty.setdefault(int(float(index)), number)
            columns.append((float(preference or math.nan), float(delta), number))
    except KeyError as e:
        raise InputError(f"{path}: has no column {e}.") from e
    except (ValueError, OverflowError) as e:
        raise InputError(f"{path}: is not a table with numbers under {', '.join(_COLUMNS)} ({e}).") from e
    missing = [i for i in range(len(instructions)) if i not in difficulty]
    if missing:
        raise InputError(f"{path}: has no difficulty for {len(missing)} of {len(instructions)} instructions.")
    gamed = GamedBaselines(*np.array(columns, np.float64).T)
    known = gamed.preference[~np.isnan(gamed.preference)]
    if not known.size or known.min() < 0 or known.max() > 1 or not np.isfinite(gamed.delta).all():
        raise InputError(
            f"{path}: has no preferences, preferences outside [0, 1], or length differences that are not finite."
        )
    return LengthData({text: difficulty[i] for i, text in enumerate(instructions)}, gamed)
