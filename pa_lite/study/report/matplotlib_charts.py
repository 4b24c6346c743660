"""A study's figures drawn with matplotlib: SVG for a page or a file, PNG for a paper."""

from __future__ import annotations

import importlib.util
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from pa_lite.errors import InputError
from pa_lite.sanitize import one_line
from pa_lite.study.comparisons import band
from pa_lite.study.curves import MOST_PANELS, Average, Curves
from pa_lite.study.ranking import refusal
from pa_lite.study.report.shapes import Panel, axis_title, charts, marks, panel, plane
from pa_lite.study.summary import Reading, StudySummary, readings
from pa_lite.system.atomic import write_bytes, write_text
from pa_lite.system.markers import temporary_folder
from pa_lite.system.opening import check_own

INK, PAPER = "#1c1e21", "#ffffff"  # foreground and background, which a page replaces by its own colours
_PANEL_COLUMNS = 4
_PAGE_WIDTH = 6.4  # inches
_MOST_PIXELS = 60_000  # per side of a figure: matplotlib's limit is 65,536
_RC = {
    "svg.hashsalt": "pa-lite", "svg.fonttype": "none", "font.family": "sans-serif", "text.color": INK,
    "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
}  # fmt: skip
Panels = tuple[Sequence[Panel], int]  # panels and the number of columns


@contextmanager
def _figure(width: float, height: float) -> Iterator[Any]:
    """Yield an empty figure. The same numbers give the same file: a fixed salt, and no date when saving."""
    with _without_settings():
        import matplotlib  # imported late, as it takes half a second
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

    defaults = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some defaults are deprecated
        matplotlib.rcParams.update({**defaults, **_RC})
        figure = Figure(figsize=(width, height), layout="constrained", facecolor=PAPER)
        FigureCanvasSVG(figure)
        yield figure


@contextmanager
def _without_settings() -> Iterator[None]:
    """Let matplotlib be imported without reading a `matplotlibrc`, which it looks for first in the current folder.

    Such a file can come with another person's run folder, start programs (`text.usetex`), or be an endless pipe. Where
    there is one, the current folder is changed while matplotlib is imported.
    """
    if "matplotlib" in sys.modules:
        yield
        return
    spec = importlib.util.find_spec("matplotlib")
    package = os.path.dirname(spec.origin) if spec is not None and spec.origin else os.sep
    here = os.getcwd() if os.path.lexists("matplotlibrc") else None
    settings = {"MATPLOTLIBRC": os.path.join(package, "mpl-data", "matplotlibrc")}
    with ExitStack() as stack:
        if not _is_plain_cache():
            settings["MPLCONFIGDIR"] = str(stack.enter_context(temporary_folder()))
        known = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        try:
            if here is not None:
                os.chdir(package)
            yield
        finally:
            if here is not None:
                os.chdir(here)
            for name, value in known.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def _is_plain_cache() -> bool:
    """Return whether matplotlib can safely use its cache folder with the list of fonts.

    It follows links there, blocks on pipes, and fails on a link to itself. The folder may itself be a link, as it
    belongs to the user.
    """
    given = os.environ.get("MPLCONFIGDIR")
    homes = (os.environ.get("XDG_CACHE_HOME") or "~/.cache", os.environ.get("XDG_CONFIG_HOME") or "~/.config")
    folders = [given] if given else [*(os.path.join(home, "matplotlib") for home in homes), "~/.matplotlib"]
    try:
        for folder in folders:
            path = Path(os.path.expanduser(folder)).resolve()
            if path.is_dir():
                for file in path.glob("*fontlist-*"):
                    check_own(file)
            elif os.path.lexists(os.path.expanduser(folder)):
                return os.path.islink(os.path.expanduser(folder))  # matplotlib creates the target of a link
    except (OSError, RuntimeError):
        return False
    return True


