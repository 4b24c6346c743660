"""`python -m tools.bench busy`: scoring and generation while other programs run, compared with an idle machine.

There are four loads: none; one program that computes all the time; three that compute half of the time, in bursts of a
few hundredths of a second; a compiler on every core. Under each, 20 few-shot items are scored and 16 chat prompts
answered, each in a separate process that runs for a moment before its clock starts. The ways to run are pa-lite's
default ("adaptive"), a fixed number of threads, and OpenMP's environment variables.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pa_lite.engine.chat import chat_prompts
from pa_lite.engine.generation import GenerationOptions, generate
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.engine.requests import make_requests
from pa_lite.engine.scoring import score_requests
from pa_lite.errors import InputError
from pa_lite.system.machine import cores
from tools import program
from tools.bench.generate import PROMPTS
from tools.bench.runs import BenchError, Row, Run, execute, machine, show, write_json
from tools.bench.score import make_items, smollm2

# way -> threads (0: pa-lite chooses; -1: one for each core) and OpenMP's environment variables
WAYS: dict[str, tuple[int, dict[str, str]]] = {
    "adaptive": (0, {}),
    "all": (-1, {}),
    "one": (1, {}),
    "spin10000": (-1, {"GOMP_SPINCOUNT": "10000"}),
    "spin1000": (-1, {"GOMP_SPINCOUNT": "1000"}),
    "spin100": (-1, {"GOMP_SPINCOUNT": "100"}),
    "passive": (-1, {"OMP_WAIT_POLICY": "passive"}),
    "adaptive+spin1000": (0, {"GOMP_SPINCOUNT": "1000"}),
}
SITUATIONS = ("idle", "loop", "bursts", "compile")
WORK = ("score", "generate")
_SOURCE = """
#include <algorithm>
#include <functional>
#include <map>
#include <regex>
#include <string>
#include <vector>
template <int N> struct Tower { static int sum(int x) { return Tower<N - 1>::sum(x ^ N) + N; } };
template <> struct Tower<0> { static int sum(int x) { return x; } };
int work(const std::string &text) {
  std::map<std::string, std::vector<int>> found;
  std::regex word("(\\\\w+)\\\\s*");
  for (std::sregex_iterator it(text.begin(), text.end(), word), end; it != end; ++it)
    found[it->str()].push_back(Tower<400>::sum(static_cast<int>(found.size())));
  std::function<int(int)> twice = [](int x) { return 2 * x; };
  int total = 0;
  for (auto &entry : found) { std::sort(entry.second.begin(), entry.second.end()); total += twice(entry.second[0]); }
  return total;
}
"""


def burn(seconds: float, bursts: bool) -> None:
    """Compute for some seconds: all the time, or in bursts of 5 to 80 ms with pauses of the same length."""
    end, parent = time.monotonic() + seconds, os.getppid()
    rng = random.Random(os.getpid())
    while time.monotonic() < end and os.getppid() == parent:
        stop = time.monotonic() + rng.uniform(0.005, 0.08)
        while time.monotonic() < stop:
            pass
        if bursts:
            time.sleep(rng.uniform(0.005, 0.08))


def compile_for(seconds: float, source: Path) -> None:
    """Compile a file repeatedly for some seconds."""
    compiler = shutil.which("c++") or shutil.which("g++") or "c++"
    end, parent = time.monotonic() + seconds, os.getppid()
    while time.monotonic() < end and os.getppid() == parent:
        subprocess.run([compiler, "-O2", "-c", "-o", os.devnull, source], check=True, timeout=seconds)


@contextlib.contextmanager
def other_programs(situation: str) -> Iterator[None]:
    """Keep other programs busy within the block; they stop by themselves when this process does."""
    words: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        if situation == "loop":
            words = [["loop"]]
        elif situation == "bursts":
            words = [["bursts"]] * 3
        elif situation == "compile":
            source = Path(folder) / "source.cpp"
            source.write_text(_SOURCE, "ascii")
            words = [["compile", str(source)]] * cores()
        started = [
            subprocess.Popen([*program("tools.bench.busy"), *w], start_new_session=True, stderr=subprocess.DEVNULL)
            for w in words
        ]
        try:
            if started:
                time.sleep(0.5)
            yield
        finally:
            for process in started:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # the compilers too
                process.wait()


def work(what: str, path: Path, n: int, threads: int) -> dict[str, Any]:
    """Score n few-shot items of six options, or answer n chat prompts with 48 tokens each; return the seconds."""
    with Model(path, EngineOptions(threads=threads, gpu_layers=0)) as model:
        if what == "score":
            requests = [r for p, options in make_items(n, "letters") for r in make_requests(model, p, options)]
            start = time.perf_counter()
            score_requests(model, requests)
        else:
            prompts = chat_prompts(model, (PROMPTS * (n // len(PROMPTS) + 1))[:n]).tokens
            start = time.perf_counter()
            generate(model, prompts, GenerationOptions(max_tokens=48, parallel=min(16, n)))
        return {"seconds": time.perf_counter() - start, "threads": model.thread_count.now}


def add_arguments(busy: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    folder = Path(tempfile.gettempdir()) / "pa-lite-bench"
    busy.add_argument("--model", type=Path, metavar="FILE", help="a GGUF file (default: SmolLM2-135M-Instruct, F16)")
    busy.add_argument(
        "--work", type=Path, default=folder, metavar="DIR", help=f"folder for that model (default: {folder})"
    )
    busy.add_argument("--items", type=int, default=20, help="few-shot items (default: 20)")
    busy.add_argument("--answers", type=int, default=16, help="answers of 48 tokens (default: 16)")
    busy.add_argument("--ways", default="adaptive,all", help=f"of {', '.join(WAYS)} (default: adaptive,all)")
    busy.add_argument("--load", default=",".join(SITUATIONS), help=f"of {', '.join(SITUATIONS)} (default: all)")
    busy.add_argument("--repeat", type=int, default=3, help="runs of each (default: 3)")
    busy.add_argument("--json", type=Path, metavar="FILE", help="write all runs and the machine's facts there")


def _chosen(text: str, known: tuple[str, ...]) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise InputError(f"{name!r} is not one of {', '.join(known)}.")
    return names


def run(options: argparse.Namespace) -> None:
    """Measure everything in turn, print the table, write the JSON file."""
    if min(options.items, options.answers, options.repeat) < 1:
        raise InputError("--items, --answers and --repeat must be 1 or more.")
    ways, situations = _chosen(options.ways, tuple(WAYS)), _chosen(options.load, SITUATIONS)
    if "compile" in situations and not (shutil.which("c++") or shutil.which("g++")):
        raise BenchError("no C++ compiler was found for the load 'compile'. Choose other loads with --load.")
    path = options.model or smollm2(options.work)
    found: dict[tuple[str, str, str], list[float]] = {}
    runs: list[Run] = []
    for _ in range(options.repeat):
        for situation in situations:
            for what in WORK:
                for way in ways:
                    threads, variables = WAYS[way]
                    n = options.items if what == "score" else options.answers
                    asked = cores() if threads < 0 else threads
                    words = [*program("tools.bench.busy"), what, path, str(n), str(asked)]
                    with other_programs(situation):
                        _, peak, printed = execute(words, variables)
                    found.setdefault((situation, what, way), []).append(printed["seconds"])
                    runs.append(Run(f"{what}, load {situation}, {way}", printed["seconds"], peak, 0, printed))
                    print(f"{runs[-1].what}: {printed['seconds']:.2f} s", file=sys.stderr, flush=True)
    rows = []
    for what in WORK:
        for situation in situations:
            for way in ways:
                seconds = found[situation, what, way]
                # the loss is relative to the best way on the idle machine
                idle = min((statistics.median(found[k]) for k in found if k[:2] == ("idle", what)), default=None)
                ratio = statistics.median(seconds) / idle if idle else None
                most = {"idle": 1.03, "loop": 2.0}.get(situation, 2.5)
                met = None if ratio is None or way != "adaptive" else ratio <= most
                target = f"<= {most:g}x" if met is not None else ""
                rows.append(Row(f"{what}, load {situation}, {way}", seconds, None, ratio, target, met))
    show(rows)
    if options.json is not None:
        write_json(options.json, vars(options), machine(None), rows, runs)


if __name__ == "__main__":
    name, *rest = sys.argv[1:]
    if name in ("loop", "bursts"):
        burn(600, name == "bursts")
    elif name == "compile":
        compile_for(600, Path(rest[0]))
    else:
        print(json.dumps(work(name, Path(rest[0]), int(rest[1]), int(rest[2]))))
