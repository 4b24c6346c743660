"""The charts of a study as plotly figures (plain data), which the page's script draws."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

from pa_lite.study.comparisons import band
from pa_lite.study.curves import Average, Curves
from pa_lite.study.measures import Measure
from pa_lite.study.report.shapes import Panel, axis_title, charts, marks, plane
from pa_lite.study.summary import Reading

Figure = dict[str, Any]
_AXIS = {"zeroline": False, "automargin": True}
# number of axes below each other -> the part of the chart's height that each takes, from below
_DOMAINS = {2: ((0.62, 1.0), (0.0, 0.55)), 3: ((0.62, 1.0), (0.34, 0.55), (0.0, 0.27))}


def _axes(panel: int) -> dict[str, str]:
    """Return the axes of a trace in a panel; panels count from 1, 0 is a chart without panels."""
    suffix = str(panel) if panel > 1 else ""
    return {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}


def _error(stderr: float, measure: Measure) -> str:
    """Return a standard error in percent, or in the measure's unit, as text."""
    return measure.number(stderr) if math.isfinite(stderr) else "unknown"


def _ends(low: float, high: float, digits: int) -> str:
    """Return an interval as text."""
    return f"{low:.{digits}f} to {high:.{digits}f}" if math.isfinite(low) else "unknown"


def _line(lams: Sequence[float], shown: Average, name: str, panel: int = 0) -> list[Figure]:
    """Return the traces of an average and its interval, as a band."""
    (low, high), colour = band(shown), shown.measure.colour
    axes, measure = _axes(panel), shown.measure
    scale, digits, unit = (100, 1, "%") if measure.is_share else (1, 3, "")
    outline = [end if math.isfinite(end) else None for end in (*high, *reversed(low))]
    area = {
        "type": "scatter", "x": [*lams, *reversed(lams)], "y": outline,
        "fill": "toself", "opacity": 0.2, "fillcolor": colour, "line": {"width": 0},
        "hoverinfo": "skip", "showlegend": False, **axes,
    }  # fmt: skip
    line = {
        "type": "scatter", "mode": "lines+markers", "name": name, "x": list(lams),
        "y": [scale * e.value for e in shown.estimates],
        "line": {"color": colour}, "marker": {"color": colour, "size": 7 if not panel else 4},
        "customdata": [[_error(e.stderr, measure), _ends(a, b, digits), shown.n]
                       for e, a, b in zip(shown.estimates, low, high, strict=True)],
        "hovertemplate": f"lam %{{x}}: %{{y:.{digits}f}}{unit} (s.e. %{{customdata[0]}}, 95% %{{customdata[1]}}, "
                         "n %{customdata[2]})<extra>" + html.escape(name) + "</extra>",
        "showlegend": not panel, **axes,
    }  # fmt: skip
    return [area, line]


def curves_figure(curves: Curves, found: Sequence[Reading] = ()) -> Figure:
    """Return every measure against lam, with 95% bands, and the readings' best lams marked.

    What is not in percent has separate axes below, for each unit.
    """
    groups = charts(curves)
    data: list[Figure] = []
    for number, group in enumerate(groups, 1):
        for shown in group:
            traces = _line(curves.lams, shown, shown.measure.label)
            data += traces if number == 1 else [{**trace, "yaxis": f"y{number}"} for trace in traces]
    marked = marks(curves, found)
    lines = [
        {"type": "line", "x0": lam, "x1": lam, "yref": "paper", "y0": 0, "y1": 1,
         "line": {"color": "#888", "width": 1, "dash": "dot"}}
        for lam, _, _ in marked
    ]  # fmt: skip
    notes = [
        {"text": html.escape(text), "x": lam, "y": 1, "yref": "paper", "showarrow": False,
         "xanchor": "right" if on_right else "left", "yanchor": "bottom", "yshift": 15 * i, "font": {"size": 11}}
        for i, (lam, text, on_right) in enumerate(marked)
    ]  # fmt: skip
    layout: Figure = {
        "xaxis": {**_AXIS, "title": {"text": "lam (0 = base, 1 = instruct)"}},
        "yaxis": {**_AXIS, "title": {"text": groups[0][0].measure.axis}}, "shapes": lines, "annotations": notes,
        "legend": {"orientation": "h", "y": -0.2}, "height": 440, "hovermode": "closest",
        "margin": {"t": 24 + 15 * len(marked)},
    }  # fmt: skip
    if len(groups) > 1:
        layout["height"] = 440 + 160 * (len(groups) - 1)
        layout["legend"] = {"orientation": "h", "y": -0.15}
        layout["xaxis"] = {**layout["xaxis"], "anchor": f"y{len(groups)}"}
        for number, (group, domain) in enumerate(zip(groups, _DOMAINS[len(groups)], strict=True), 1):
            axis = {**_AXIS, "title": {"text": group[0].measure.axis}, "domain": domain}
            layout["yaxis" if number == 1 else f"yaxis{number}"] = axis
    return {"data": data, "layout": layout}


