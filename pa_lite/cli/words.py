"""Words that people try: `help` and `version` as commands, one dash before a long option, other spellings."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import click

SPELLINGS = {"--lams": "--lam"}  # hidden spellings of options
ALIASES = {"rm": "remove", "ls": "list"}  # hidden names of subcommands
_LONG_WORD = re.compile(r"-[A-Za-z][\w-]+")
_CLOSE = 0.7  # similarity from which a command is suggested
_Options = Mapping[str, click.Option]


def _first_command(words: Sequence[str]) -> int:
    """Return the index of the first word that is not an option; the options of groups have no values."""
    return next((i for i, word in enumerate(words) if not word.startswith("-")), len(words))


def _option_words(words: Sequence[str], options: _Options) -> Iterator[int]:
    """Yield the indexes of words that are options, not values of options; words after `--` are not options."""
    is_value = False
    for i, word in enumerate(words):
        if word == "--" and not is_value:
            return
        if is_value or not word.startswith("-"):
            is_value = False
            continue
        yield i
        option = options.get(SPELLINGS.get(word, word))
        # an option with a value for "no value" (--follow) does not take a word with a dash
        is_value = option is not None and not option.is_flag and not isinstance(option.flag_value, str)


def _respelled(words: Sequence[str], options: _Options, has_model: bool) -> list[str]:
    """Return the words with other spellings replaced, and `--pair NAME` as NAME where that is an argument."""
    out = list(words)
    for i in reversed(list(_option_words(words, options))):
        name, equals, value = words[i].partition("=")
        if name in options:
            continue
        if SPELLINGS.get(name) in options:
            out[i] = SPELLINGS[name] + equals + value
        elif name == "--pair" and has_model:
            out[i : i + 1] = [value] if equals else []
    return _one_name(out, options) if "--pair" in options else out


def _one_name(words: list[str], options: _Options) -> list[str]:
    """Return the words with `--pair NAME` as NAME where --pair takes two words and only one follows."""
    for i in reversed(list(_option_words(words, options))):
        name, equals, value = words[i].partition("=")
        if name == "--pair" and options[name].nargs == 2:
            after = words[i + 1 : i + 3]
            if equals or len(after) < 2 or after[1].startswith("-"):
                words[i : i + 1] = [value] if equals else []
    return words


class Lenient(click.Command):
    """A command that knows other spellings, and suggests two dashes where a long option has one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words. Raises a usage error that names the whole word of an unknown option with one dash."""
        parameters = self.get_params(ctx)
        options = {name: p for p in parameters if isinstance(p, click.Option) for name in (*p.opts, *p.secondary_opts)}
        has_model = any(
            isinstance(p, click.Argument) and str(p.metavar).split()[0] in ("PAIR", "MODEL") for p in parameters
        )
        words = _respelled(args, options, has_model)
        own = words[: _first_command(words)] if isinstance(self, click.Group) else words
        named = [words[i].partition("=")[0] for i in _option_words(own, options)]
        long = [name for name in named if _LONG_WORD.fullmatch(name)]
        if not ctx.resilient_parsing:
            for name in long:
                if f"-{name}" in options:
                    raise _unknown_option(name, options, ctx)
        try:
            return super().parse_args(ctx, words)
        except click.NoSuchOption as e:
            for name in long:
                if not e.option_name.startswith("--") and e.option_name[1:] in name:
                    raise _unknown_option(name, options, ctx) from e
            raise


def _unknown_option(name: str, options: _Options, ctx: click.Context) -> click.UsageError:
    close = difflib.get_close_matches(f"-{name}", [o for o in options if o.startswith("--")], n=1)
    return click.UsageError(f"unknown option {name}.{f' Did you mean {close[0]}?' if close else ''}", ctx)


class Required(click.Option):
    """A required option whose absence is reported with an example; `missing` is the message."""

    def __init__(self, *names: Any, missing: str, **settings: Any) -> None:
        super().__init__(*names, required=True, **settings)
        self.missing = missing

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        """Return the value. Raises a usage error with the message if there is none."""
        try:
            return super().process_value(ctx, value)
        except click.MissingParameter as e:
            raise click.UsageError(self.missing, ctx) from e


class Commands(Lenient, click.Group):
    """A group that takes `help`, `help COMMAND` and `version`, and suggests only commands that are close."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words, with `help` and `version` as the options of these names."""
        at = _first_command(args)
        if args[at : at + 1] == ["help"]:
            args = [*args[:at], *(word for word in args[at + 1 :] if word != "help"), "--help"]
        elif args[at:] == ["version"]:
            args = [*args[:at], "--version"]
        return super().parse_args(ctx, args)

    def known(self) -> Iterable[str]:
        """Return names that are commands too."""
        return ()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of the first word. Raises a usage error with close names for an unknown one."""
        name = args[0]
        if name in self.commands or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        close = difflib.get_close_matches(name, [*self.commands, *self.known()], n=3, cutoff=_CLOSE)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise click.UsageError(f"unknown command {name!r}.{hint}", ctx)


class NameCommands(Commands):
    """A group about named things: a known name alone means `show NAME`, and --json may come before the command."""

    def __init__(self, *words: Any, names: Callable[[], Iterable[str]], **settings: Any) -> None:
        super().__init__(*words, **settings)
        self.names = names

    def known(self) -> Iterable[str]:
        """Return the names that can be shown."""
        return self.names()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of the first word, or `show` if the word is a known name, and pass --json to it."""
        name, *rest = args
        if name not in self.commands and ALIASES.get(name) in self.commands:
            name = ALIASES[name]
        if name not in self.commands and not ctx.resilient_parsing and name.partition("/")[0] in self.known():
            name, rest = "show", list(args)
        command = self.commands.get(name)
        if command is not None and ctx.params.get("as_json") and any(p.name == "as_json" for p in command.params):
            rest = ["--json", *rest]
        return super().resolve_command(ctx, [name, *rest])
