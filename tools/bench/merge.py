"""`python -m tools.bench merge`: merging, against the disk, llama.cpp's quantiser, mergekit and the converter.

Times are those of whole processes; pa-lite's include syncing the result to the disk. Before a clock starts, the inputs
are in the page cache and earlier outputs are synced. Linux and macOS only.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pa_lite.errors import InputError
from pa_lite.system.atomic import check_space
from tools import program
from tools.bench.pair import CONVERT, MERGEKIT, SIZES, input_bytes, warm, weights
from tools.bench.runs import Row, Run, Words, execute, machine, median_ratio, row_of, seconds_of, show, write_json

_LAMS = 11
_YARDSTICKS = program("tools.bench.pair")


@dataclass
class Bench:
    """State that the sections share: the inputs, how often to measure, a scratch folder, and all runs so far."""

    size: str
    vocab: int
    work: Path
    repeat: int
    threads: int
    larger: str | None
    peers: Path | None
    runs: list[Run] = field(default_factory=list)

    def inputs(self, size: str | None = None) -> Path:
        """Return the folder of a size's base and instruct, made if missing, and read into the page cache."""
        folder = self.work / f"{size or self.size}-{self.vocab}"
        if not folder.is_dir():
            execute([*_YARDSTICKS, "make", folder, size or self.size, str(self.vocab)])
            os.sync()
        warm(folder)
        return folder

    def run(self, what: str, words: Words, keep: bool = False) -> Run:
        """Run one process that writes below scratch, and delete its output unless `keep`.

        Raises BenchError with the last line of the process's output when it fails.
        """
        os.sync()
        before = set(self.scratch.rglob("*"))
        seconds, peak, printed = execute(words)
        files = [f for f in self.scratch.rglob("*") if f.is_file() and f not in before]
        run = Run(what, seconds, peak, sum(f.stat().st_size for f in files), printed)
        for f in files if not keep else []:
            f.unlink()
        self.runs.append(run)
        print(f"{what}: {seconds:.2f} s, {peak / 1e6:.0f} MB", file=sys.stderr, flush=True)
        return run

    @property
    def scratch(self) -> Path:
        """Return a folder for outputs."""
        folder = self.work / "scratch"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def rounds(self, steps: Mapping[str, Callable[[], Run]]) -> dict[str, list[Run]]:
        """Run all steps in every round, in reverse order each second time, because order may matter."""
        out: dict[str, list[Run]] = {name: [] for name in steps}
        for i in range(self.repeat):
            for name in list(steps)[:: -1 if i % 2 else 1]:
                out[name].append(steps[name]())
        return out

    def words(self, pair: Path, kind: str, lams: str, *more: str) -> Words:
        """Return pa-lite's command for a merge."""
        words: Words = [sys.executable, "-m", "pa_lite", "merge", pair / "base", pair / "instruct", "--lam", lams]
        return [*words, "--type", kind, "--threads", str(self.threads), "--output", self.scratch, *more]

    def merge(self, pair: Path, kind: str, lams: str = "0.7", *more: str, keep: bool = False) -> Run:
        """Merge once with pa-lite's command line."""
        what = f"pa-lite {kind}, {_LAMS} lams" if ":" in lams else " ".join(["pa-lite", kind, *more])
        return self.run(what, self.words(pair, kind, lams, *more), keep)

    def floor(self, pair: Path, size: int) -> Run:
        """Read the inputs and write `size` bytes, without any other work."""
        words: Words = [*_YARDSTICKS, "floor", self.scratch / "floor", str(size), *weights(pair)]
        return self.run(f"floor of {size / 1e6:.0f} MB", words)

    def result_bytes(self, pair: Path, kind: str) -> int:
        """Return the size of the tensors of one result of that type, from pa-lite's plan."""
        printed = execute(self.words(pair, kind, "0.7", "--dry-run", "--json"))[2]
        return sum(group["bytes"] for group in printed["groups"])


