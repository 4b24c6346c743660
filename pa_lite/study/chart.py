"""Draws a study's figures with matplotlib: SVG for a page, PNG for a paper."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pa_lite.files import write_bytes
from pa_lite.study.curves import Curves, Series, estimates, means, undominated
from pa_lite.study.study import Study
from pa_lite.texts import one_line

SKILL, FOLLOWING, PREFERRED = "#1f5fa8", "#c4601d", "#6f42a8"
_PANEL_COLUMNS = 4


@contextmanager
def _figure(width: float, height: float) -> Iterator[Any]:
    """An empty figure; the same numbers give the same file: a fixed salt, and no date when it is saved."""
    from matplotlib import rc_context  # half a second: not at import
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "pa-lite", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
        FigureCanvasSVG(figure)
        yield figure


def _line(axes: Any, lams: Sequence[float], series: Sequence[Series], colour: str, marker: str, label: str) -> None:
    found = estimates(series)
    axes.errorbar(
        lams, [100 * e.value for e in found], [100 * e.stderr for e in found],
        marker=marker, capsize=3, color=colour, label=label, markersize=4,
    )  # fmt: skip


def _draw_curves(figure: Any, curves: Curves, title: str) -> None:
    """Every curve against lam, with bars of one standard error and the best few-shot lam marked."""
    axes = figure.add_subplot()
    _line(axes, curves.lams, curves.tasks, SKILL, "o", "few-shot accuracy")
    if curves.follow is not None:
        _line(axes, curves.lams, [curves.follow], FOLLOWING, "s", "instructions followed")
    if curves.wins is not None:
        _line(axes, curves.lams, [curves.wins], PREFERRED, "^", "preferred over the reference")
    best = curves.lams[int(means(curves.tasks).argmax())]
    axes.axvline(best, color=SKILL, linestyle=":", linewidth=1)
    axes.annotate(f"best few-shot: lam {best:g}", (best, 94), xytext=(4, 0), textcoords="offset points", color=SKILL)
    axes.set(xlabel="lam (0 = base, 1 = instruct)", ylabel="percent", ylim=(0, 100))
    axes.set_title(one_line(title), parse_math=False)  # a name is no formula, whatever dollars it has
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)


def curves_svg(curves: Curves, title: str) -> str:
    """The curves as an SVG file's text."""
    out = io.StringIO()
    with _figure(7.0, 4.0) as figure:
        _draw_curves(figure, curves, title)
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def _draw_plane(figure: Any, curves: Curves) -> None:
    assert curves.compliance is not None
    skill, following = 100 * means(curves.tasks), 100 * means([curves.compliance])
    axes, front = figure.add_subplot(), undominated(skill, following)
    axes.plot(following, skill, color="#888", linewidth=1, zorder=1)
    axes.scatter(following, skill, facecolors="white", edgecolors=SKILL, zorder=2)
    axes.scatter(following[front], skill[front], color=SKILL, zorder=3, label="undominated")
    for lam, x, y in zip(curves.lams, following, skill, strict=True):
        axes.annotate(f"{lam:g}", (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8)
    word = "instructions followed" if curves.compliance is curves.follow else "preferred over the reference"
    axes.set(xlabel=f"{word}, percent", ylabel="few-shot accuracy, percent")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def _draw_panels(figure: Any, curves: Curves) -> None:
    columns = min(_PANEL_COLUMNS, len(curves.tasks))
    rows = -(-len(curves.tasks) // columns)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for axes, task in zip(panels, curves.tasks, strict=False):
        _line(axes, curves.lams, [task], SKILL, "o", "few-shot accuracy")
        if task.baseline is not None:
            axes.axhline(100 * task.baseline, color="#999", linestyle=":", linewidth=1)
        axes.set_title(one_line(task.name), fontsize=9, parse_math=False)
        axes.grid(alpha=0.3)
    for axes in panels[len(curves.tasks) :]:
        axes.set_visible(False)
    figure.supxlabel("lam")
    figure.supylabel("percent")


def figure_names(study: Study) -> list[str]:
    """Names of the figures that write_png writes, without their ending."""
    has = {"curves": True, "plane": study.curves.compliance is not None, "tasks": len(study.curves.tasks) > 1}
    return [name for name, is_there in has.items() if is_there]


def write_png(study: Study, folder: Path, dots_per_inch: int = 300) -> list[Path]:
    """The figures for a paper: curves, plane, and a panel for each task, as far as there is something to show.

    Raises OutputError when they cannot be written.
    """
    curves = study.curves
    rows = -(-len(curves.tasks) // _PANEL_COLUMNS)
    wanted: list[tuple[str, float, float, Callable[[Any], None]]] = [
        ("curves", 7.0, 4.0, lambda f: _draw_curves(f, curves, study.title)),
        ("plane", 5.0, 4.0, lambda f: _draw_plane(f, curves)),
        ("tasks", 10.0, 2.4 * rows + 0.4, lambda f: _draw_panels(f, curves)),
    ]
    shown, out = figure_names(study), []
    for name, width, height, draw in wanted:
        if name not in shown:
            continue
        raw = io.BytesIO()
        with _figure(width, height) as figure:
            draw(figure)
            figure.savefig(raw, format="png", dpi=dots_per_inch, metadata={"Software": None})
        out.append(folder / f"{name}.png")
        write_bytes(out[-1], raw.getvalue())
    return out
