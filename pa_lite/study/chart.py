"""Draws the trade-off with matplotlib."""

from __future__ import annotations

import io

from pa_lite.study.tradeoff import TradeOff


def tradeoff_svg(result: TradeOff, title: str) -> str:
    """Both curves against lam, with bars of one standard error and the best few-shot lam marked: an SVG file's text."""
    from matplotlib import rc_context  # half a second: not at import
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    lams = [p.lam for p in result.points]
    few_shot = [p.few_shot.accuracy for p in result.points]
    # a fixed salt and no date: the same numbers give the same file
    with rc_context({"svg.hashsalt": "pa-lite", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(7.0, 4.0), layout="constrained", facecolor="white")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.errorbar(
            lams, [100 * e.value for e in few_shot], [100 * e.stderr for e in few_shot],
            marker="o", capsize=3, color="#1f5fa8", label="few-shot accuracy",
        )  # fmt: skip
        axes.errorbar(
            lams, [100 * p.follow.accuracy for p in result.points], [100 * p.follow.stderr for p in result.points],
            marker="s", capsize=3, color="#c4601d", label="instructions followed",
        )  # fmt: skip
        best = result.best
        axes.axvline(best.lam, color="#1f5fa8", linestyle=":", linewidth=1)
        axes.annotate(
            f"best few-shot: lam {best.lam:g}",
            (best.lam, 94),
            xytext=(4, 0),
            textcoords="offset points",
            color="#1f5fa8",
        )
        axes.set(xlabel="lam (0 = base, 1 = instruct)", ylabel="percent", ylim=(0, 100), title=title)
        axes.grid(alpha=0.3)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
