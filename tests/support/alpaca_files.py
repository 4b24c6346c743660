"""Small files in AlpacaEval's formats, generated from a seed: annotations, and the Hub data set's two files."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "alpaca_eval"  # real files, if available


def instruction(i: int) -> str:
    return f"Request {i}: say something about it."


def annotation_rows(n: int, seed: int, dataset: str = "koala") -> list[dict[str, Any]]:
    """Return annotations in which the longer answer tends to win, with some draws."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        lengths = rng.integers(5, 400, 2)
        z = 0.8 * np.tanh((lengths[1] - lengths[0]) / 150) - 0.5 + rng.normal()
        preference = 1.5 if i % 17 == 3 else 1 + float(1 / (1 + np.exp(-3 * z)))
        rows.append({
            "instruction": instruction(i), "dataset": dataset, "annotator": "someone", "preference": preference,
            "output_1": "a" * int(lengths[0]), "generator_1": "reference",
            "output_2": "b" * int(lengths[1]), "generator_2": "model",
        })  # fmt: skip
    return rows


def write_rows(path: Path, rows: object) -> Path:
    path.write_text(json.dumps(rows), "utf-8")
    return path


def data_set(n: int, seed: int = 5) -> dict[str, bytes]:
    """Return `alpaca_eval.json` and `df_gamed.csv` for n instructions: file name -> bytes."""
    rng = np.random.default_rng(seed)
    prompts = [{"instruction": instruction(i), "dataset": "koala", "output": "x", "generator": "y"} for i in range(n)]
    difficulty = rng.normal(size=n)
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["model", "preference", "index", "std_delta_len", "instruction_difficulty", "not_gamed_baseline"])
    for model, shift in (("concise", 1.0), ("verbose", -1.0)):
        for i in range(n):
            row = [model, rng.beta(0.5, 0.5), i, rng.normal(shift), difficulty[i], False]
            table.writerow(row)
    return {"alpaca_eval.json": json.dumps(prompts).encode(), "df_gamed.csv": text.getvalue().encode()}


def write_data_set(folder: Path, n: int, seed: int = 5) -> Path:
    folder.mkdir()
    for name, content in data_set(n, seed).items():
        (folder / name).write_bytes(content)
    return folder
