"""`python -m tools.bench study`: a sweep against separate commands, moving lam in memory, the store's share, memory."""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pa_lite.checkpoints import open_checkpoint
from pa_lite.checkpoints.pairs import Pair
from pa_lite.engine.in_memory import InMemoryModel
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.merging.plan import MergePlan, PlanOptions, plan_merge
from pa_lite.merging.write import MergeOptions, write_merge
from pa_lite.study.plan import StudyOptions, plan_study
from pa_lite.study.store import Store, open_store
from pa_lite.study.sweep import run_sweep
from pa_lite.study.worker import LocalWorker
from pa_lite.system.machine import peak_bytes
from pa_lite.tasks.scoring import ScoreOptions
from tools import program
from tools.bench.runs import Row, Run, Words, execute, machine, median_ratio, row_of, show, write_json
from tools.bench.score import smollm2

LAMS = [f"{i / 10:g}" for i in range(11)]
_EXTRA = 300_000_000  # bytes that a sweep may take besides a model and its caches


def _command(*words: str | Path) -> Words:
    return [sys.executable, "-m", "pa_lite", *words]


def separately(folder: Path, threads: int) -> Run:
    """Merge, score and follow at each lam with separate commands."""
    seconds, peak = 0.0, 0
    for lam in LAMS:
        path = folder / f"demo-{lam}.gguf"
        common: Words = ["--threads", str(threads)]
        for words in (
            _command("merge", "--lam", lam, "--type", "F16", "-o", path, "--force", *common),
            _command("score", path, "--tasks", "demo", "--json", *common),
            _command("follow", path, "--set", "demo", "--json", *common),
        ):
            took, most, _ = execute(words)
            seconds, peak = seconds + took, max(peak, most)
    return Run("separately", seconds, peak, 0)


