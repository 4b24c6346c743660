"""The charts of a study as plotly figures (plain data) for the page. Draws nothing itself."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

from pa_lite.study.comparisons import band
from pa_lite.study.curves import Average, Curves, Series, average, averages, by_gain, means, pareto_optimal
from pa_lite.study.measures import FEW_SHOT
from pa_lite.study.summary import Reading, labels

Figure = dict[str, Any]
_LABEL = 0.1, 0.08  # of the chart's width and height: what a label takes
_AXIS = {"zeroline": False, "automargin": True}


def _axes(panel: int) -> dict[str, str]:
    """Which axes a trace belongs to; panels count from 1, 0 is a chart of its own."""
    suffix = str(panel) if panel > 1 else ""
    return {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}


def _told(stderr: float) -> str:
    """A standard error in percent."""
    return f"{100 * stderr:.1f}" if math.isfinite(stderr) else "not known"


def _line(lams: Sequence[float], shown: Average, name: str, panel: int = 0) -> list[Figure]:
    """An average with its interval as a band."""
    (low, high), colour = band(shown), shown.measure.colour
    axes = _axes(panel)
    area = {
        "type": "scatter", "x": [*lams, *reversed(lams)], "y": [*high, *reversed(low)],
        "fill": "toself", "opacity": 0.2, "fillcolor": colour, "line": {"width": 0},
        "hoverinfo": "skip", "showlegend": False, **axes,
    }  # fmt: skip
    line = {
        "type": "scatter", "mode": "lines+markers", "name": name, "x": list(lams),
        "y": [100 * e.value for e in shown.estimates],
        "line": {"color": colour}, "marker": {"color": colour, "size": 7 if not panel else 4},
        "customdata": [[_told(e.stderr), a, b, shown.n] for e, a, b in zip(shown.estimates, low, high, strict=True)],
        "hovertemplate": "lam %{x}: %{y:.1f}% (s.e. %{customdata[0]}, 95% %{customdata[1]:.1f} to "
                         "%{customdata[2]:.1f}, n %{customdata[3]})<extra>" + html.escape(name) + "</extra>",
        "showlegend": not panel, **axes,
    }  # fmt: skip
    return [area, line]


def curves_figure(curves: Curves, found: Sequence[Reading] = ()) -> Figure:
    """Return every measure against lam, with 95% bands, and the readings' best lams marked."""
    data = [trace for shown in averages(curves) for trace in _line(curves.lams, shown, shown.measure.label)]
    middle = (max(curves.lams) + min(curves.lams)) / 2
    marked = labels(found)
    lines = [
        {"type": "line", "x0": lam, "x1": lam, "yref": "paper", "y0": 0, "y1": 1,
         "line": {"color": "#888", "width": 1, "dash": "dot"}}
        for lam in marked
    ]  # fmt: skip
    notes = [
        {"text": html.escape(f"{', '.join(names)}: lam {lam:g}"), "x": lam, "y": 1, "yref": "paper", "showarrow": False,
         "xanchor": "right" if lam > middle else "left", "yanchor": "bottom", "yshift": 15 * i, "font": {"size": 11}}
        for i, (lam, names) in enumerate(marked.items())
    ]  # fmt: skip
    layout = {
        "xaxis": {**_AXIS, "title": {"text": "lam (0 = base, 1 = instruct)"}},
        "yaxis": {**_AXIS, "title": {"text": "percent"}}, "shapes": lines, "annotations": notes,
        "legend": {"orientation": "h", "y": -0.2}, "height": 440, "hovermode": "closest",
        "margin": {"t": 24 + 15 * len(marked)},
    }  # fmt: skip
    return {"data": data, "layout": layout}


def labels_apart(points: Sequence[tuple[float, float]], must: Sequence[bool]) -> list[bool]:
    """Return which points of a path get a label: all that must, and others as far as none lies on another label."""
    wide, high = (max(v) - min(v) or 1 for v in zip(*points, strict=True))
    shown = list(must)
    labelled = [point for point, is_shown in zip(points, must, strict=True) if is_shown]
    for i in sorted(range(len(points)), key=lambda i: (0 < i < len(points) - 1, i)):  # the ends first
        x, y = points[i]
        near = any(abs(x - a) < _LABEL[0] * wide and abs(y - b) < _LABEL[1] * high for a, b in labelled)
        if not shown[i] and not near:  # those that lie apart are few, however many points there are
            shown[i] = True
            labelled.append(points[i])
    return shown


