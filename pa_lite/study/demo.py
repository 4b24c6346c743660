"""The demonstration: the whole trade-off on the embedded pair, offline, in under a minute."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pa_lite.checkpoints import Location
from pa_lite.checkpoints.pairs import Pair, find_pair
from pa_lite.errors import OutputError
from pa_lite.files import write_errors, write_text
from pa_lite.follow.instructions import load_instructions
from pa_lite.follow.outputs import demo_instructions_path
from pa_lite.machine import cores
from pa_lite.study.chart import tradeoff_svg
from pa_lite.study.tradeoff import Point, TradeOff, measure_tradeoff
from pa_lite.tasks.scoring import ItemScore, ScoreOptions
from pa_lite.tasks.spec import find_tasks

LAMS = tuple(i / 10 for i in range(11))


@dataclass(frozen=True)
class DemoResult:
    """What was measured and where it was written."""

    tradeoff: TradeOff
    results: Path
    chart: Path


def measure_demo(pair: Pair, split: str = "test", progress: Callable[[int, int], None] | None = None) -> TradeOff:
    """The demo's lams, tasks and instructions on a pair: the embedded one, or one trained with another seed."""
    instructions = load_instructions(demo_instructions_path(), split)
    options = ScoreOptions(split=split)
    return measure_tradeoff(
        pair.base,
        pair.instruct,
        LAMS,
        find_tasks(["demo"]),
        instructions,
        options,
        workers=cores(),
        progress=progress,
    )


def run_demo(folder: Path, progress: Callable[[int, int], None] | None = None) -> DemoResult:
    """Measure the embedded pair at lam 0, 0.1, ..., 1 and write results.json and chart.svg into the folder.

    The folder is made if need be; the demo's own files in it are replaced. Raises OutputError when that cannot be.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is no folder. Name another with -o.")
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    pair = find_pair("demo")
    result = measure_demo(pair, progress=progress)
    out = DemoResult(result, folder / "results.json", folder / "chart.svg")
    write_text(out.results, json.dumps(to_document(result, pair)) + "\n")
    write_text(out.chart, tradeoff_svg(result, "The embedded pair between base and instruct"))
    return out


def to_document(result: TradeOff, pair: Pair) -> dict[str, Any]:
    """All of it as a JSON document: every number with n, standard error, origin; every item and every answer."""
    return {
        "pair": {"name": pair.name, "base": _fingerprint(pair.base), "instruct": _fingerprint(pair.instruct)},
        "versions": {
            name: importlib.metadata.version(name) for name in ("pa-lite", "llama-cpp-python", "gguf", "numpy")
        },
        "platform": platform.platform(),
        "best_lam": result.best.lam,
        "conclusion": result.conclusion(),
        "points": [_point(p) for p in result.points],
    }


def _point(point: Point) -> dict[str, Any]:
    few_shot, follow = point.few_shot, point.follow
    return {
        "lam": point.lam,
        "few_shot": {
            **asdict(few_shot.accuracy),
            "majority": few_shot.majority,
            "options": asdict(few_shot.options),
            "tasks": [{**asdict(t), "items": [_item(i) for i in t.items]} for t in few_shot.tasks],
        },
        "follow": {**asdict(follow), "by_kind": follow.by_kind()},
    }


def _item(item: ItemScore) -> dict[str, Any]:
    """An item's record; logprobs to four decimals, far below their own noise."""
    return {"index": item.index, "picked": item.picked, "right": item.right,
            "logprobs": [round(x, 4) for x in item.logprobs]}  # fmt: skip


def _fingerprint(checkpoint: Location) -> dict[str, str]:
    """SHA-256 of each of a checkpoint's weight files."""
    assert isinstance(checkpoint, Path)  # the demo's pairs come as folders
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(checkpoint.glob("*.safetensors"))}
