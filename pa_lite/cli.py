"""The command line: each command parses, calls one function, and shows its result; errors become one line."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import click

import pa_lite
from pa_lite.errors import PaLiteError
from pa_lite.terminal import (
    bar,
    show_diff,
    show_inspection,
    show_json,
    show_preview,
    show_scores,
    show_table,
    show_tradeoff,
)

_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")
_OUTPUT = click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to write.")
_FORCE = click.option("--force", is_flag=True, help="Overwrite files that exist.")
_THREADS = click.option(
    "--threads", type=click.IntRange(0, 1024), default=0, help="Threads; 0 takes one for each core."
)
_KIND = click.option("--type", "kind", default="F16", show_default=True, help="Type a PAIR@LAM is merged to.")
_GPU = click.option("--gpu-layers", type=click.IntRange(-1), default=0, help="Layers on the GPU; -1 for all.")


def parse_size(_context: click.Context, _parameter: click.Parameter, text: str) -> int:
    """A number of bytes: 256M, 1.5G, 800K or plain. Raises click's usage error for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)B?", text.strip().upper())
    if found is None:
        raise click.BadParameter(f"{text!r} is no size, such as 256M or 1.5G.")
    return int(float(found[1]) * 1000 ** " KMGT".index(found[2] or " "))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="pa-lite", prog_name="pa-lite")
@click.option("--debug", is_flag=True, help="Show tracebacks and llama.cpp's log.")
def cli(debug: bool) -> None:
    """Move a chat model part of the way back to its base, and measure what that gains and loses.

    \b
    pa-lite demo                                  all of it on the embedded pair, offline
    pa-lite merge ./Base ./Instruct --lam 0.7     write the model at lam 0.7 as GGUF
    """
    level = logging.DEBUG if debug else logging.WARNING
    logging.basicConfig(level=level, stream=sys.stderr, format="%(levelname)s: %(message)s")
    logging.getLogger("matplotlib").setLevel(logging.WARNING)


