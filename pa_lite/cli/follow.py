"""Commands about instruction following."""

from __future__ import annotations

from pathlib import Path

import click

import pa_lite
from pa_lite.cli.options import FORCE, GPU, KIND, OUTPUT, THREADS
from pa_lite.cli.terminal import bar


@click.command()
@click.argument("model")
@click.option("--prompts", required=True, help="'demo', or a JSON or JSONL file of objects with 'instruction'.")
@click.option("--max-tokens", type=click.IntRange(1), default=256, show_default=True, help="New tokens at most.")
@click.option("--parallel", type=click.IntRange(1, 256), default=16, show_default=True, help="Prompts at a time.")
@KIND
@GPU
@THREADS
@OUTPUT
@FORCE
def generate(
    model: str,
    prompts: str,
    max_tokens: int,
    parallel: int,
    kind: str,
    gpu_layers: int | str,
    threads: int,
    output: Path | None,
    force: bool,
) -> None:
    """Greedy answers of MODEL (FILE.gguf or PAIR@LAM) through its chat template, as AlpacaEval's model_outputs.

    \b
    pa-lite generate demo@0.7 --prompts demo -o outputs.json
    """
    from pa_lite.engine.model import EngineOptions
    from pa_lite.files import check_target, write_text
    from pa_lite.follow.outputs import to_json

    if output is not None:
        check_target(output, force)
    with bar("generate") as progress, pa_lite.load(model, EngineOptions(threads, gpu_layers), kind) as loaded:
        outputs = loaded.generate(prompts, max_tokens, parallel, progress)
    if output is not None:
        write_text(output, to_json(outputs))
        click.echo(str(output))
    else:
        click.echo(to_json(outputs), nl=False)
