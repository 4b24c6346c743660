"""Measures pa-lite against the disk, llama.cpp and mergekit: every figure a median of runs in processes of their own.

python tools/bench.py merge [--size 1b] [--larger 3b] [--repeat 5] [--peers FOLDER] [--only SECTION,...] [--json FILE]
python tools/bench.py generate [--model FILE] [--threads 2] [--parallel 32] [--repeat 3] [--json FILE]

What is compared runs in turn within one loop, and a ratio is the median of the loop's ratios: absolute times drift.
Times are a whole process's, from its start to its end; pa-lite's include bringing the result to the disk. Inputs are
in the page cache, and what other runs wrote is on the disk, before a clock starts. Linux and macOS only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench_pair import CONVERT, MERGEKIT, SIZES, input_bytes, warm, weights

from pa_lite.errors import InputError, PaLiteError
from pa_lite.files import check_space, write_text

_LAMS = 11
_YARDSTICKS = Path(__file__).with_name("bench_pair.py")
_VERSIONS = "import json; from importlib.metadata import version as v; print(json.dumps({n: v(n) for n in %r}))"
Words = list[str | Path]


class BenchError(PaLiteError):
    """Something measured did not run."""


@dataclass(frozen=True)
class Run:
    """One process: seconds from start to end, the most memory it held, what it left on the disk, what it printed."""

    what: str
    seconds: float
    peak: int
    written: int
    told: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A line of the table: values in seconds, or in MB where `unit` says so; `met` None where there is no target."""

    what: str
    values: Sequence[float] = ()
    peak: int | None = None
    ratio: float | None = None
    target: str = ""
    met: bool | None = None
    unit: str = "s"
    note: str = ""


@dataclass
class Bench:
    """What the sections share: the inputs, how often to measure, a scratch folder, and every run so far."""

    size: str
    vocab: int
    work: Path
    repeat: int
    threads: int
    larger: str | None
    peers: Path | None
    runs: list[Run] = field(default_factory=list)

    def inputs(self, size: str | None = None) -> Path:
        """The folder of a size's base and instruct, made when it is not there yet, and read into the page cache."""
        folder = self.work / f"{size or self.size}-{self.vocab}"
        if not folder.is_dir():
            self._execute([sys.executable, _YARDSTICKS, "make", folder, size or self.size, str(self.vocab)])
            os.sync()
        warm(folder)
        return folder

    def run(self, what: str, words: Words, keep: bool = False) -> Run:
        """Run one process that writes below scratch, and delete what it wrote unless it is to be kept.

        Raises BenchError with the last line of what it said when it fails.
        """
        os.sync()
        before = set(self.scratch.rglob("*"))
        seconds, peak, told = self._execute(words)
        files = [f for f in self.scratch.rglob("*") if f.is_file() and f not in before]
        run = Run(what, seconds, peak, sum(f.stat().st_size for f in files), told)
        for f in files if not keep else []:
            f.unlink()
        self.runs.append(run)
        print(f"{what}: {seconds:.2f} s, {peak / 1e6:.0f} MB", file=sys.stderr, flush=True)
        return run

    @property
    def scratch(self) -> Path:
        """A folder for outputs."""
        folder = self.work / "scratch"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def rounds(self, steps: Mapping[str, Callable[[], Run]]) -> dict[str, list[Run]]:
        """Do all steps in turn, again and again; the order turns round each time, as order may matter."""
        out: dict[str, list[Run]] = {name: [] for name in steps}
        for i in range(self.repeat):
            for name in list(steps)[:: -1 if i % 2 else 1]:
                out[name].append(steps[name]())
        return out

    def words(self, pair: Path, kind: str, lams: str, *more: str) -> Words:
        """The command that makes pa-lite merge."""
        words: Words = [sys.executable, "-m", "pa_lite", "merge", pair / "base", pair / "instruct", "--lam", lams]
        return [*words, "--type", kind, "--threads", str(self.threads), "--output", self.scratch, *more]

    def merge(self, pair: Path, kind: str, lams: str = "0.7", *more: str, keep: bool = False) -> Run:
        """One merge by pa-lite's command line."""
        what = f"pa-lite {kind}, {_LAMS} lams" if ":" in lams else " ".join(["pa-lite", kind, *more])
        return self.run(what, self.words(pair, kind, lams, *more), keep)

    def floor(self, pair: Path, size: int) -> Run:
        """Read the inputs and write `size` bytes, and nothing else."""
        words: Words = [sys.executable, _YARDSTICKS, "floor", self.scratch / "floor", str(size), *weights(pair)]
        return self.run(f"floor of {size / 1e6:.0f} MB", words)

    def result_bytes(self, pair: Path, kind: str) -> int:
        """How long pa-lite's tensors are in one result of that type, from its own plan."""
        told = self._execute(self.words(pair, kind, "0.7", "--dry-run", "--json"))[2]
        return sum(group["bytes"] for group in told["groups"])

    def _execute(self, words: Words) -> tuple[float, int, dict[str, Any]]:
        """Run words; (seconds, peak bytes, the JSON object it printed or {})."""
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            start = time.perf_counter()
            process = subprocess.Popen(words, stdout=out, stderr=err, env=environment)
            try:
                # resources of this child alone; the peak is at least what this process held, hence its few imports
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:
                process.kill()
                process.wait()
                raise
            seconds = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0)
            err.seek(0)
            if process.returncode:
                raise BenchError(f"{' '.join(map(str, words))[:200]} failed: {last_line(err.read())}")
            text = out.read()
        told = json.loads(text) if text.startswith("{") else {}
        return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), told


