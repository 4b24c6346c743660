"""What commands show: progress bars on stderr, tables on stdout. Parses nothing, computes nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pa_lite.checkpoints.inspect import Inspection
    from pa_lite.merge.diff import Diff
    from pa_lite.merge.preview import Preview
    from pa_lite.merge.stream import Progress
    from pa_lite.study.tradeoff import TradeOff
    from pa_lite.tasks.scoring import SuiteResult


@contextmanager
def bar(unit: str) -> Iterator[Progress]:
    """A progress bar on stderr, none where stderr is no terminal."""
    from tqdm import tqdm

    with tqdm(disable=None, file=sys.stderr, desc=unit, unit_scale=True, leave=False) as drawn:

        def progress(done: int, total: int) -> None:
            drawn.total = total
            drawn.update(done - drawn.n)

        yield progress


def show_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=1, ensure_ascii=False))


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]], marked: int | None = None) -> None:
    """A plain table on stdout: numbers to the right, the first and nameless columns to the left; row `marked` bold."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i == 0 or not name else "right")
    for i, row in enumerate(rows):
        table.add_row(*map(Text, row), style="bold" if i == marked else None)
    # a pipe has no width: wide enough for what is shown
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)


def show_preview(preview: Preview, as_json: bool) -> None:
    if as_json:
        show_json(asdict(preview))
        return
    if preview.tensors:
        rows = [[g.group, g.type, str(g.tensors), f"{g.bytes / 1e6:.1f}", g.lams] for g in preview.groups]
        show_table(["group", "type", "tensors", "MB", "lam"], rows)
        for o in preview.outputs:
            click.echo(f"lam {o.lam:g} -> {o.path}")
        click.echo(
            f"{preview.parameters / 1e6:.1f} million parameters; {preview.disk_needed / 1e6:.0f} MB of disk needed, "
            f"{preview.disk_free / 1e6:.0f} MB free; about {preview.memory / 1e6:.0f} MB of memory, "
            f"{preview.threads} threads"
        )
    for line in preview.remarks:
        click.echo(f"note: {line}")
    for line in preview.problems:
        click.echo(f"problem: {line}")


def show_inspection(found: Inspection, tensors: bool) -> None:
    rows = [("name", found.name), ("architecture", found.architecture), ("files", ", ".join(found.files))]
    rows.append(("parameters", f"{found.parameters / 1e6:.1f} million in {found.bytes / 1e6:.1f} MB"))
    rows.append(("types", ", ".join(f"{kind} {size / 1e6:.1f} MB" for kind, size in found.types.items())))
    rows += [(key, str(value)) for key, value in found.settings.items()]
    if found.vocabulary is not None:
        v = found.vocabulary
        rows.append(("vocabulary", f"{v.model} / {v.pre}, {v.tokens} tokens, {v.used} used"))
        rows.append(("special tokens", ", ".join(f"{role} {text}" for role, text in v.special.items())))
        rows.append(("chat template", f"{len(v.chat_template)} characters" if v.chat_template else "none"))
    else:
        rows.append(("vocabulary", found.problem or "none"))
    show_table(["", ""], rows)
    if tensors:
        names = ["tensor", "type", "shape", "bytes"]
        show_table(names, [[t.name, t.type, " x ".join(map(str, t.shape)), str(t.bytes)] for t in found.tensors])


def show_diff(found: Diff) -> None:
    distances = {"all": found.total, **found.groups, **{f"layer {i}": d for i, d in found.layers.items()}}
    largest = max(d.relative_norm for d in distances.values())
    rows = [
        [
            name,
            f"{d.relative_norm:.5f}",
            f"{d.cosine:.6f}",
            "█" * round(30 * d.relative_norm / largest) if largest else "",
        ]
        for name, d in distances.items()
    ]
    show_table(["", "relative norm", "cosine", ""], rows, marked=0)
    for line in found.remarks:
        click.echo(f"note: {line}")


def show_scores(result: SuiteResult) -> None:
    rows = [
        [t.task, str(t.n), f"{100 * t.accuracy:.1f}", f"{100 * t.stderr:.1f}", f"{100 * t.majority:.1f}"]
        for t in result.tasks
    ]
    mean = result.accuracy
    n = sum(t.n for t in result.tasks)
    rows.append(["mean", str(n), f"{100 * mean.value:.1f}", f"{100 * mean.stderr:.1f}", f"{100 * result.majority:.1f}"])
    show_table(["task", "n", "accuracy %", "s.e.", "majority %"], rows, marked=len(rows) - 1)


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