def measure_stream(bench: Bench) -> list[Row]:
    """Measure F16, BF16 and Q8_0, against plain reads and writes of the same number of bytes."""
    pair = bench.inputs()
    sizes = {kind: bench.result_bytes(pair, kind) for kind in ("F16", "Q8_0")}
    found = bench.rounds({
        "floor F16": lambda: bench.floor(pair, sizes["F16"]),
        "F16": lambda: bench.merge(pair, "F16"),
        "BF16": lambda: bench.merge(pair, "BF16"),
        "floor Q8_0": lambda: bench.floor(pair, sizes["Q8_0"]),
        "Q8_0": lambda: bench.merge(pair, "Q8_0"),
    })  # fmt: skip
    rows, floors = [], {}
    for kind, size in sizes.items():
        read, write = (seconds_of(found[f"floor {kind}"], part) for part in ("read", "write"))
        floors[kind] = list(map(sum, zip(read, write, strict=True)))
        rows.append(Row(f"floor {kind}: read both, write {size / 1e6:.0f} MB, sync; without start-up", floors[kind]))
        rows += [Row("  of which reading", read), Row("  of which writing and sync", write)]
    for kind, like, most in (("F16", "F16", 1.3), ("BF16", "F16", 1.3), ("Q8_0", "Q8_0", 1.5)):
        ratio = median_ratio(seconds_of(found[kind]), floors[like])
        rows.append(row_of(f"pa-lite {kind} over floor {like}", found[kind], ratio, most))
    return rows


def measure_quantize(bench: Bench) -> list[Row]:
    """Measure Q4_K_M by pa-lite, against llama.cpp's quantiser on the finished F32 merge."""
    pair = bench.inputs()
    bench.merge(pair, "F32", keep=True)
    (ready,) = bench.scratch.glob("*.gguf")
    words: Words = [*_YARDSTICKS, "quantize", ready, bench.scratch / "q4.gguf", str(bench.threads)]
    found = bench.rounds({
        "peer": lambda: bench.run("llama_model_quantize Q4_K_M", words),
        "own": lambda: bench.merge(pair, "Q4_K_M"),
    })  # fmt: skip
    ready.unlink()
    own, peer, call = seconds_of(found["own"]), seconds_of(found["peer"]), seconds_of(found["peer"], "seconds")
    return [
        row_of("llama_model_quantize F32 to Q4_K_M, process, no sync", found["peer"]),
        Row("  of which the call", call),
        row_of("pa-lite Q4_K_M, merging and sync included, over process", found["own"], median_ratio(own, peer), 1.05),
        Row("  over the call", own, ratio=median_ratio(own, call)),
    ]


def measure_memory(bench: Bench) -> list[Row]:
    """Measure peak memory with --max-memory, for one size or two; one run each, because it hardly varies."""
    bound = 256 if bench.vocab < 65536 else 320
    rows, peaks = [], {}
    for size in filter(None, (bench.size, bench.larger)):
        pair = bench.inputs(size)
        for kind in ("F16", "Q8_0", "Q4_K_M"):
            run = bench.merge(pair, kind, "0.7", "--max-memory", f"{bound}M")
            peaks[size, kind] = run.peak
            what = f"peak memory, {size} {kind}, {bench.vocab} tokens, --max-memory {bound}M"
            rows.append(Row(what, (run.peak / 1e6,), run.peak, None, f"<= {bound} MB", run.peak <= bound * 1e6, "MB"))
            if size == bench.larger:
                ratio = run.peak / peaks[bench.size, kind]
                what = f"peak memory, {kind}, {size} over {bench.size}"
                rows.append(Row(what, (run.peak / 1e6,), None, ratio, "<= 1.1x", ratio <= 1.1, "MB"))
    return rows


def measure_lams(bench: Bench) -> list[Row]:
    """Measure eleven lams in one pass, against one lam, and against reading once and writing eleven times."""
    pair = bench.inputs()
    size = bench.result_bytes(pair, "F16")
    found = bench.rounds({
        "floor": lambda: bench.floor(pair, size),
        "one": lambda: bench.merge(pair, "F16"),
        "eleven": lambda: bench.merge(pair, "F16", "0:1:0.1"),
    })  # fmt: skip
    eleven, one = seconds_of(found["eleven"]), seconds_of(found["one"])
    due = [run.printed["read"] + _LAMS * run.printed["write"] for run in found["floor"]]
    ratio, own_ratio = median_ratio(eleven, due), median_ratio(eleven, one)
    return [
        Row("floor of eleven F16 files: reading + 11 x writing", due),
        row_of("pa-lite F16, one lam", found["one"]),
        row_of("pa-lite F16, eleven lams in one pass, over that floor", found["eleven"], ratio, 1.0),
        Row("  over one lam", eleven, None, own_ratio, f"<= {_LAMS}x", own_ratio <= _LAMS),
    ]


