"""Whether a judge's preferences may rank lams: only where it is known to beat chance and answer length."""

from __future__ import annotations

from pa_lite.alpaca.calibration import NOT_COMPARED
from pa_lite.study.curves import Curves, Series
from pa_lite.study.measures import PREFERRED


def judge_statement(curves: Curves) -> str:
    """Say why lams are not ranked by the judge's preferences; return "" where they may be, or there are none."""
    check = curves.judge_check
    if curves.wins is None or curves.is_judge_trusted:
        return ""
    if check is None:
        return f"{NOT_COMPARED}: lams are not ranked by it (--calibration FILE)"
    return f"{check.result}, so lams are not ranked by it"


def refusal(curves: Curves) -> str:
    """Say why lams are not ranked by what measures following; "" where it is not an untrusted judge."""
    return judge_statement(curves) if curves.compliance_measure is PREFERRED else ""


def ranked(curves: Curves) -> Series | None:
    """Return the series of following by which lams may be ranked, or None."""
    return None if refusal(curves) else curves.compliance
