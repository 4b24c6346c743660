"""A study as one HTML page that needs nothing but itself, or as pictures. All text of models and tasks is escaped."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pa_lite.errors import EngineError
from pa_lite.study.curves import Curves, estimates
from pa_lite.study.export import difference_rows, to_csv
from pa_lite.study.figures import Figure, curves_figure, panels_figure, plane_figure
from pa_lite.study.paired import Difference
from pa_lite.study.study import Reading, Study, against_ends, conclusion, readings, table
from pa_lite.texts import plain

_TEMPLATE = Path(__file__).with_name("report.html")


def _plotly() -> str:
    """plotly's JavaScript, 5 MB, to be put into the page."""
    from plotly.offline import get_plotlyjs

    text: str = get_plotlyjs()
    if "</script" in text:
        raise EngineError("this version of plotly cannot be put into a page. Install another: pip install -U plotly")
    return text


def _figures(curves: Curves, found: list[Reading]) -> dict[str, Figure]:
    out = {"curves": curves_figure(curves)}
    if curves.compliance is not None:
        out["plane"] = plane_figure(curves, found)
    if len(curves.areas) > 1:
        out["areas"] = panels_figure(curves, [(area, curves.of_area(area)) for area in curves.areas], 2)
    if len(curves.tasks) > 1:
        out["panels"] = panels_figure(curves, [(t.name, (t,)) for t in curves.tasks], 3)
    return out


def _difference(found: Mapping[float, Difference], lam: float) -> tuple[str, str]:
    if lam not in found:
        return "", ""
    d = found[lam]
    return f"{100 * d.value:+.1f} ({100 * d.relative:+.1f}%)", f"{d.p_corrected:.4f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}" if math.isfinite(share) else "not known"


def _rows(
    curves: Curves, few_shot: Mapping[str, list[Difference]], best: float
) -> tuple[list[str], list[dict[str, Any]]]:
    """The table of averages by lam: column names and rows of ready texts."""
    others = (("followed %", curves.follow), ("preferred %", curves.wins))
    shown = [("few-shot %", list(curves.tasks)), *((name, [s]) for name, s in others if s is not None)]
    columns = [estimates(series) for _, series in shown]
    against = {end: {d.lam: d for d in found} for end, found in few_shot.items()}
    rows = []
    for i, lam in enumerate(curves.lams):
        cells = [_percent(x) for c in columns for x in (c[i].value, c[i].stderr)]
        for end in ("instruct", "base"):
            cells += _difference(against.get(end, {}), lam)
        rows.append({"lam": f"{lam:g}", "cells": cells, "best": lam == best})
    return [name for name, _ in shown], rows


def readable(value: Any) -> Any:
    """The value with every text in it made plain: what models and tasks wrote can turn or hide nothing of the page."""
    if isinstance(value, str):
        return value if isinstance(value, Markup) else plain(value.replace("\r\n", "\n"))
    if isinstance(value, Mapping):
        return {key: readable(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [readable(inner) for inner in value]
    return value


def to_html(study: Study) -> str:
    """The page: sentences, charts with hover values, numbers, examples, setting, and the data as CSV."""
    curves, found = study.curves, readings(study.curves)
    against = against_ends(curves)
    columns, rows = _rows(curves, against["few-shot"], found[0].best.lam)
    figures = _figures(curves, found)
    downloads = {"averages.csv": to_csv(table(curves)), "differences.csv": to_csv(difference_rows(against))}
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, finalize=readable)
    return environment.from_string(_TEMPLATE.read_text("utf-8")).render(
        study=study,
        tasks=curves.tasks,
        conclusion=conclusion(curves),
        readings=found,
        plane="plane" in figures,
        areas="areas" in figures,
        panels="panels" in figures,
        columns=columns,
        rows=rows,
        downloads={name: base64.b64encode(text.encode()).decode() for name, text in downloads.items()},
        figures=readable(figures),
        plotly=_plotly(),
    )