def last_line(text: str) -> str:
    """The last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")


def median_ratio(above: Iterable[float], below: Iterable[float]) -> float:
    """The median of the ratios of runs that took place in the same round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def seconds_of(runs: Sequence[Run], part: str | None = None) -> list[float]:
    """The runs' times, or the part of them that they printed under that name."""
    return [run.seconds if part is None else run.told[part] for run in runs]


def row_of(what: str, runs: Sequence[Run], ratio: float | None = None, most: float | None = None) -> Row:
    """The line of some runs; with `most`, the target is a ratio of at most that."""
    row = Row(what, seconds_of(runs), max(run.peak for run in runs), ratio)
    return row if ratio is None or most is None else replace(row, target=f"<= {most:g}x", met=ratio <= most)


def measure_stream(bench: Bench) -> list[Row]:
    """F16, BF16 and Q8_0 against plain reads and writes of as many bytes."""
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
    """Q4_K_M from the pair by pa-lite, against llama.cpp's quantiser on the merge that is ready as F32."""
    pair = bench.inputs()
    bench.merge(pair, "F32", keep=True)
    (ready,) = bench.scratch.glob("*.gguf")
    words: Words = [sys.executable, _YARDSTICKS, "quantize", ready, bench.scratch / "q4.gguf", str(bench.threads)]
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
    """The peak of a merge with --max-memory, for one size or two; one run each, as it hardly varies."""
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
    """Eleven lams in one pass against one lam, and against the floor's reading once and writing eleven times."""
    pair = bench.inputs()
    size = bench.result_bytes(pair, "F16")
    found = bench.rounds({
        "floor": lambda: bench.floor(pair, size),
        "one": lambda: bench.merge(pair, "F16"),
        "eleven": lambda: bench.merge(pair, "F16", "0:1:0.1"),
    })  # fmt: skip
    eleven, one = seconds_of(found["eleven"]), seconds_of(found["one"])
    due = [run.told["read"] + _LAMS * run.told["write"] for run in found["floor"]]
    ratio, own_ratio = median_ratio(eleven, due), median_ratio(eleven, one)
    return [
        Row("floor of eleven F16 files: reading + 11 x writing", due),
        row_of("pa-lite F16, one lam", found["one"]),
        row_of("pa-lite F16, eleven lams in one pass, over that floor", found["eleven"], ratio, 1.0),
        Row("  over one lam", eleven, None, own_ratio, f"<= {_LAMS}x", own_ratio <= _LAMS),
    ]


def measure_peers(bench: Bench) -> list[Row]:
    """mergekit and then llama.cpp's converter, a user's way to a GGUF file, against pa-lite."""
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


# section -> how it is measured, and the disk that it needs as a multiple of the inputs
SECTIONS: dict[str, tuple[Callable[[Bench], list[Row]], float]] = {
    "stream": (measure_stream, 0.6),
    "quantize": (measure_quantize, 2.2),
    "memory": (measure_memory, 0.6),
    "lams": (measure_lams, 0.5 * _LAMS + 0.1),
    "peers": (measure_peers, 1.2),
}


