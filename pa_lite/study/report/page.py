"""A study as one self-contained HTML page. All text from models and tasks is escaped."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pa_lite.errors import EngineError
from pa_lite.sanitize import plain
from pa_lite.study.comparisons import Difference
from pa_lite.study.curves import MOST_PANELS, Curves, averages, means
from pa_lite.study.export import difference_rows, reading_rows, to_csv
from pa_lite.study.measures import FEW_SHOT, Measure
from pa_lite.study.ranking import refusal
from pa_lite.study.report.matplotlib_charts import Panels
from pa_lite.study.report.plotly_charts import Figure, curves_figure, panels_figure, plane_figure
from pa_lite.study.report.shapes import by_gain, plane
from pa_lite.study.report.static_charts import static_charts
from pa_lite.study.summary import (
    Reading,
    StudySummary,
    against_ends,
    conclusion,
    intervals_in_words,
    labels,
    readings,
    table,
)
from pa_lite.system.opening import open_regular

_TEMPLATE = Path(__file__).with_name("page.html")
_SCRIPT = Path(__file__).with_name("page.js")


def _plotly() -> str:
    """Return plotly's JavaScript for the page, 5 MB. Raises EngineError when it cannot be embedded."""
    from plotly.offline import get_plotlyjs

    text: str = get_plotlyjs()
    if "</script" in text or "<!--" in text:
        raise EngineError(
            "this version of plotly cannot be embedded in a page. Install a tested one: pip install -U pa-lite"
        )
    return _as_parsed(text)


def _as_parsed(script: str) -> str:
    """Return a script as a browser parses it from a page, so that its hash equals the browser's."""
    return script.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")


def _hashes(*scripts: str) -> str:
    """Return the hashes of the page's scripts as sources for its security policy; no other script runs."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def _panels(curves: Curves) -> dict[str, Panels]:
    """Return the charts with several panels: by area and by task, where there are several but not too many."""
    out: dict[str, Panels] = {}
    if 1 < len(curves.areas) <= MOST_PANELS:
        out["areas"] = by_gain(curves, {area: curves.of_area(area) for area in curves.areas}), 2
    if 1 < len(curves.tasks) <= MOST_PANELS:
        out["panels"] = by_gain(curves, {t.name: (t,) for t in curves.tasks}), 3
    return out


def _figures(curves: Curves, found: Sequence[Reading], panels: Mapping[str, Panels]) -> dict[str, Figure]:
    out = {"curves": curves_figure(curves, found)}
    if plane(curves, found):
        out["plane"] = plane_figure(curves, found)
    return out | {name: panels_figure(curves, *each) for name, each in panels.items()}


def _difference(found: Mapping[float, Difference], lam: float, measure: Measure) -> tuple[str, str]:
    if lam not in found:
        return "", ""
    d = found[lam]
    value = f"{100 * d.value:+.1f}" if measure.is_share else f"{d.value:+.3f}"
    return f"{value} ({100 * d.relative:+.1f}%)", f"{d.p_corrected:.4f}"


def _number(value: float, measure: Measure = FEW_SHOT) -> str:
    return measure.number(value) if math.isfinite(value) else "unknown"


def _rows(
    curves: Curves, skill: Mapping[str, list[Difference]], found: Sequence[Reading]
) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the table of averages by lam: column names, and rows of formatted cells with the readings' labels."""
    shown = averages(curves)
    against = {end: {d.lam: d for d in found} for end, found in skill.items()}
    marks, lead = labels(found), found[0].best if found else None
    rows = []
    for i, lam in enumerate(curves.lams):
        cells = [_number(x, c.measure) for c in shown for x in (c.estimates[i].value, c.estimates[i].stderr)]
        for end in ("instruct", "base"):
            cells += _difference(against.get(end, {}), lam, curves.skill_measure)
        is_lead = lead is not None and lam == lead.lam
        rows.append({"lam": f"{lam:g}", "cells": cells, "marks": ", ".join(marks.get(lam, [])), "lead": is_lead})
    return [each.measure.column for each in shown], rows


def _group_rows(curves: Curves) -> list[dict[str, Any]]:
    """Return the table of areas and tasks by lam, formatted."""
    groups = list(curves.groups())[1:]
    return [{"name": name, "cells": [_number(x) for x in means(series)]} for name, series in groups]


def readable(value: Any) -> Any:
    """Return the value with every string made `plain`, so that text of models and tasks cannot reorder or hide text."""
    if isinstance(value, str):
        return value if isinstance(value, Markup) else plain(value.replace("\r\n", "\n"))
    if isinstance(value, Mapping):
        return {key: readable(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [readable(inner) for inner in value]
    return value


def is_page(path: Path) -> bool:
    """Return whether a file starts like every page of a study."""
    start = _TEMPLATE.read_bytes().partition(b"{{")[0]
    try:
        with open_regular(path) as file:
            return file.read(len(start)) == start
    except OSError:
        return False


def to_html(study: StudySummary) -> str:
    """Return the page: sentences, charts with hover values, numbers, examples, setting, and the data as CSV.

    Each chart is included twice: as a static SVG, for printing and where scripts do not run, and as data that plotly
    draws instead. The page's security policy allows only its own scripts and no connection.
    """
    curves, found = study.curves, readings(study.curves)
    against = against_ends(curves)
    columns, rows = _rows(curves, against.get(curves.skill_measure.group, {}), found)
    panels = _panels(curves)
    plotly, script = _plotly(), _as_parsed(_SCRIPT.read_text("utf-8"))
    downloads = {
        "averages.csv": to_csv(table(curves)),
        "differences.csv": to_csv(difference_rows(against)),
        "readings.csv": to_csv(reading_rows(found)),
    }
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, finalize=readable)
    return environment.from_string(_TEMPLATE.read_text("utf-8")).render(
        study=study,
        tasks=curves.tasks,
        areas=curves.areas,
        most_panels=MOST_PANELS,
        conclusion=conclusion(curves),
        intervals=dict(study.setting).get("intervals") or intervals_in_words(curves),
        readings=found,
        is_ranked=not refusal(curves),
        skill=curves.skill_measure,
        static=static_charts(curves, found, panels),
        columns=columns,
        rows=rows,
        marked=any(row["marks"] for row in rows),
        groups=_group_rows(curves),
        downloads={
            name: base64.b64encode(text.encode("utf-8", "backslashreplace")).decode()
            for name, text in downloads.items()
        },
        figures=readable(_figures(curves, found, panels)),
        plotly=plotly,
        script=script,
        script_hashes=_hashes(plotly, script),
    )
