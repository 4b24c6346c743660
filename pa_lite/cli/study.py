"""Commands about the trade-off along lam."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

import pa_lite
from pa_lite.cli.options import JSON
from pa_lite.cli.terminal import bar, show_json, show_table

if TYPE_CHECKING:
    from pa_lite.study.tradeoff import TradeOff


@click.command()
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("pa-lite-demo"), show_default=True,
    help="Folder for results.json and chart.svg.",
)  # fmt: skip
@JSON
def demo(output: Path, as_json: bool) -> None:
    """Merge, score and question the embedded pair at lam 0, 0.1, ..., 1, offline, and show the trade-off."""
    with bar("demo") as progress:
        result = pa_lite.demo(output, progress)
    if as_json:
        show_json(json.loads(result.results.read_text("utf-8")))
        return
    show_tradeoff(result.tradeoff)
    click.echo(result.tradeoff.conclusion())
    click.echo(f"Results: {result.results}   Chart: {result.chart}")


def show_tradeoff(result: TradeOff) -> None:
    rows = []
    for p in result.points:
        mean = p.few_shot.accuracy
        rows.append([
            f"{p.lam:.1f}", f"{100 * mean.value:.1f}", f"{100 * mean.stderr:.1f}", f"{100 * p.follow.accuracy:.1f}",
            f"{100 * p.follow.stderr:.1f}", "best few-shot" if p is result.best else "",
        ])  # fmt: skip
    columns = ["lam", "few-shot %", "s.e.", "followed %", "s.e.", ""]
    show_table(columns, rows, marked=result.points.index(result.best))
