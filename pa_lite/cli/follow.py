"""The commands `generate` and `follow`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

import pa_lite
from pa_lite.cli import completers
from pa_lite.cli.bars import bar
from pa_lite.cli.help import command
from pa_lite.cli.options import FORCE, JSON, OUTPUT, chats, loads_a_model, takes_model
from pa_lite.cli.terminal import percent, show_json, show_table, tell
from pa_lite.errors import InputError

if TYPE_CHECKING:
    from pa_lite import ChatOptions, EngineOptions, FollowResult, LoadedModel, ModelRef


@command("Answer prompts, for reading or for AlpacaEval")
@takes_model
@click.option(
    "--prompts", required=True, shell_complete=completers.prompts,
    help="alpaca-eval, demo, or a JSON or JSONL file (see below).",
)  # fmt: skip
@click.option("--max-tokens", type=click.IntRange(1), default=256, show_default=True, help="Limit of new tokens.")
@click.option("--parallel", type=click.IntRange(1, 256), default=16, show_default=True, help="Prompts at a time.")
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0: greedy decoding.")
@click.option("--top-k", type=int, default=0, show_default=True, help="Sample from the K likeliest; 0: all.")
@click.option("--top-p", type=float, default=1.0, show_default=True, help="Nucleus sampling: probability mass to keep.")
@click.option(
    "--min-p", type=float, default=0.0, show_default=True, help="Smallest probability, relative to the top token's."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed: same seed, same answers.")
@click.option("--stop", multiple=True, help="Stop string, not part of the answer. Can be repeated.")
@click.option("--resume", is_flag=True, help="Continue a killed run, with its date; requires -o.")
@chats
@loads_a_model
@OUTPUT
@FORCE
@JSON
def generate(
    model: ModelRef,
    prompts: str,
    max_tokens: int,
    parallel: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    seed: int,
    stop: tuple[str, ...],
    chat: ChatOptions,
    resume: bool,
    weight_type: str,
    engine: EngineOptions,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Answer prompts with MODEL through its chat template; the result is AlpacaEval's model_outputs.

    MODEL is FILE.gguf, PAIR@LAM, or a pair with --lam.

    A prompt file has objects with `instruction` and optionally `input` (or `context`), which is appended to the
    instruction after an empty line; `system`, the prompt's own system prompt; and `dataset`.

    With -o, finished answers are kept: after a kill or Ctrl-C, the same command with --resume continues.

    \b
    pa-lite generate demo@0.7 --prompts demo -o outputs.json
    """
    from pa_lite.api.files import check_target
    from pa_lite.api.models import check_prompts

    options = pa_lite.GenerationOptions(
        max_tokens=max_tokens, temperature=temperature, top_p=top_p, min_p=min_p, top_k=top_k, seed=seed, stop=stop,
        parallel=parallel,
    )  # fmt: skip
    if output is not None:
        check_target(output, force)
    elif resume:
        raise InputError("--resume requires -o, the file to continue.")
    loaded = pa_lite.load_prompts(prompts)
    check_prompts(loaded, chat.system)  # before a model is loaded
    with pa_lite.load(model, engine, weight_type) as opened:
        note_plain_prompts(opened)
        kept = (
            f"finished answers are kept next to {output}; add --resume to continue." if output else "nothing was kept."
        )
        with bar("generate", kept) as progress:
            if output is not None:
                written = opened.write_outputs(
                    loaded, output, options, resume=resume, force=force, chat=chat, progress=progress,
                )  # fmt: skip
            else:
                made = opened.generate(loaded, options, chat=chat, progress=progress)
    if output is None:
        show_json([answer.document() for answer in made])
    elif as_json:
        show_json(asdict(written))
    else:
        if written.n_resumed:
            tell(f"{written.n_resumed} of {written.n} answers are from an earlier run.", err=True)
        note_unended_reasoning(written.reasons["reasoning"] + written.n_reasoning_cut, written.n)
        tell(written.path)


def note_unended_reasoning(n: int, total: int) -> None:
    if n:
        tell(f"note: {n} of {total} answers are empty: the model was still reasoning. Raise --max-tokens.", err=True)


def note_plain_prompts(model: LoadedModel) -> None:
    if not model.has_template:
        tell(f"note: {model.name} has no chat template: prompts are 'Instruction: ... Response:'.", err=True)


@command("Measure instruction following with rules, no judge")
@takes_model
@click.option(
    "--set", "name", default="public", show_default=True, shell_complete=completers.instruction_sets,
    help="public, demo, ifeval, ifeval:FILE or FILE.",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(1), help="Use N evenly spaced instructions; by default all.")
@click.option("--seed", type=click.IntRange(0), help="Generate 500 new public instructions from this seed.")
@click.option("--max-tokens", type=click.IntRange(1), help="Limit of new tokens; by default the set's.")
@click.option("--parallel", type=click.IntRange(1, 256), default=16, show_default=True, help="Prompts at a time.")
@chats
@loads_a_model
@OUTPUT
@FORCE
@JSON
def follow(
    model: ModelRef,
    name: str,
    limit: int | None,
    seed: int | None,
    max_tokens: int | None,
    parallel: int,
    chat: ChatOptions,
    weight_type: str,
    engine: EngineOptions,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure how well MODEL follows instructions that rules can check, without a judge.

    MODEL is FILE.gguf, PAIR@LAM, or a pair with --lam.

    The set ifeval is downloaded from the Hub, or read from a local copy with ifeval:FILE. FILE is a JSONL file of
    objects with `instruction` and `checks`.

    \b
    pa-lite follow demo@0.7 --set demo
    pa-lite follow model.gguf --limit 100 -o followed.json
    """
    from pa_lite.api.files import check_target
    from pa_lite.api.models import find_set
    from pa_lite.api.tasks import follow_document, write_document

    if output is not None:
        check_target(output, force)
    with bar("fetch") as progress:
        chosen = find_set(name, seed, progress)
    with bar("follow") as progress, pa_lite.load(model, engine, weight_type) as loaded:
        result = loaded.follow(chosen, limit, max_tokens, parallel, progress, chat=chat)
    document = follow_document(result, str(model), name, seed)
    if output is not None:
        write_document(document, output)
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
        [name, str(r.n), *(percent(x) if r.n else "-" for e in (r.strict, r.loose) for x in (e.value, e.stderr))]
        for name, r in named.items()
    ]
    show_table(["", "n", "strict %", "s.e.", "loose %", "s.e."], rows, marked=0)
    if result.cut:
        tell(f"{result.cut} of {len(result.answers)} answers were cut: raise --max-tokens.")
    if result.unchecked:
        tell(f"{result.unchecked} constraints were left out: no rule can check them.")
