"""Parse lams as users write them: `0.7`, `0.2,0.5`, `0:1:0.1`."""

from __future__ import annotations

import math
import re
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
        hint = _meant(text) or " Write e.g. 0.7, 0.2,0.5 or 0:1:0.1."
        raise InputError(f"lam {text.strip()!r} is not a number.{hint}") from None
    if value.is_nan():
        raise InputError(f"lam {text.strip()!r} is not a number. Write e.g. 0.7, 0.2,0.5 or 0:1:0.1.")
    if not value.is_finite() or abs(value) > 10:
        whole = text.strip().removesuffix(".0")
        raise InputError(f"lam {whole} is outside [-10, 10]; 0 is the base model, 1 the instruct model.{_meant(whole)}")
    return value


def _meant(text: str) -> str:
    """Return a question with the lam in [0, 1] that a mistyped one may stand for, or "": 0,7, 70, 7, 70% and 0.7%."""
    found = re.fullmatch(r"(\d{1,3})(?:([.,])(\d{1,6}))?\s*(%?)", text.strip(), re.ASCII)
    if found is None or (found[2] == "." and not found[4]):
        return ""
    value = Decimal(f"{found[1]}.{found[3] or 0}")
    if value > 1:
        value /= 10 if value < 10 and not (found[3] or found[4]) else 100
    return f" Did you mean {value.normalize():f}?" if value <= 1 else ""


def _check_within(lams: Iterable[Decimal], text: str) -> None:
    """Raise InputError, with the lam that was probably meant, for a lam outside [0, 1]."""
    for lam in lams:
        if not 0 <= lam <= 1:
            hint = _meant(text) or _meant(str(lam))
            raise InputError(
                f"lam {lam.normalize():f} is outside [0, 1], where 0 is the base model and 1 the instruct model.{hint} "
                "Use --extrapolate to go beyond the pair."
            )


def parse_lams(text: str, extrapolate: bool = True) -> tuple[float, ...]:
    """Return the lams of `L[,L...]` or `LO:HI:STEP` (both ends included), in the order written.

    Raises InputError for a value that is not a number in [-10, 10], or without `extrapolate` in [0, 1]; for an endless
    range, too many lams, or a duplicate. A decimal comma or a percentage is named as such.
    """
    lams: list[Decimal] = []
    for part in text.split(","):
        ends = part.split(":")
        if len(ends) == 1:
            lams.append(_number(part if "%" not in text else text))
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
    if not extrapolate:
        _check_within(lams, text)
    seen: set[Decimal] = set()
    for lam in lams:
        if lam in seen:
            raise InputError(f"duplicate lam {lam} in {text!r}.")
        seen.add(lam)
    return tuple(float(lam) for lam in lams)


def read_lam(value: float | str, extrapolate: bool = True) -> float:
    """Return one lam from a number or a string. Raises InputError as `read_lams` does, and for several lams."""
    found = read_lams(value, extrapolate)
    if len(found) != 1:
        raise InputError(f"{value!r} has {len(found)} lams, but one is expected: write e.g. 0.7.")
    return found[0]


def read_lams(value: float | str | Iterable[float | str], extrapolate: bool = True) -> tuple[float, ...]:
    """Return the lams of a number, of several numbers, or of a string for `parse_lams`, in the order given.

    Raises InputError for a value that is not a finite number, and as `parse_lams` does.
    """
    if isinstance(value, str):
        return parse_lams(value, extrapolate)
    if isinstance(value, Iterable):
        return tuple(read_lam(lam, extrapolate) for lam in value)
    try:
        if isinstance(value, bool):
            raise TypeError
        text = repr(float(value))
    except (TypeError, ValueError):
        raise InputError(f"lam {value!r} is not a number. Write e.g. 0.7, [0.2, 0.5] or '0:1:0.1'.") from None
    number = _number(text)
    if not extrapolate:
        _check_within([number], text)
    return (float(number),)


def format_lam(lam: float) -> str:
    """Return a lam for file names and tables: with two decimals, or exactly where two do not suffice."""
    short = f"{lam:.2f}"
    return short if math.isclose(float(short), lam, abs_tol=1e-12) else repr(lam)
