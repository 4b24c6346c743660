"""Commands about instruction following."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

import pa_lite
from pa_lite.cli.options import FORCE, GPU, JSON, KIND, OUTPUT, THREADS
from pa_lite.cli.terminal import bar, show_json, show_table

if TYPE_CHECKING:
    from pa_lite.follow.instructions import FollowResult


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
    gpu_layers: int,
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


@click.command()
@click.argument("model")
@click.option("--set", "name", default="public", show_default=True, help="public, demo, ifeval, ifeval:FILE or FILE.")
@click.option("--limit", type=click.IntRange(1), help="Instructions at most, taken evenly; by default all.")
@click.option("--seed", type=click.IntRange(0), help="Make 500 new public instructions from this seed.")
@click.option("--max-tokens", type=click.IntRange(1), help="New tokens at most; by default what the set needs.")
@click.option("--parallel", type=click.IntRange(1, 256), default=16, show_default=True, help="Prompts at a time.")
@KIND
@GPU
@THREADS
@OUTPUT
@FORCE
@JSON
def follow(
    model: str,
    name: str,
    limit: int | None,
    seed: int | None,
    max_tokens: int | None,
    parallel: int,
    kind: str,
    gpu_layers: int,
    threads: int,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """How well MODEL (FILE.gguf or PAIR@LAM) follows instructions that rules can check, no judge needed.

    The set ifeval is fetched from the Hub, ifeval:FILE is Google's file; FILE is a JSONL file of your own, of objects
    with `instruction` and `checks`.

    \b
    pa-lite follow demo@0.7 --set demo
    pa-lite follow model.gguf --limit 100 -o followed.json
    """
    import json

    from pa_lite.engine.model import EngineOptions
    from pa_lite.files import check_target, write_text
    from pa_lite.follow.sets import find_set

    if output is not None:
        check_target(output, force)
    with bar("fetch") as progress:
        chosen = find_set(name, seed, progress)
    with bar("follow") as progress, pa_lite.load(model, EngineOptions(threads, gpu_layers), kind) as loaded:
        result = loaded.follow(chosen, limit, max_tokens, parallel, progress)
    document = {"reference": model, "set": name, "seed": seed, **result.to_document()}
    if output is not None:
        write_text(output, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    if as_json:
        show_json(document)
    else:
        show_followed(result)


def show_followed(result: FollowResult) -> None:
    named = {
        "prompts": result.prompts(), **{f"  {k}": r for k, r in result.kinds().items()},
        "constraints": result.constraints(), **{f"  {n}": r for n, r in result.by_constraint().items()},
    }  # fmt: skip
    rows = [
        [name, str(r.n), *(f"{100 * x:.1f}" if r.n else "-" for e in (r.strict, r.loose) for x in (e.value, e.stderr))]
        for name, r in named.items()
    ]
    show_table(["", "n", "strict %", "s.e.", "loose %", "s.e."], rows, marked=0)
    if result.cut:
        click.echo(f"{result.cut} of {len(result.answers)} answers were cut: --max-tokens was too small for them.")
    if result.unchecked:
        click.echo(f"Constraints left out, as no rule can check them: {result.unchecked}.")