def plane_figure(curves: Curves, found: Sequence[Reading]) -> Figure:
    """The trade-off: few-shot skill against following, lam along the path, the Pareto-optimal points marked."""
    assert curves.compliance is not None
    skill, following = 100 * means(curves.tasks), 100 * means([curves.compliance])
    order = sorted(range(len(curves.lams)), key=lambda i: curves.lams[i])
    front = set(pareto_optimal(skill, following))
    named = labels(found)
    word = curves.compliance_measure.label
    names = [", ".join([f"{curves.lams[i]:g}", *named.get(curves.lams[i], [])]) for i in order]
    apart = labels_apart(
        [(float(following[i]), float(skill[i])) for i in order], [curves.lams[i] in named for i in order]
    )
    # a name stands on its point's inner side, where the chart has room
    middle = (following.max() + following.min()) / 2
    trace = {
        "type": "scatter", "mode": "lines+markers+text", "name": "lam", "showlegend": False,
        "x": [following[i] for i in order], "y": [skill[i] for i in order],
        "text": [name if shown else "" for name, shown in zip(names, apart, strict=True)],
        "textposition": ["bottom left" if following[i] > middle else "top right" for i in order], "hovertext": names,
        "line": {"color": "#888", "width": 1},
        "marker": {"size": 11, "color": [FEW_SHOT.colour if i in front else "rgba(0,0,0,0)" for i in order],
                   "line": {"color": FEW_SHOT.colour, "width": 2}},
        "customdata": ["Pareto-optimal" if i in front else "not Pareto-optimal" for i in order],
        "hovertemplate": f"lam %{{hovertext}}: {word} %{{x:.1f}}%, " "few-shot %{y:.1f}%<extra>%{customdata}</extra>",
    }  # fmt: skip
    layout = {
        "xaxis": {**_AXIS, "title": {"text": f"{word}, percent"}},
        "yaxis": {**_AXIS, "title": {"text": f"{FEW_SHOT.label}, percent"}}, "height": 420, "hovermode": "closest",
    }  # fmt: skip
    return {"data": [trace], "layout": layout}


def panels_figure(curves: Curves, groups: Sequence[tuple[str, Sequence[Series]]], columns: int) -> Figure:
    """Return small multiples, one panel a group, those that gain most on the way back from instruct first."""
    ordered = by_gain(curves, groups)
    data: list[Figure] = []
    notes = []
    for i, (name, series, gain) in enumerate(ordered, 1):
        axes = _axes(i)
        data += _line(curves.lams, average(FEW_SHOT, series), name, i)
        baselines = [s.baseline for s in series if s.baseline is not None]
        if len(baselines) == len(series):
            level = 100 * sum(baselines) / len(baselines)
            data.append({
                "type": "scatter", "mode": "lines", "x": [min(curves.lams), max(curves.lams)], "y": [level, level],
                "line": {"color": "#999", "dash": "dot", "width": 1}, "showlegend": False,
                "hovertemplate": "baseline %{y:.1f}%<extra></extra>", **axes,
            })  # fmt: skip
        notes.append({
            "text": f"{html.escape(name)} (+{100 * gain:.1f})", "showarrow": False,
            "xref": f"{axes['xaxis']} domain", "yref": f"{axes['yaxis']} domain", "x": 0, "y": 1.02,
            "xanchor": "left", "yanchor": "bottom",
            "font": {"size": 12},
        })  # fmt: skip
    columns = min(columns, len(ordered))
    rows = -(-len(ordered) // columns)
    ticks = {
        f"{axis}axis{'' if i == 0 else i + 1}": {**_AXIS, "tickfont": {"size": 10}}
        for i in range(len(ordered))
        for axis in "xy"
    }
    grid = {"rows": rows, "columns": columns, "pattern": "independent", "ygap": 0.35, "xgap": 0.15}
    return {"data": data, "layout": {"grid": grid, "annotations": notes, "height": 60 + 190 * rows, **ticks}}
