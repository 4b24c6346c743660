"""Cases and checks: what is simulated, what must hold, and what many runs found."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Rng = np.random.Generator
Numbers = Mapping[str, float]  # method -> what it gave in one run
Once = Callable[[Rng], Mapping[str, Numbers]]

UNITS = {"covers": "%", "errs": "%", "bias": "points", "regret": "points", "share": "%"}


@dataclass(frozen=True, kw_only=True)
class Check:
    """What is looked at in a case: its average over runs, times 100, must lie within `low` and `high`."""

    name: str
    quantity: str
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Case:
    """One situation.

    `once` simulates a study from a generator and returns for the name of each check what each method gave: 1 or 0 where
    an interval covers or a test errs, else a difference or a share. NaN counts in no average. `runs` are those of
    `--runs 1`.
    """

    name: str
    checks: tuple[Check, ...]
    runs: int
    once: Once


@dataclass(frozen=True, kw_only=True)
class Found:
    """A check's average over the runs of a case for one method, its standard error, and whether the check holds.

    It holds where the average lies within the bounds, widened by two standard errors of what is simulated.
    """

    case: str
    check: str
    method: str
    quantity: str
    value: float
    stderr: float
    low: float
    high: float
    runs: int
    holds: bool


def covers(interval: tuple[float, float], truth: float) -> float:
    """Return 1 where the truth lies within, 0 where not, NaN for an interval that is not known."""
    if math.isnan(interval[0]):
        return math.nan
    return float(interval[0] - 1e-9 <= truth <= interval[1] + 1e-9)


def coverage(name: str, high: float = 98.0) -> Check:
    """Return the check of an interval of 95 percent."""
    return Check(name=name, quantity="covers", low=93.0, high=high)


def error(name: str, high: float = 6.0) -> Check:
    """Return the check of a test at the level of 5 percent where nothing differs."""
    return Check(name=name, quantity="errs", low=0.0, high=high)


def bias(name: str, most: float = 0.3) -> Check:
    """Return the check of a number that should be right on average, to `most` points."""
    return Check(name=name, quantity="bias", low=-most, high=most)


def measure(case: Case, seed: int, scale: float) -> Iterator[Found]:
    """Run a case and yield what it found. The same seed gives the same numbers, whatever else runs."""
    values: dict[tuple[str, str], list[float]] = {}
    for run in range(max(2, round(case.runs * scale))):
        found = case.once(np.random.default_rng([seed, zlib.crc32(case.name.encode()), run]))
        for name, methods in found.items():
            for method, value in methods.items():
                values.setdefault((name, method), []).append(100 * value)
    for check in case.checks:
        for (name, method), each in values.items():
            if name == check.name:
                yield _found(case, check, method, np.array(each))


def _found(case: Case, check: Check, method: str, values: np.ndarray[Any, np.dtype[np.float64]]) -> Found:
    known = values[~np.isnan(values)]
    n = len(known)
    value = float(known.mean()) if n else math.nan
    error_of_value = float(known.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    low, high = (
        bound - _room(check, bound, n, error_of_value) * side for bound, side in ((check.low, 1), (check.high, -1))
    )
    holds = n > 0 and low <= value <= high
    return Found(
        case=case.name, check=check.name, method=method, quantity=check.quantity, value=value, stderr=error_of_value,
        low=check.low, high=check.high, runs=n, holds=holds,
    )  # fmt: skip


def _room(check: Check, bound: float, n: int, error_of_value: float) -> float:
    """Return two standard errors of an average at a bound; of a rate, those that a true rate at the bound gives."""
    if check.quantity in ("covers", "errs") and n:
        return 2 * math.sqrt(max(0.0, bound * (100 - bound)) / n)
    return 2 * error_of_value if math.isfinite(error_of_value) else math.inf


def line(found: Found) -> str:
    """Return a line of the printed table."""
    bounds, mark = f"{found.low:g} to {found.high:g}", "holds" if found.holds else "FAILS"
    mark = mark.lower() if found.method == "naive" else mark  # only shown for comparison
    return (
        f"{found.check + ': ' + found.case:<78} {found.method:<10} {found.quantity:<6} {found.value:7.2f} +- "
        f"{found.stderr:4.2f} {UNITS[found.quantity]:<6} {bounds:>11}  {mark}"
    )


def document(found: Sequence[Found], seed: int) -> dict[str, Any]:
    """Return all of it as a JSON document."""
    return {"seed": seed, "rows": [asdict(each) for each in found]}