def swept(folder: Path, threads: int) -> Run:
    """Do the same as one sweep in an empty folder."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    words = _command(
        "sweep",
        "demo",
        "--tasks",
        "demo",
        "--follow",
        "demo",
        "--run",
        folder / "run",
        "--threads",
        str(threads),
        "--json",
    )
    seconds, peak, _ = execute(words)
    return Run("sweep", seconds, peak, 0)


def built(plan: MergePlan, threads: int, repeat: int, folder: Path) -> tuple[list[float], list[float]]:
    """Return the seconds to build a lam, in turn: by moving it in memory, and by writing and loading a GGUF file."""
    lams = [(i + 1) / (2 * repeat + 2) for i in range(2 * repeat)]
    in_memory, on_disk = [], []
    path, options = folder / "built.gguf", EngineOptions(threads=threads)
    with InMemoryModel(plan, 0.0, options) as moving:
        for first, second in zip(lams[::2], lams[1::2], strict=True):
            start = time.perf_counter()
            moving.move(first)
            in_memory.append(time.perf_counter() - start)
            start = time.perf_counter()
            write_merge(plan, [(second, path)], MergeOptions(threads=threads, force=True))
            Model(path, options).close()
            on_disk.append(time.perf_counter() - start)
    path.unlink()
    return in_memory, on_disk


class _TimedStore:
    """A store whose calls are timed; everything else is passed on to the store."""

    def __init__(self, store: Store) -> None:
        self._store, self.seconds = store, 0.0

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._store, name)
        return self._timed(value) if callable(value) else value

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*words: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*words)
            finally:
                self.seconds += time.perf_counter() - start

        return timed


def _demo_options(threads: int, workers: int = 0) -> StudyOptions:
    lams = tuple(map(float, LAMS))
    return StudyOptions(
        lams=lams, tasks=("demo",), follow="demo", engine=EngineOptions(threads=threads), workers=workers
    )


def store_share(threads: int, folder: Path) -> tuple[float, float]:
    """Return the seconds within the store, and of the whole sweep, with one worker so that nothing overlaps."""
    shutil.rmtree(folder / "timed", ignore_errors=True)
    plan = plan_study("demo", _demo_options(threads, workers=1))
    with open_store(folder / "timed") as store:
        timed = _TimedStore(store)
        start = time.perf_counter()
        run_sweep(plan, timed)  # type: ignore[arg-type]
        return timed.seconds, time.perf_counter() - start


def memory_of_sweep(source: Path, kind: str, threads: int, folder: Path) -> dict[str, int]:
    """Return the peak memory of a small sweep in this process, the weights, and the largest cache (generation's)."""
    pair = Pair(name="smollm2", base=source, instruct=source)
    options = StudyOptions(
        lams=(0.0, 0.5, 1.0),
        tasks=("demo_town",),
        types=(kind,),
        follow="demo",
        follow_limit=16,
        score=ScoreOptions(limit=64),
        engine=EngineOptions(threads=threads),
    )
    plan = plan_study(pair, options)
    with open_store(folder / f"memory-{kind}") as store:
        run_sweep(plan, store)
    peak = _peak()
    with LocalWorker(
        plan
    ) as worker:  # 16 answers at a time, whose prompts and limits fit llama.cpp's minimum of 256 cells
        cache = 16 * 256 * worker.model_at(kind, 0.0).exact_cell_bytes
    return {"peak": peak, "weights": plan.merges[kind].data_bytes, "cache": cache}


def _peak() -> int:
    """Return this program's peak memory; the system's other figure includes the program that started it."""
    try:
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
    except OSError:
        return peak_bytes()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), peak_bytes())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    folder = Path(tempfile.gettempdir()) / "pa-lite-bench"
    parser.add_argument("--model", type=Path, metavar="FILE", help="weights to build (default: SmolLM2-135M, F16)")
    parser.add_argument("--work", type=Path, default=folder, metavar="DIR", help=f"scratch folder ({folder})")
    parser.add_argument("--repeat", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--threads", type=int, default=2, help="threads (default: 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures and the machine's facts there")


def run(options: argparse.Namespace) -> None:
    """Measure, print the table, write the JSON file."""
    facts, threads = machine(None), options.threads
    source = options.model or smollm2(options.work)
    rows, runs = [], []
    with tempfile.TemporaryDirectory(prefix="study-", dir=options.work) as name:
        folder = Path(name)
        apart, whole = [], []
        for _ in range(options.repeat):
            whole.append(swept(folder, threads))
            apart.append(separately(folder, threads))
        runs += [*whole, *apart]
        faster = median_ratio([r.seconds for r in apart], [r.seconds for r in whole])
        rows += [
            row_of("33 commands: merge, score, follow at eleven lams", apart),
            Row("sweep of the demo, over it", [r.seconds for r in whole], max(r.peak for r in whole), faster, ">= 3x",
                faster >= 3),
        ]  # fmt: skip
        checkpoint = open_checkpoint(source)
        for kind in ("F16", "Q8_0"):
            in_memory, on_disk = built(plan_merge(checkpoint, checkpoint, PlanOptions(type=kind)), threads, 5, folder)
            ratio = median_ratio(on_disk, in_memory)
            rows.append(Row(f"{kind}: a GGUF written and loaded", on_disk))
            rows.append(Row(f"{kind}: the lam moved in memory, over it", in_memory, None, ratio, ">= 2x", ratio >= 2))
        shares = [store_share(threads, folder) for _ in range(options.repeat)]
        share = statistics.median(inside / total for inside, total in shares)
        rows.append(Row("within the store, of a sweep", [s for s, _ in shares], None, share, "<= 0.02x", share <= 0.02))
        for kind in ("F16", "Q8_0"):
            words: Words = [*program("tools.bench.study"), source, kind, str(threads), folder]
            _, _, printed = execute(words)
            rest = printed["peak"] - printed["weights"] - printed["cache"]
            what = f"{kind}: peak of a sweep above weights and cache"
            target = f"<= {_EXTRA / 1e6:.0f} MB"
            rows.append(Row(what, [rest / 1e6], printed["peak"], None, target, rest <= _EXTRA, "MB"))
    show(rows)
    if options.json is not None:
        write_json(options.json, vars(options), facts, rows, runs)


if __name__ == "__main__":
    print(json.dumps(memory_of_sweep(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))))
