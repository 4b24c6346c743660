"""Commands about few-shot tasks."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

import pa_lite
from pa_lite.cli.options import FORCE, GPU, JSON, KIND, N_CTX, OUTPUT, THREADS
from pa_lite.cli.terminal import bar, show_json, show_table

if TYPE_CHECKING:
    from pa_lite.tasks.scoring import SuiteResult


@click.command()
@click.argument("model")
@click.option("--tasks", required=True, help="Tasks, suites or .toml files, with commas between.")
@click.option("--shots", type=click.IntRange(0), help="Exemplars in each prompt; by default the task's own number.")
@click.option("--limit", type=click.IntRange(1), help="Items scored of each task; by default all.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Draws the exemplars.")
@KIND
@GPU
@THREADS
@N_CTX
@OUTPUT
@FORCE
@JSON
def score(
    model: str,
    tasks: str,
    shots: int | None,
    limit: int | None,
    seed: int,
    kind: str,
    gpu_layers: int | str,
    threads: int,
    n_ctx: int,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Few-shot accuracy of MODEL (FILE.gguf or PAIR@LAM), every choice's loglikelihood compared.

    \b
    pa-lite score demo@0.7 --tasks demo
    """
    from pa_lite.engine.model import EngineOptions
    from pa_lite.files import check_target, write_text
    from pa_lite.tasks.scoring import ScoreOptions

    if output is not None:
        check_target(output, force)
    options = ScoreOptions(shots, limit, seed)
    with bar("score") as progress, pa_lite.load(model, EngineOptions(threads, gpu_layers, n_ctx=n_ctx), kind) as loaded:
        result = loaded.score(tasks.split(","), options, progress)
    document = {"reference": model, **asdict(result), "accuracy": asdict(result.accuracy)}
    if output is not None:
        write_text(output, json.dumps(document, indent=1) + "\n")
    if as_json:
        show_json(document)
    else:
        show_scores(result)


def show_scores(result: SuiteResult) -> None:
    rows = [
        [t.task, str(t.n), f"{100 * t.accuracy:.1f}", f"{100 * t.stderr:.1f}", f"{100 * t.majority:.1f}"]
        for t in result.tasks
    ]
    mean = result.accuracy
    n = sum(t.n for t in result.tasks)
    rows.append(["mean", str(n), f"{100 * mean.value:.1f}", f"{100 * mean.stderr:.1f}", f"{100 * result.majority:.1f}"])
    show_table(["task", "n", "accuracy %", "s.e.", "majority %"], rows, marked=len(rows) - 1)


@click.command()
@JSON
def tasks(as_json: bool) -> None:
    """List the suites and their few-shot tasks."""
    from pa_lite.tasks.spec import suites

    specs = [(suite, spec) for suite, specs in suites().items() for spec in specs]
    if as_json:
        show_json([{"suite": suite, "task": s.name, "area": s.area, "shots": s.shots} for suite, s in specs])
    else:
        rows = [[s.name, suite, s.area, str(s.shots), s.description] for suite, s in specs]
        show_table(["task", "suite", "area", "shots", "what it asks"], rows)
