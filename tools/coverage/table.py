"""Rows of the table: what is simulated, what must hold, and what many runs found."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Rng = np.random.Generator
Once = Callable[[Rng], Mapping[str, float]]

# quantity -> unit shown, and the factor from what a run returns
UNITS = {"covers": "%", "errs": "%", "bias": "points", "regret": "points", "share": "%"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    `once` simulates one study from a generator and returns a number for each method: 1 or 0 where an interval covers or
    a test errs, else a difference, all as shares; NaN counts in no average. The average times 100 must lie within
    `low` and `high`. `runs` is how many runs the row is worth at `--runs 1`.
    """

    name: str
    quantity: str
    low: float
    high: float
    runs: int
    once: Once


@dataclass(frozen=True, kw_only=True)
class Found:
    """The average of a row's runs for one method, its standard error over runs, and whether it lies within the bounds.

    It counts as within if it is so by two standard errors.
    """

    row: str
    method: str
    quantity: str
    value: float
    stderr: float
    low: float
    high: float
    runs: int
    holds: bool
    seconds: float


def covers(interval: tuple[float, float], truth: float) -> float:
    """Return 1 where the truth lies within, 0 where not; an interval that is not known covers nothing."""
    return float(interval[0] - 1e-9 <= truth <= interval[1] + 1e-9)


def coverage_row(name: str, once: Once, runs: int = 400, low: float = 93.0, high: float = 98.0) -> Row:
    """Return the row of an interval of 95 percent."""
    return Row(name=name, quantity="covers", low=low, high=high, runs=runs, once=once)


def error_row(name: str, once: Once, runs: int = 400, high: float = 6.0) -> Row:
    """Return the row of a test at the level of 5 percent where nothing differs."""
    return Row(name=name, quantity="errs", low=0.0, high=high, runs=runs, once=once)


def bias_row(name: str, once: Once, runs: int = 400, most: float = 0.3) -> Row:
    """Return the row of a number that should be right on average, to 0.3 points."""
    return Row(name=name, quantity="bias", low=-most, high=most, runs=runs, once=once)


def measure(row: Row, seed: int, scale: float) -> Iterator[Found]:
    """Run a row and yield what each of its methods found. The same seed gives the same numbers, whatever else runs."""
    start, runs = time.perf_counter(), max(2, round(row.runs * scale))
    values: dict[str, list[float]] = {}
    for run in range(runs):
        found = row.once(np.random.default_rng([seed, zlib.crc32(row.name.encode()), run]))
        for method, value in found.items():
            values.setdefault(method, []).append(100 * value)
    seconds = time.perf_counter() - start
    for method, each in values.items():
        known = np.array(each)[~np.isnan(each)]
        value, n = (float(known.mean()), len(known)) if len(known) else (math.nan, 0)
        error = float(known.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
        holds = row.low - 2 * error <= value <= row.high + 2 * error
        yield Found(
            row=row.name, method=method, quantity=row.quantity, value=value, stderr=error, low=row.low, high=row.high,
            runs=n, holds=holds, seconds=seconds,
        )  # fmt: skip


def line(found: Found) -> str:
    """Return a line of the printed table."""
    bounds = f"{found.low:g} to {found.high:g}"
    mark = "holds" if found.holds else "FAILS"
    return (
        f"{found.row:<62} {found.method:<10} {found.quantity:<6} {found.value:7.2f} +- {found.stderr:4.2f} "
        f"{UNITS[found.quantity]:<6} {bounds:>10}  {mark}"
    )


def document(found: Sequence[Found], seed: int) -> dict[str, Any]:
    """Return all of it as a JSON document."""
    return {"seed": seed, "rows": [asdict(each) for each in found]}