@cli.command()
@click.argument("base", type=click.Path(path_type=Path), required=False)
@click.argument("instruct", type=click.Path(path_type=Path), required=False)
@click.option("--pair", help="A registered pair, instead of BASE and INSTRUCT.")
@click.option("--lam", "lams", required=True, help="L[,L...] or LO:HI:STEP; 0 is the base, 1 the instruct model.")
@click.option("--type", "kind", default="Q8_0", show_default=True, help="F32, F16, BF16, Q8_0, Q4_K_M, ...")
@click.option("--tensor-type", "tensor_types", multiple=True, metavar="PATTERN=TYPE", help="Another type there.")
@click.option("--imatrix", type=click.Path(path_type=Path), help="Importance matrix of llama.cpp, for quantising.")
@click.option("--schedule", default="", metavar="RULES|FILE.toml", help="Other lams by group and layer.")
@click.option("--vocab", default="instruct", show_default=True, help="Whose vocabulary to keep: instruct or base.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@click.option("--resume", is_flag=True, help="Go on where a killed merge stopped; keep what this one leaves.")
@click.option("--verify", is_flag=True, help="Read the result back and compare it with a second computation.")
@click.option("--max-memory", callback=parse_size, default="0", metavar="256M", help="Memory of the whole process.")
@_OUTPUT
@_THREADS
@_FORCE
@_JSON
def merge(
    base: Path | None,
    instruct: Path | None,
    pair: str | None,
    lams: str,
    kind: str,
    tensor_types: tuple[str, ...],
    imatrix: Path | None,
    schedule: str,
    vocab: str,
    dry_run: bool,
    resume: bool,
    verify: bool,
    max_memory: int,
    output: Path | None,
    threads: int,
    force: bool,
    as_json: bool,
) -> None:
    """Write M(lam) = (1 - lam) BASE + lam INSTRUCT as a GGUF file, for every lam.

    BASE and INSTRUCT are folders with safetensors files, or GGUF files; without them the embedded pair is merged.

    \b
    pa-lite merge --lam 0.7
    pa-lite merge ./Llama-3.2-1B ./Llama-3.2-1B-Instruct --lam 0.5,0.7 --type Q4_K_M
    pa-lite merge base.gguf instruct.gguf --lam 0.7 --schedule "attention: 0.5; layers 0-7: 0.9"
    """
    from pa_lite.merge.lams import parse_lams
    from pa_lite.merge.mixture import parse_override
    from pa_lite.merge.plan import PlanOptions
    from pa_lite.merge.preview import preview_merge
    from pa_lite.merge.schedule import Schedule, parse_schedule
    from pa_lite.merge.write import MergeOptions, resolve_inputs

    values = parse_lams(lams)
    if any(not 0 <= lam <= 1 for lam in values):
        click.echo("warning: a lam outside [0, 1] extrapolates beyond the pair.", err=True)
    rules = parse_schedule(schedule) if schedule else Schedule()
    plan = PlanOptions(kind, rules, vocab, imatrix, tuple(map(parse_override, tensor_types)))
    options = MergeOptions(threads, force, resume, verify, max_memory)
    if dry_run:
        show_preview(preview_merge(*resolve_inputs(base, instruct, pair), values, plan, output, options), as_json)
        return
    with bar("merge") as progress:
        paths = pa_lite.merge(
            base, instruct, values, pair=pair, plan=plan, output=output, options=options, progress=progress
        )
    if as_json:
        show_json([{"lam": lam, "path": str(path)} for lam, path in zip(values, paths, strict=True)])
    else:
        click.echo("\n".join(map(str, paths)))


@cli.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--tensors", is_flag=True, help="List every tensor.")
@_JSON
def inspect(checkpoint: Path, tensors: bool, as_json: bool) -> None:
    """What is in CHECKPOINT: architecture, types, sizes, vocabulary, chat template."""
    from pa_lite.checkpoints.inspect import inspect_checkpoint

    found = inspect_checkpoint(checkpoint)
    if as_json:
        show_json(asdict(found))
        return
    show_inspection(found, tensors)


@cli.command()
@click.argument("base", type=click.Path(path_type=Path))
@click.argument("instruct", type=click.Path(path_type=Path))
@_THREADS
@_JSON
def diff(base: Path, instruct: Path, threads: int, as_json: bool) -> None:
    """How far INSTRUCT lies from BASE, by tensor group and layer: |I - B| / |B|, and the cosine of the two."""
    from pa_lite.merge.diff import diff_checkpoints

    with bar("diff") as progress:
        found = diff_checkpoints(base, instruct, threads, progress)
    if as_json:
        show_json(asdict(found))
        return
    show_diff(found)


@cli.command()
@click.argument("model")
@click.option("--tasks", required=True, help="Tasks, suites or .toml files, with commas between.")
@click.option("--shots", type=click.IntRange(0), help="Exemplars in each prompt; by default the task's own number.")
@click.option("--limit", type=click.IntRange(1), help="Items scored of each task; by default all.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Draws the exemplars.")
@_KIND
@_GPU
@_THREADS
@_OUTPUT
@_FORCE
@_JSON
def score(
    model: str,
    tasks: str,
    shots: int | None,
    limit: int | None,
    seed: int,
    kind: str,
    gpu_layers: int,
    threads: int,
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
    with bar("score") as progress, pa_lite.load(model, EngineOptions(threads, gpu_layers), kind) as loaded:
        result = loaded.score(tasks.split(","), options, progress)
    document = {"reference": model, **asdict(result), "accuracy": asdict(result.accuracy)}
    if output is not None:
        write_text(output, json.dumps(document, indent=1) + "\n")
    if as_json:
        show_json(document)
    else:
        show_scores(result)


@cli.command()
@click.argument("model")
@click.option("--prompts", required=True, help="'demo', or a JSON or JSONL file of objects with 'instruction'.")
@click.option("--max-tokens", type=click.IntRange(1), default=256, show_default=True, help="New tokens at most.")
@click.option("--parallel", type=click.IntRange(1, 256), default=16, show_default=True, help="Prompts at a time.")
@_KIND
@_GPU
@_THREADS
@_OUTPUT
@_FORCE
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


@cli.command()
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("pa-lite-demo"), show_default=True,
    help="Folder for results.json and chart.svg.",
)  # fmt: skip
@_JSON
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


@cli.command()
@_JSON
def pairs(as_json: bool) -> None:
    """List the registered pairs of base and instruct."""
    from pa_lite.checkpoints.pairs import all_pairs

    found = all_pairs().values()
    if as_json:
        show_json([{"name": p.name, "base": str(p.base), "instruct": str(p.instruct)} for p in found])
    else:
        show_table(["pair", "what it is"], [[p.name, p.description] for p in found])


@cli.command()
@_JSON
def tasks(as_json: bool) -> None:
    """List the suites and their few-shot tasks."""
    from pa_lite.tasks.spec import suites

    specs = [(suite, spec) for suite, specs in suites().items() for spec in specs]
    if as_json:
        show_json([{"suite": suite, "task": s.name, "area": s.area, "shots": s.shots} for suite, s in specs])
    else:
        rows = [[s.name, suite, s.area, str(s.shots), s.description] for suite, s in specs]
        show_table(["task", "suite", "area", "shots", "what it asks"], rows)


def _fail(message: str) -> NoReturn:
    click.echo("error: " + " ".join(message.split()), err=True)
    sys.exit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. Exit status: 0 done, 1 an error of input or environment, 2 usage, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        cli.main(args=words, prog_name="pa-lite", standalone_mode=False)
    except click.exceptions.Exit as e:
        sys.exit(e.exit_code)
    except click.ClickException as e:
        e.show()
        sys.exit(e.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except PaLiteError as e:
        if debug:
            raise
        _fail(str(e))
    except MemoryError:
        _fail("out of memory. Close other programs, or take a smaller model or type.")
