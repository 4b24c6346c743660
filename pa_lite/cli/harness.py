"""The command `harness`: lm-eval's tasks."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import pa_lite
from pa_lite.cli.options import DATE, JSON, TEMPLATE_ARG, loads_a_model, takes_model
from pa_lite.cli.terminal import bar, show_json, tell, tell_text
from pa_lite.errors import InputError

if TYPE_CHECKING:
    from pa_lite import EngineOptions, ModelRef

_MANY = ("--tasks", "-t", "--gen_kwargs", "--metadata")


class ManyWords(click.Command):
    """A command whose options for lists take all words up to the next option, as in lm-eval, if MODEL comes first."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        out: list[str] = []
        option = ""
        for i, word in enumerate(args):
            if word.startswith("-"):
                option = word if word in _MANY and not args[0].startswith("-") else ""
            elif option and args[i - 1] != option:
                out.append(option)
            out.append(word)
        return super().parse_args(ctx, out)


def parse_samples(
    _context: click.Context, _parameter: click.Parameter, text: str | None
) -> dict[str, list[int]] | None:
    """Parse item numbers by task, from a JSON object or a file with one. Raises click's usage error otherwise."""
    if text is None:
        return None
    from pa_lite.api.tasks import read_samples

    try:
        return read_samples(text)
    except InputError as e:
        raise click.BadParameter(str(e)) from e


@click.command(cls=ManyWords)
@takes_model
@click.option(
    "--tasks", "-t", multiple=True, required=True, help="Names, groups, patterns or .yaml files, comma-separated."
)
@click.option(
    "--num_fewshot",
    "--shots",
    "-f",
    type=click.IntRange(0),
    help="Exemplars in each prompt; by default the task's number.",
)
@click.option("--limit", "-L", type=float, help="Items of each task: a number, or a share below 1; by default all.")
@click.option("--samples", "-E", callback=parse_samples, help="Item numbers: JSON {TASK: [N, ...]}, or a file.")
@click.option(
    "--seed",
    default="0,1234,1234,1234",
    show_default=True,
    help="Seeds of random, numpy, torch and exemplars, or one for all.",
)
@click.option("--output_path", "-o", type=click.Path(path_type=Path), help="Folder for the results, or NAME.json.")
@click.option("--log_samples", "-s", is_flag=True, help="Also write prompts and answers of every item as JSON lines.")
@click.option("--predict_only", "-x", is_flag=True, help="Write answers without computing metrics.")
@click.option(
    "--apply_chat_template", is_flag=False, flag_value="", metavar="[NAME]",
    help="Use the model's chat template, or its template called NAME.",
)  # fmt: skip
@click.option(
    "--fewshot_as_multiturn", is_flag=False, flag_value="true", type=click.BOOL, metavar="[BOOLEAN]",
    help="Exemplars as turns of a conversation; the default with a chat template.",
)  # fmt: skip
@click.option("--system_instruction", "--system", help="System prompt.")
@TEMPLATE_ARG
@DATE
@click.option("--include_path", multiple=True, type=click.Path(path_type=Path), help="Folder with your own tasks.")
@click.option(
    "--gen_kwargs", multiple=True, metavar="KEY=VALUE,...", help="Generation settings; they override the tasks'."
)
@click.option("--metadata", multiple=True, metavar="KEY=VALUE,...", help="Settings that some tasks require.")
@click.option("--use_cache", "-c", type=click.Path(path_type=Path), help="Prefix of files that keep answers.")
@click.option(
    "--cache_requests", is_flag=False, flag_value="true", type=click.Choice(["true", "refresh", "delete"]),
    help="Keep rendered prompts for later runs.",
)  # fmt: skip
@click.option("--confirm_run_unsafe_code", is_flag=True, help="Allow tasks that run generated code.")
@click.option("--show_config", is_flag=True, help="Also print the results document.")
@click.option("--parallel", "--batch_size", "-b", default="auto", show_default=True, help="Texts generated at a time.")
@loads_a_model
@JSON
def harness(
    model: ModelRef, weight_type: str, engine: EngineOptions, parallel: str, template_args: dict[str, Any], date: Any,
    as_json: bool, show_config: bool, **words: Any,
) -> None:  # fmt: skip
    """Run lm-eval tasks on MODEL (FILE.gguf, PAIR@LAM, or a pair with --lam).

    Options have lm-eval's names and meanings.

    Requires the extra: pip install 'pa-lite[harness]'.

    \b
    pa-lite harness demo@0.7 --tasks arc_easy,hellaswag --limit 100 -o results
    pa-lite harness model.gguf --include_path ./tasks --tasks mine --num_fewshot 5 --log_samples -o results
    """
    options = read_options(words)
    chat = pa_lite.ChatOptions(template_args=template_args, date=date)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # of lm-eval's own bars
    with bar("harness") as progress:
        result = pa_lite.harness(
            model, options=options, type=weight_type, engine=engine, parallel=parallel, chat=chat, progress=progress
        )
    if as_json or show_config:
        show_json(result.document)
    if not as_json:
        for text in result.tables:
            tell_text(text)
        for file in result.files:
            tell(str(file))


def read_options(words: dict[str, Any]) -> Any:
    """Return the command's options as HarnessOptions. Raises InputError."""
    from pa_lite.api.tasks import HarnessOptions, parse_pairs, parse_seeds

    template, seed = words["apply_chat_template"], words.pop("seed")
    return HarnessOptions(**{
        **words,
        "tasks": tuple(name for word in words["tasks"] for name in word.split(",") if name),
        "apply_chat_template": template or template is not None,
        "gen_kwargs": parse_pairs(words["gen_kwargs"]),
        "metadata": parse_pairs(words["metadata"]),
        "seeds": parse_seeds(seed),
    })  # fmt: skip
