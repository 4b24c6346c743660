"""What the page shows of a study: the curves with their intervals, and the recommended lams."""

from __future__ import annotations

from typing import Any

from pa_lite.sanitize import plain, without_nonfinite
from pa_lite.study.curves import Curves, averages
from pa_lite.study.summary import conclusion, labels, readings

_MOST = 2  # curves: few-shot accuracy, and following or preference


def study_view(curves: Curves) -> dict[str, Any]:
    """Return the curves as the page draws them, shares in [0, 1]; curves with unknown values are left out.

    An unknown bound of an interval is the value itself.
    """
    shown = []
    for average in averages(curves):
        values = [e.value for e in average.estimates]
        if any(v != v for v in values):
            continue
        bounds = list(zip(values, average.bounds, strict=True))
        shown.append(
            {
                "name": average.measure.label,
                "values": values,
                "low": [value if low != low else low for value, (low, _) in bounds],
                "high": [value if high != high else high for value, (_, high) in bounds],
            }
        )
    marks = [{"lam": lam, "label": plain(", ".join(names))} for lam, names in labels(readings(curves)).items()]
    found: dict[str, Any] = without_nonfinite({
        "lams": list(curves.lams), "curves": shown[:_MOST], "marks": marks, "conclusion": plain(conclusion(curves)),
    })  # fmt: skip
    return found