def machine(peers: Path | None) -> dict[str, Any]:
    """What the figures depend on: processor, cores, memory, load, and versions, the peers' included."""
    cpu = Path("/proc/cpuinfo").read_text("utf-8") if sys.platform == "linux" else ""
    model = [line.partition(":")[2].strip() for line in cpu.splitlines() if line.startswith("model name")]
    versions = {name: version(name) for name in ("pa-lite", "llama-cpp-python", "gguf", "numpy")}
    python = peers and peers / "mergekit" / "bin" / "python"
    if python and python.is_file():
        words: Words = [python, "-c", _VERSIONS % (("mergekit", "torch", "transformers", "safetensors"),)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        versions |= json.loads(done.stdout) if done.returncode == 0 else {}
    return {
        "cpu": model[0] if model else platform.processor(), "cores": os.cpu_count(), "load": os.getloadavg()[0],
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "system": platform.platform(),
        "python": platform.python_version(), "versions": versions,
    }  # fmt: skip


def show(rows: Sequence[Row]) -> None:
    """Print the rows as one table."""
    lines: list[tuple[str, ...]] = [("what", "median", "min", "max", "peak MB", "ratio", "target", "met?")]
    for row in rows:
        spread = [f(row.values) for f in (statistics.median, min, max)] if row.values else []
        lines.append((
            row.what, *(f"{v:.{0 if row.unit == 'MB' else 2}f} {row.unit}" for v in spread), *[""] * (3 - len(spread)),
            f"{row.peak / 1e6:.0f}" if row.peak else "", f"{row.ratio:.2f}x" if row.ratio is not None else "",
            row.target, row.note or {None: "", True: "yes", False: "NO"}[row.met],
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for what, *cells in lines:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        print("  ".join([what.ljust(widths[0]), *padded]).rstrip())


def bench_merge(options: argparse.Namespace) -> None:
    """The command `merge`: measure the sections asked for, print the table, write the JSON file."""
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
        asked = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
        document = {"options": asked, "machine": facts, "rows": list(map(asdict, rows))}
        write_text(options.json, json.dumps({**document, "runs": list(map(asdict, bench.runs))}, indent=1) + "\n")


def bench_generate(options: argparse.Namespace) -> None:
    """The command `generate`: batched generation against sequential chat and bare llama.cpp."""
    from bench_generate import measure_generation, smollm2

    options.work.mkdir(parents=True, exist_ok=True)
    path = options.model or smollm2(options.work)
    facts = machine(None)
    told = partial(print, file=sys.stderr, flush=True)
    figures = measure_generation(path, options.threads, options.parallel, options.max_tokens, options.repeat, told)
    rows = [Row(**figure) for figure in figures]
    show(rows)
    if options.json is not None:
        asked = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
        document = {"options": asked, "machine": facts, "rows": list(map(asdict, rows))}
        write_text(options.json, json.dumps(document, indent=1) + "\n")


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {"merge": bench_merge, "generate": bench_generate}


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description="Measure pa-lite against what it is meant to beat.")
    commands = parser.add_subparsers(dest="command", required=True)
    merge = commands.add_parser("merge", help="merging, against the disk, llama.cpp and mergekit")
    merge.add_argument("--size", choices=SIZES, default="1b", help="the pair's shapes (default: 1b)")
    merge.add_argument("--larger", choices=SIZES, help="a second size, for the section memory")
    merge.add_argument("--vocab", type=int, default=49152, help="tokens (default: 49152)")
    folder = Path(tempfile.gettempdir()) / "pa-lite-bench"
    merge.add_argument("--work", type=Path, default=folder, metavar="DIR", help=f"inputs, outputs (default: {folder})")
    merge.add_argument("--repeat", type=int, default=5, help="runs of each (default: 5)")
    merge.add_argument("--threads", type=int, default=2, help="of pa-lite and of llama.cpp (default: 2)")
    merge.add_argument("--peers", type=Path, metavar="DIR", help="holds mergekit (a virtual environment), llama.cpp")
    told = f"sections, of {', '.join(SECTIONS)}"
    merge.add_argument("--only", type=lambda s: s.split(","), default=[], metavar="SECTION,...", help=told)
    merge.add_argument("--json", type=Path, metavar="FILE", help="write all runs and the machine's facts there")
    generate = commands.add_parser("generate", help="batched generation, against sequential chat and bare llama.cpp")
    generate.add_argument("--model", type=Path, metavar="FILE", help="a chat model (default: SmolLM2-135M as F16)")
    generate.add_argument("--work", type=Path, default=folder, metavar="DIR", help=f"the model (default: {folder})")
    generate.add_argument("--repeat", type=int, default=3, help="rounds (default: 3)")
    generate.add_argument("--threads", type=int, default=2, help="of pa-lite and of llama.cpp (default: 2)")
    generate.add_argument("--parallel", type=int, default=32, help="prompts at a time (default: 32)")
    generate.add_argument("--max-tokens", type=int, default=128, help="new tokens of each (default: 128)")
    generate.add_argument("--json", type=Path, metavar="FILE", help="write all figures and the machine's facts there")
    return parser.parse_args(words)


def main(words: Sequence[str]) -> None:
    """Run a command; errors become one line."""
    options = parse(words)
    try:
        COMMANDS[options.command](options)
    except (PaLiteError, OSError) as e:
        sys.exit(f"error: {e}")
    except KeyboardInterrupt:
        sys.exit("interrupted")


if __name__ == "__main__":
    main(sys.argv[1:])
