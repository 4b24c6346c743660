"""The command `harness`: lm-eval's tasks."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

import pa_lite
from pa_lite.cli.bars import bar
from pa_lite.cli.options import DATE, JSON, TEMPLATE_ARG, loads_a_model, takes_model
from pa_lite.cli.terminal import show_json, tell, tell_text

if TYPE_CHECKING:
    from pa_lite import EngineOptions, ModelRef

_MANY = ("--tasks", "-t", "--gen_kwargs", "--metadata", "--model_args", "-a")  # options of several words in lm-eval


class _Own(argparse.Action):
    """Keeps an option of the engine as it was written, for click to read."""

    def __call__(
        self, _parser: object, namespace: argparse.Namespace, values: str | Sequence[str] | None,
        option_string: str | None = None,
    ) -> None:  # fmt: skip
        words = [values] if isinstance(values, str) else list(values or [])
        namespace.own = [*getattr(namespace, "own", []), str(option_string), *words]


class LmEvalCommand(click.Command):
    """A command whose options are lm-eval's, read by lm-eval's own parser, and the engine's, declared here."""

    def parser(self, ctx: click.Context) -> argparse.ArgumentParser:
        """Return lm-eval's parser with MODEL and the engine's options added. Raises InputError without lm-eval."""
        from pa_lite.api.tasks import lm_eval_parser

        parser = lm_eval_parser()
        parser.prog, parser.usage = "pa-lite harness", "pa-lite harness MODEL --tasks <task> ... [options]"
        about, _, examples = (self.help or "").partition("\b\n")
        parser.description, parser.epilog = about.strip(), f"examples:\n{examples}"
        parser.add_argument("model_words", nargs="*", metavar="MODEL", help="FILE.gguf, PAIR@LAM, or a pair with --lam")
        group = parser.add_argument_group("engine")
        for option in (p for p in self.get_params(ctx) if isinstance(p, click.Option)):
            group.add_argument(
                *option.opts, *option.secondary_opts, dest=argparse.SUPPRESS, action=_Own, help=option.help,
                nargs=0 if option.is_flag else None, metavar=option.metavar or "<value>",
            )  # fmt: skip
        return parser

    def get_help(self, ctx: click.Context) -> str:
        """Return the help of all options; of the engine's alone where lm-eval is not installed."""
        from pa_lite.errors import InputError

        try:
            return self.parser(ctx).format_help().rstrip()
        except InputError as e:
            return f"{super().get_help(ctx)}\n\n{e}"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read lm-eval's options into a configuration, and the others as click does."""
        from pa_lite.api.tasks import parse_words, read_config

        if any(word in ctx.help_option_names for word in args):
            return super().parse_args(ctx, ["--help"])
        parser = self.parser(ctx)
        try:
            words = parse_words(parser, _joined(args) if args and args[0].startswith("-") else args)
        except argparse.ArgumentError as e:
            raise click.UsageError(f"{str(e).removeprefix('argument ')}.", ctx) from e
        own, model = vars(words).pop("own", []), vars(words).pop("model_words", [])
        config = read_config(words)
        given = config.model_args.get("model")
        rest = super().parse_args(ctx, [*own, "--", *(model or ([str(given)] if given else []))])
        ctx.params["config"] = config
        return rest


def _joined(words: Sequence[str]) -> list[str]:
    """Return the words with one word for an option of several and its first value: then MODEL may come after it."""
    out: list[str] = []
    for i, word in enumerate(words):
        if i and words[i - 1] in _MANY:
            out[-1] += f"={word}"
        else:
            out.append(word)
    return out


@click.command(cls=LmEvalCommand, short_help="Run lm-eval's tasks")
@takes_model
@TEMPLATE_ARG
@DATE
@loads_a_model
@JSON
def harness(
    model: ModelRef, weight_type: str, engine: EngineOptions, template_args: dict[str, Any], date: Any, as_json: bool,
    config: Any,
) -> None:  # fmt: skip
    """Run lm-eval tasks on MODEL (FILE.gguf, PAIR@LAM, or a pair with --lam).

    Takes every option of `lm-eval run` (--tasks, --num_fewshot, --limit, --apply_chat_template, --gen_kwargs,
    --include_path, --use_cache, --output_path, --log_samples, --config and so on), read by lm-eval's own parser,
    and the engine's options.

    Requires the extra: pip install 'pa-lite[harness]'.

    \b
    pa-lite harness demo@0.7 --tasks arc_easy,hellaswag --limit 100 -o results
    pa-lite harness model.gguf --include_path ./tasks --tasks mine --num_fewshot 5 --log_samples -o results
    pa-lite harness demo@0.7 --config lm-eval.yaml
    """
    chat = pa_lite.ChatOptions(template_args=template_args, date=date)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # of lm-eval's own bars
    with bar("harness") as progress:
        result = pa_lite.harness(model, options=config, type=weight_type, engine=engine, chat=chat, progress=progress)
    if as_json or config.show_config:
        show_json(result.document)
    if not as_json:
        for text in result.tables:
            tell_text(text)
        for file in result.files:
            tell(str(file))
