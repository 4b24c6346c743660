"""Help as people read it: commands by purpose, the options of long commands by subject."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from pa_lite.cli.words import Commands, Lenient, NameCommands

_C = TypeVar("_C", bound=Callable[..., Any])
_LONG = 10  # a command with more options shows them by subject

# purpose -> commands, in the order of the help
PURPOSES: Mapping[str, Sequence[str]] = {
    "Make a model": ("tune", "merge"),
    "Use a model": ("chat", "compare", "generate", "serve", "push"),
    "Measure a model": ("score", "follow", "judge", "winrate", "harness"),
    "Study a pair": ("demo", "sweep", "search", "report"),
    "Look up": ("inspect", "diff", "pairs", "tasks", "doctor", "completion"),
}
# subject -> names of parameters; what is not named here comes first, under "Options"
SUBJECTS: Mapping[str, Sequence[str]] = {
    "Tasks": ("tasks", "table", "inputs", "output_column", "kind", "shots", "limit", "seed", "seeds", "mutual_info"),
    "Without labels": ("text", "text_limit", "prompts", "prompts_limit"),
    "Instructions": ("follow", "follow_limit", "name"),
    "Answers and judge": (
        "alpaca", "alpaca_limit", "judge", "reference", "calibration", "one_order", "allow_empty", "judge_model",
    ),
    "Goal": ("keep_follow", "sure", "weight", "budget", "schedules"),
    "Sampling": ("max_tokens", "temperature", "top_k", "top_p", "min_p", "stop", "parallel"),
    "Chat prompts": ("system", "template_args", "date"),
    "Server": ("host", "port", "api_key", "allow_hosts", "allow_origins", "queue"),
    "Engine": (
        "weight_type", "types", "gpu_layers", "threads", "n_ctx", "probe", "max_memory", "models", "max_wait",
        "backend", "address",
    ),
    "Results": (
        "output", "folder", "force", "log_samples", "dry_run", "resume", "verify", "keep_stale", "as_json", "png",
        "csv_path", "lm_eval",
    ),
}  # fmt: skip


class Command(Lenient):
    """A command whose options, if there are many, are listed by subject."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options: all under one heading, or those of a long command by subject."""
        options = [p for p in self.get_params(ctx) if isinstance(p, click.Option)]
        shown = [(p.name, _plain(record)) for p in options if (record := p.get_help_record(ctx)) is not None]
        subject_of = {name: subject for subject, names in SUBJECTS.items() for name in names}
        if not any(name == "tasks" for name, _ in shown):
            subject_of["seed"] = "Sampling"
        if len(shown) <= _LONG:
            subject_of = {}
        for subject in ("Options", *SUBJECTS):
            own = [record for name, record in shown if subject_of.get(str(name), "Options") == subject]
            if own:
                with formatter.section(subject):
                    formatter.write_dl(own)


def _plain(record: tuple[str, str]) -> tuple[str, str]:
    """Return an option and its help with N for a number."""
    return record[0].replace("INTEGER RANGE", "N").replace("INTEGER", "N").replace("FLOAT", "NUMBER"), record[1]


class Group(Commands):
    """A group that lists its commands by purpose, and prints its help when it is called without a command."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each purpose with its commands; commands without one come last."""
        named = {name for names in PURPOSES.values() for name in names}
        others = [name for name in self.list_commands(ctx) if name not in named]
        for purpose, names in {**PURPOSES, "Other": others}.items():
            rows = [
                (name, command.get_short_help_str(limit=200))
                for name in names
                if (command := self.get_command(ctx, name)) is not None and not command.hidden
            ]
            if rows:
                with formatter.section(purpose):
                    formatter.write_dl(rows)


class NameGroup(NameCommands):
    """A group about named things, such as pairs; its commands are lenient as others are."""

    command_class = Command


def command(summary: str, **settings: Any) -> Callable[[Callable[..., Any]], Command]:
    """Return a decorator that makes a command of a function; `summary` is its line in the list of commands."""
    return click.command(cls=Command, short_help=summary, **settings)