def _svg(width: float, height: float, draw: Callable[[Any], None]) -> str:
    out = io.StringIO()
    with _figure(width, height) as figure:
        draw(figure)
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def _line(axes: Any, lams: Sequence[float], shown: Average, on_page: bool) -> None:
    """Draw an average with error bars of one standard error; on a page with 95% bands, as in the live figures."""
    scale = 100 if shown.measure.is_share else 1
    values = [scale * e.value for e in shown.estimates]
    look = {
        "marker": shown.measure.marker,
        "color": shown.measure.colour,
        "label": shown.measure.label,
        "markersize": 4,
    }
    if on_page:
        axes.fill_between(lams, *band(shown), color=shown.measure.colour, alpha=0.2, linewidth=0)
        axes.plot(lams, values, **look)
    else:
        axes.errorbar(lams, values, [scale * e.stderr for e in shown.estimates], capsize=3, **look)


def _mark(axes: Any, curves: Curves, found: Sequence[Reading]) -> int:
    """Mark the lams that the readings call best, or say that there is none; return the number of lines of text."""
    marked = marks(curves, found)
    for row, (lam, text, on_right) in enumerate(marked):
        axes.axvline(lam, color="#888", linestyle=":", linewidth=1)
        axes.annotate(
            text, (lam, 1), xycoords=("data", "axes fraction"), xytext=(0, 3 + 11 * row), textcoords="offset points",
            ha="right" if on_right else "left", fontsize=9,
        )  # fmt: skip
    if found and not marked:
        text = "no measurable difference between the lams"
        text += f" in {curves.skill_measure.label}" if refusal(curves) else ""
        axes.annotate(text, (0, 1), xycoords="axes fraction", xytext=(0, 3), textcoords="offset points", fontsize=9)
        return 1
    return len(marked)


def _draw_curves(figure: Any, curves: Curves, found: Sequence[Reading], title: str = "", on_page: bool = False) -> None:
    """Draw every curve against lam, with its uncertainty and the readings' best lams marked.

    What is not in percent has separate axes below, for each unit.
    """
    groups, rows = charts(curves), 0
    grid = figure.subplots(len(groups), squeeze=False, sharex=True, height_ratios=[3, 2, 2][: len(groups)]).ravel()
    for axes, each in zip(grid, groups, strict=True):
        for shown in each:
            _line(axes, curves.lams, shown, on_page)
        if axes is grid[0]:
            rows = _mark(axes, curves, found)
        else:
            for lam, _, _ in marks(curves, found):
                axes.axvline(lam, color="#888", linestyle=":", linewidth=1)
        axes.set(ylabel=each[0].measure.axis, **({"ylim": (0, 100)} if each[0].measure.is_share else {}))
        axes.grid(alpha=0.3)
    grid[-1].set(xlabel="lam (0 = base, 1 = instruct)")
    if title:
        grid[0].set_title(one_line(title), parse_math=False, pad=8 + 11 * rows)  # a name may contain dollar signs
    is_wide = curves.length_controlled or curves.answers is not None
    figure.legend(loc="outside lower center", ncols=2 if is_wide else 3, frameon=False)


def _height(curves: Curves, alone: float) -> float:
    """Return the height in inches of the curves' figure, which has the given height without further axes."""
    return alone + 1.8 * (len(charts(curves)) - 1)


def curves_svg(curves: Curves, title: str) -> str:
    """Return the content of an SVG file with the curves."""
    draw = partial(_draw_curves, curves=curves, found=readings(curves), title=title)
    return _svg(7.0, _height(curves, 4.2), draw)


