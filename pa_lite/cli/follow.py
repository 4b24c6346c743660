"""Commands about instruction following."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

import pa_lite
from pa_lite.cli.options import FORCE, GPU, JSON, KIND, N_CTX, OUTPUT, THREADS
from pa_lite.cli.terminal import show_json, token_bar
from pa_lite.errors import InputError

if TYPE_CHECKING:
    from pa_lite.engine.model import Model


@click.command()
@click.argument("model")
@click.option("--prompts", required=True, help="'alpaca-eval', 'demo', or a JSON or JSONL file with 'instruction's.")
@click.option("--max-tokens", type=click.IntRange(1), default=256, show_default=True, help="New tokens at most.")
@click.option("--parallel", type=click.IntRange(1, 256), default=16, show_default=True, help="Prompts at a time.")
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0 takes the likeliest token.")
@click.option("--top-k", type=int, default=0, show_default=True, help="Draw from so many tokens; 0 for all.")
@click.option("--top-p", type=float, default=1.0, show_default=True, help="Draw from so much of the probability.")
@click.option("--min-p", type=float, default=0.0, show_default=True, help="Draw from this share of the top's p on.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of what is drawn: same seed, same answers.")
@click.option("--stop", multiple=True, help="A text that ends an answer, not part of it. May be given often.")
@click.option("--system", default="", help="System prompt.")
@click.option("--resume", is_flag=True, help="Go on where a killed run stopped; needs -o.")
@KIND
@GPU
@N_CTX
@THREADS
@OUTPUT
@FORCE
@JSON
def generate(
    model: str,
    prompts: str,
    max_tokens: int,
    parallel: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    seed: int,
    stop: tuple[str, ...],
    system: str,
    resume: bool,
    kind: str,
    gpu_layers: int | str,
    n_ctx: int,
    threads: int,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Answers of MODEL (FILE.gguf or PAIR@LAM) through its chat template, as AlpacaEval's model_outputs.

    With -o, answers are kept as they come: after a kill or Ctrl-C the same command with --resume goes on.

    \b
    pa-lite generate demo@0.7 --prompts demo -o outputs.json
    """
    from pa_lite.engine.generation import GenerationOptions
    from pa_lite.engine.model import EngineOptions
    from pa_lite.files import check_target
    from pa_lite.follow.outputs import Target, answer_prompts, load_prompts, to_json, to_outputs, write_outputs

    options = GenerationOptions(max_tokens, temperature, top_p, min_p, top_k, seed, stop, parallel)
    target = Target(output, resume, force) if output is not None else None
    if target is not None:
        check_target(target.path, force)
    elif resume:
        raise InputError("--resume continues a file: name it with -o.")
    loaded = load_prompts(prompts)
    with pa_lite.load(model, EngineOptions(threads, gpu_layers, n_ctx=n_ctx), kind) as opened:
        note_plain_prompts(opened.model)
        with token_bar("generate") as (progress, on_tokens):
            if target is not None:
                written = write_outputs(opened.model, loaded, model, target, options, system, progress, on_tokens)
            else:
                answers = answer_prompts(opened.model, loaded, options, system, None, progress, on_tokens)
    if target is None:
        click.echo(to_json(to_outputs(loaded, answers, model)), nl=False)
    elif as_json:
        show_json(asdict(written))
    else:
        if written.n_resumed:
            click.echo(f"{written.n_resumed} of {written.n} answers were there from an earlier run.", err=True)
        click.echo(written.path)


def note_plain_prompts(model: Model) -> None:
    from pa_lite.engine.chat import has_template

    if not has_template(model):
        click.echo(f"note: {model.name} has no chat template: prompts read 'Instruction: ... Response:'.", err=True)
