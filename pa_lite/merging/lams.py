"""Parse lams as users write them: `0.7`, `0.2,0.5`, `0:1:0.1`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation

from pa_lite.errors import InputError

_MAX_LAMS = 1001


def _number(text: str) -> Decimal:
    try:
        if "_" in text or not text.isascii():  # Decimal accepts 1_0 and non-ASCII digits
            raise InvalidOperation
        value = Decimal(text.strip())
    except InvalidOperation:
        raise InputError(f"lam {text.strip()!r} is not a number. Write e.g. 0.7, 0.2,0.5 or 0:1:0.1.") from None
    if not value.is_finite() or abs(value) > 10:
        raise InputError(f"lam {text.strip()} is outside [-10, 10]; 0 is the base, 1 the instruct model.")
    return value


def parse_lams(text: str) -> tuple[float, ...]:
    """Return the lams of `L[,L...]` or `LO:HI:STEP` (both ends included), in the order written.

    Raises InputError for a value that is not a number in [-10, 10], an endless range, too many lams, or a duplicate.
    """
    lams: list[Decimal] = []
    for part in text.split(","):
        ends = part.split(":")
        if len(ends) == 1:
            lams.append(_number(part))
            continue
        if len(ends) != 3:
            raise InputError(f"lam range {part.strip()!r} is not LO:HI:STEP, e.g. 0:1:0.1.")
        low, high, step = map(_number, ends)
        if step <= 0 or high < low or (high - low) / step >= _MAX_LAMS:
            raise InputError(
                f"lam range {part.strip()!r} needs LO <= HI, a positive STEP and at most {_MAX_LAMS} lams."
            )
        lams += [low + i * step for i in range(int((high - low) / step) + 1)]
    if len(lams) > _MAX_LAMS:
        raise InputError(f"{len(lams)} lams are too many: one run takes at most {_MAX_LAMS}.")
    seen: set[Decimal] = set()
    for lam in lams:
        if lam in seen:
            raise InputError(f"duplicate lam {lam} in {text!r}.")
        seen.add(lam)
    return tuple(float(lam) for lam in lams)


def read_lam(value: float | str) -> float:
    """Return one lam from a number or a string. Raises InputError for several lams or a value that is not a number."""
    found = read_lams(value)
    if len(found) != 1:
        raise InputError(f"{value!r} has {len(found)} lams, but one is expected: write e.g. 0.7.")
    return found[0]


def read_lams(value: float | str | Iterable[float | str]) -> tuple[float, ...]:
    """Return the lams of a number, of several numbers, or of a string for `parse_lams`, in the order given.

    Raises InputError for a value that is not a finite number, and as `parse_lams` does.
    """
    if isinstance(value, str):
        return parse_lams(value)
    if isinstance(value, Iterable):
        return tuple(read_lam(lam) for lam in value)
    try:
        if isinstance(value, bool):
            raise TypeError
        return (float(_number(repr(float(value)))),)
    except (TypeError, ValueError):
        raise InputError(f"lam {value!r} is not a number. Write e.g. 0.7, [0.2, 0.5] or '0:1:0.1'.") from None


def format_lam(lam: float) -> str:
    """Return a lam for file names and tables: with two decimals, or exactly where two do not suffice."""
    short = f"{lam:.2f}"
    return short if math.isclose(float(short), lam, abs_tol=1e-12) else repr(lam)