def page_svgs(curves: Curves, found: Sequence[Reading], panels: Mapping[str, Panels]) -> dict[str, str]:
    """Return the page's charts as SVG: `curves`, `plane` where both sides were measured, and those of `panels`."""
    draw_curves = partial(_draw_curves, curves=curves, found=found, on_page=True)
    out = {"curves": _svg(_PAGE_WIDTH, _height(curves, 4.0), draw_curves)}
    if plane(curves, found):
        out["plane"] = _svg(_PAGE_WIDTH, 4.4, lambda figure: _draw_plane(figure, curves, found))
    for name, (each, columns) in panels.items():
        draw = partial(_draw_panels, curves=curves, panels=each, columns=columns, on_page=True)
        out[name] = _svg(_PAGE_WIDTH, 0.4 + 1.7 * -(-len(each) // columns), draw)
    return out


def _draw_plane(figure: Any, curves: Curves, found: Sequence[Reading] = ()) -> None:
    measure = curves.skill_measure
    axes, points, colour = figure.add_subplot(), plane(curves, found), measure.colour
    following, skill = [p.following for p in points], [p.skill for p in points]
    axes.plot(following, skill, color="#888", linewidth=1, zorder=1)
    axes.scatter(following, skill, facecolors=PAPER, edgecolors=colour, zorder=2)
    front = [(p.following, p.skill) for p in points if p.is_optimal]
    if front:
        axes.scatter(*zip(*front, strict=True), color=colour, zorder=3, label="Pareto-optimal")
        axes.legend(frameon=False)
    for p in points:
        if p.is_named:
            axes.annotate(
                p.names, (p.following, p.skill), xytext=(-4, -4) if p.on_right else (4, 4),
                textcoords="offset points", fontsize=8, ha="right" if p.on_right else "left",
                va="top" if p.on_right else "bottom",
            )  # fmt: skip
    axes.set(xlabel=f"{curves.compliance_measure.label}, percent", ylabel=axis_title(measure))
    if not measure.is_share:
        axes.invert_yaxis()  # so that better is further up
    axes.grid(alpha=0.3)


def _draw_panels(figure: Any, curves: Curves, panels: Sequence[Panel], columns: int, on_page: bool = False) -> None:
    """Draw one titled panel for each group of tasks, with the best blind guess dotted."""
    columns = min(columns, len(panels))
    grid = figure.subplots(-(-len(panels) // columns), columns, squeeze=False, sharex=True).ravel()
    for axes, each in zip(grid, panels, strict=False):
        _line(axes, curves.lams, each.shown, on_page)
        if each.baseline is not None:
            axes.axhline(each.baseline, color="#999", linestyle=":", linewidth=1)
        axes.set_title(one_line(each.title), fontsize=9, parse_math=False)
        axes.grid(alpha=0.3)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    figure.supxlabel("lam")
    figure.supylabel("percent")


def write_figure(study: StudySummary, path: Path) -> None:
    """Write the curves as a PNG or SVG file, by the path's suffix.

    Raises InputError for another suffix, OutputError when the file cannot be written.
    """
    ending = path.suffix.lower()
    if ending == ".svg":
        write_text(path, curves_svg(study.curves, study.title))
    elif ending == ".png":
        _write_png(path, *_figures(study)["curves"])
    else:
        raise InputError(f"{path}: a figure must be a .png or .svg file.")


def _write_png(
    path: Path, width: float, height: float, draw: Callable[[Any], None], dots_per_inch: float = 300
) -> None:
    raw = io.BytesIO()
    with _figure(width, height) as figure:
        draw(figure)
        dpi = min(dots_per_inch, _MOST_PIXELS / max(width, height))  # a figure of hundreds of tasks is very high
        figure.savefig(raw, format="png", dpi=dpi, metadata={"Software": None})
    write_bytes(path, raw.getvalue())


def _figures(study: StudySummary) -> dict[str, tuple[float, float, Callable[[Any], None]]]:
    """Return the figures for a paper that the study has data for: name -> (width, height, draw)."""
    curves, n_tasks = study.curves, len(study.curves.tasks)
    out: dict[str, tuple[float, float, Callable[[Any], None]]] = {
        "curves": (
            7.0, _height(curves, 4.2), lambda figure: _draw_curves(figure, curves, readings(curves), study.title)
        )
    }  # fmt: skip
    if plane(curves, ()):
        out["plane"] = 5.0, 4.0, lambda figure: _draw_plane(figure, curves)
    if 1 < n_tasks <= MOST_PANELS:
        tasks = [panel(task.name, [task]) for task in curves.tasks]
        height = 2.4 * -(-n_tasks // _PANEL_COLUMNS) + 0.4
        out["tasks"] = 10.0, height, lambda figure: _draw_panels(figure, curves, tasks, _PANEL_COLUMNS)
    return out


def figure_names(study: StudySummary) -> list[str]:
    """Return the names of the figures that write_png writes, without suffix."""
    return list(_figures(study))


def write_png(study: StudySummary, folder: Path, dots_per_inch: int = 300) -> list[Path]:
    """Write the figures for a paper: curves, plane, and a panel for each task, where there is data for them.

    Raises OutputError when they cannot be written.
    """
    for name, figure in _figures(study).items():
        _write_png(folder / f"{name}.png", *figure, dots_per_inch)
    return [folder / f"{name}.png" for name in figure_names(study)]
