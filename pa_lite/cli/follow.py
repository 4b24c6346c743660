"""The command `follow`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

import pa_lite
from pa_lite.cli import completers
from pa_lite.cli.bars import bar
from pa_lite.cli.help import command
from pa_lite.cli.options import FORCE, JSON, OUTPUT, chats, loads_a_model, takes_model
from pa_lite.cli.terminal import percent, show_json, show_table, tell

if TYPE_CHECKING:
    from pa_lite import ChatOptions, EngineOptions, FollowResult, ModelRef


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