def measure_peers(bench: Bench) -> list[Row]:
    """Measure mergekit followed by llama.cpp's converter, another way to a GGUF file, against pa-lite."""
    where = bench.peers
    for needed in ("mergekit/bin/mergekit-yaml", "llama.cpp/convert_hf_to_gguf.py"):
        if where is None or not (where / needed).is_file():
            return [Row("mergekit, then converter, over pa-lite", note=f"not measured: no {needed} below --peers")]
    assert where is not None
    pair = bench.inputs()
    merged, recipe = bench.scratch / "merged", bench.scratch / "mergekit.yaml"
    recipe.write_text(MERGEKIT.format(base=pair / "base", instruct=pair / "instruct"), "utf-8")
    python = where / "mergekit" / "bin" / "python"
    kinds, found = ("F16", "Q8_0"), dict[str, list[Run]]()
    for _ in range(bench.repeat):
        done = [bench.run("mergekit linear", [python.with_name("mergekit-yaml"), recipe, merged], keep=True)]
        for kind in kinds:
            words: Words = [python, "-c", CONVERT, where / "llama.cpp", merged, "--outtype", kind.lower()]
            done.append(bench.run(f"convert {kind}", [*words, "--outfile", bench.scratch / "converted.gguf"]))
        shutil.rmtree(merged)
        done += [bench.merge(pair, kind) for kind in kinds]
        for run in done:
            found.setdefault(run.what, []).append(run)
    rows = [row_of(f"{what}, {runs[0].written / 1e9:.2f} GB written", runs) for what, runs in found.items()]
    for kind in kinds:
        way = [a.seconds + b.seconds for a, b in zip(found["mergekit linear"], found[f"convert {kind}"], strict=True)]
        ratio = median_ratio(way, seconds_of(found[f"pa-lite {kind}"]))
        peak = max(run.peak for name in ("mergekit linear", f"convert {kind}") for run in found[name])
        what = f"mergekit, then converter to {kind}, over pa-lite"
        rows.append(Row(what, way, peak, ratio, ">= 8x", ratio >= 8))
    return rows


# section -> the function that measures it, and the disk space that it needs as a multiple of the inputs
SECTIONS: dict[str, tuple[Callable[[Bench], list[Row]], float]] = {
    "stream": (measure_stream, 0.6),
    "quantize": (measure_quantize, 2.2),
    "memory": (measure_memory, 0.6),
    "lams": (measure_lams, 0.5 * _LAMS + 0.1),
    "peers": (measure_peers, 1.2),
}


def add_arguments(merge: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    merge.add_argument("--size", choices=SIZES, default="1b", help="the pair's shapes (default: 1b)")
    merge.add_argument("--larger", choices=SIZES, help="a second size, for the section memory")
    merge.add_argument("--vocab", type=int, default=49152, help="tokens (default: 49152)")
    folder = Path(tempfile.gettempdir()) / "pa-lite-bench"
    merge.add_argument("--work", type=Path, default=folder, metavar="DIR", help=f"inputs, outputs (default: {folder})")
    merge.add_argument("--repeat", type=int, default=5, help="runs of each (default: 5)")
    merge.add_argument("--threads", type=int, default=2, help="threads of pa-lite and of llama.cpp (default: 2)")
    merge.add_argument(
        "--peers", type=Path, metavar="DIR", help="folder with mergekit (a virtual environment) and llama.cpp (sources)"
    )
    help_text = f"sections, of {', '.join(SECTIONS)}"
    merge.add_argument("--only", type=lambda s: s.split(","), default=[], metavar="SECTION,...", help=help_text)
    merge.add_argument("--json", type=Path, metavar="FILE", help="write all runs and the machine's facts there")


def run(options: argparse.Namespace) -> None:
    """Measure the requested sections, print the table, write the JSON file."""
    unknown = set(options.only) - SECTIONS.keys()
    if unknown:
        raise InputError(f"unknown section {min(unknown)!r}. Known: {', '.join(SECTIONS)}.")
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    bench = Bench(options.size, options.vocab, work, options.repeat, options.threads, options.larger, options.peers)
    facts, rows = machine(options.peers), list[Row]()
    try:
        for name in options.only or SECTIONS:
            measure, room = SECTIONS[name]
            bench.inputs()
            largest = bench.larger if name == "memory" and bench.larger else bench.size
            check_space(work, int(room * input_bytes(SIZES[largest], bench.vocab)))
            rows += measure(bench)
    finally:
        shutil.rmtree(work / "scratch", ignore_errors=True)
    show(rows)
    if options.json is not None:
        write_json(options.json, vars(options), facts, rows, bench.runs)
