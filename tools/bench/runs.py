"""Parts that the benchmarks share: processes and their costs, ratios within rounds, the table and the JSON file."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pa_lite.errors import PaLiteError
from pa_lite.system.atomic import write_text

_VERSIONS = "import json; from importlib.metadata import version as v; print(json.dumps({n: v(n) for n in %r}))"
Words = list[str | Path]


class BenchError(PaLiteError):
    """A measured program failed."""


@dataclass(frozen=True)
class Run:
    """One process: seconds from start to end, peak memory, bytes left on the disk, and what it printed."""

    what: str
    seconds: float
    peak: int
    written: int
    printed: dict[str, Any] = field(default_factory=dict)


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


def execute(words: Words, variables: Mapping[str, str] | None = None) -> tuple[float, int, dict[str, Any]]:
    """Run a command with more environment variables; return (seconds, peak bytes, the JSON object printed or {})."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", **(variables or {})}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        process = subprocess.Popen(words, stdout=out, stderr=err, env=environment)
        try:
            # resources of this child only; the peak is at least this process's memory, therefore it imports little
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
    printed = json.loads(text) if text.startswith("{") else {}
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), printed


def last_line(text: str) -> str:
    """Return the last line that is not empty."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no output")


def median_ratio(above: Iterable[float], below: Iterable[float]) -> float:
    """Return the median of the ratios of runs in the same round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def seconds_of(runs: Sequence[Run], part: str | None = None) -> list[float]:
    """Return the runs' times, or the part of them that they printed under that name."""
    return [run.seconds if part is None else run.printed[part] for run in runs]


def row_of(what: str, runs: Sequence[Run], ratio: float | None = None, most: float | None = None) -> Row:
    """Return the table's line of some runs; with `most`, the target is a ratio of at most that."""
    row = Row(what, seconds_of(runs), max(run.peak for run in runs), ratio)
    return row if ratio is None or most is None else replace(row, target=f"<= {most:g}x", met=ratio <= most)


def machine(peers: Path | None) -> dict[str, Any]:
    """Return what the figures depend on: processor, cores, memory, load, and versions, including the peers'."""
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


def write_json(
    path: Path, options: Mapping[str, Any], facts: dict[str, Any], rows: Sequence[Row], runs: Sequence[Run]
) -> None:
    """Write all measurements, with the options and the machine's facts."""
    asked = {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
    document = {"options": asked, "machine": facts, "rows": list(map(asdict, rows)), "runs": list(map(asdict, runs))}
    write_text(path, json.dumps(document, indent=1) + "\n")