def plane_figure(curves: Curves, found: Sequence[Reading]) -> Figure:
    """Return few-shot accuracy against following, as a path along lam, with the Pareto-optimal points marked."""
    measure = curves.skill_measure
    points, word, colour = plane(curves, found), curves.compliance_measure.label, measure.colour
    value = "few-shot %{y:.1f}%" if measure.is_share else "%{y:.3f} " + measure.unit
    ranks = any(p.is_optimal for p in points)
    trace = {
        "type": "scatter", "mode": "lines+markers+text", "name": "lam", "showlegend": False,
        "x": [p.following for p in points], "y": [p.skill for p in points],
        "text": [p.names if p.is_named else "" for p in points],
        "textposition": ["bottom left" if p.on_right else "top right" for p in points],
        "hovertext": [p.names for p in points], "line": {"color": "#888", "width": 1},
        "marker": {"size": 11, "color": [colour if p.is_optimal else "rgba(0,0,0,0)" for p in points],
                   "line": {"color": colour, "width": 2}},
        "customdata": ["Pareto-optimal" if p.is_optimal else "not Pareto-optimal" if ranks else "" for p in points],
        "hovertemplate": f"lam %{{hovertext}}: {word} %{{x:.1f}}%, {value}<extra>%{{customdata}}</extra>",
    }  # fmt: skip
    layout: Figure = {
        "xaxis": {**_AXIS, "title": {"text": f"{word}, percent"}},
        "yaxis": {**_AXIS, "title": {"text": axis_title(measure)}}, "height": 420, "hovermode": "closest",
    }  # fmt: skip
    if not measure.is_share:
        layout["yaxis"]["autorange"] = "reversed"  # so that better is further up
    return {"data": [trace], "layout": layout}


def panels_figure(curves: Curves, panels: Sequence[Panel], columns: int) -> Figure:
    """Return small multiples, in the panels' order."""
    data: list[Figure] = []
    notes = []
    for i, panel in enumerate(panels, 1):
        axes = _axes(i)
        data += _line(curves.lams, panel.shown, panel.name, i)
        if panel.baseline is not None:
            data.append({
                "type": "scatter", "mode": "lines", "x": [min(curves.lams), max(curves.lams)],
                "y": [panel.baseline] * 2, "line": {"color": "#999", "dash": "dot", "width": 1}, "showlegend": False,
                "hovertemplate": "baseline %{y:.1f}%<extra></extra>", **axes,
            })  # fmt: skip
        notes.append({
            "text": html.escape(panel.title), "showarrow": False, "xref": f"{axes['xaxis']} domain",
            "yref": f"{axes['yaxis']} domain", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom",
            "font": {"size": 12},
        })  # fmt: skip
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    ticks = {
        f"{axis}axis{'' if i == 0 else i + 1}": {**_AXIS, "tickfont": {"size": 10}}
        for i in range(len(panels))
        for axis in "xy"
    }
    grid = {"rows": rows, "columns": columns, "pattern": "independent", "ygap": 0.35, "xgap": 0.15}
    return {"data": data, "layout": {"grid": grid, "annotations": notes, "height": 60 + 190 * rows, **ticks}}
