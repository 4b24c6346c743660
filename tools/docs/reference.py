"""Build the API reference and the command reference, the same on every version of Python and click."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

import pa_lite
from pa_lite.cli import cli

PACKAGE = Path(pa_lite.__file__).parent
_MADE = "<!-- made by `python -m tools.docs`: change the docstrings, not this file -->"
_WIDTH = 110
_ALIASES = {
    "Location": "a path, or a model on the Hub: `org/name[@revision]`",
    "PairLike": "a registered pair's name, a `Pair`, or (base, instruct)",
    "ModelLike": "`FILE.gguf`, `PAIR@LAM`, a `ModelRef`; with a separate lam also what `PairLike` accepts",
    "Lams": "a number, several, or a string such as `0:1:0.1` or `0.2,0.5`",
    "Names": "one string (with commas), or several",
    "Date": "a `datetime.date`, or `YYYY-MM-DD`",
    "Messages": 'the user\'s text, or a list of `{"role": ..., "content": ...}`',
    "Texts": "a text, several, or what `load_prompts` returns",
    "Progress": "a function of (phase, done, total, unit), called while work goes on; total is 0 where it is unknown",
}


def api_reference() -> str:
    """Return API.md: every public name with its signature, fields and docstring."""
    names = [name for name in pa_lite.__all__ if name != "__version__"]
    functions = [name for name in names if inspect.isfunction(getattr(pa_lite, name))]
    classes = [name for name in names if name not in functions]
    lines = [_MADE, "# API", "", str(inspect.getdoc(pa_lite)), ""]
    lines += ["Functions: " + ", ".join(f"`{name}`" for name in functions) + "."]
    lines += ["Classes: " + ", ".join(f"`{name}`" for name in classes) + "."]
    lines += ["", "| in signatures | stands for |", "|---|---|"]
    lines += [f"| `{name}` | {_cell(meaning)} |" for name, meaning in _ALIASES.items()]
    lines += ["", "## Functions"]
    for name in functions:
        lines += _function(f"pa_lite.{name}", getattr(pa_lite, name), "###")
    lines += ["", "## Classes"]
    for name in classes:
        lines += _class(name, getattr(pa_lite, name))
    return "\n".join(lines) + "\n"


def _function(name: str, function: Any, mark: str) -> Iterator[str]:
    yield from ("", f"{mark} {name.rpartition('.')[2]}", "```python", _signature(name, function), "```")
    yield str(inspect.getdoc(function))


def _signature(name: str, function: Any) -> str:
    """Return the call in one line, or wrapped; without `self`."""
    signature = inspect.signature(function)
    parameters = [p for p in signature.parameters.values() if p.name != "self"]
    shown = [_parameter(p) for p in parameters]
    for at, parameter in enumerate(parameters):
        if parameter.kind is parameter.KEYWORD_ONLY:
            shown.insert(at, "*")
            break
    result = str(signature.return_annotation).strip("'")
    line = f"{name}({', '.join(shown)}) -> {result}"
    if len(line) <= _WIDTH:
        return line
    rows = [""]
    for word in shown:
        if rows[-1] and len(rows[-1]) + len(word) + 6 > _WIDTH:
            rows.append("")
        rows[-1] += f" {word}," if rows[-1] else f"{word},"
    return "\n".join([f"{name}(", *(f"    {row}" for row in rows), f") -> {result}"])


def _parameter(parameter: inspect.Parameter) -> str:
    text = parameter.name
    if parameter.annotation is not parameter.empty:
        text += f": {parameter.annotation!s}"
    return text if parameter.default is parameter.empty else f"{text} = {parameter.default!r}"


def _class(name: str, kind: Any) -> Iterator[str]:
    yield from ("", f"### {name}", str(inspect.getdoc(kind)))
    if dataclasses.is_dataclass(kind):
        yield from ("", "| field | type | default |", "|---|---|---|")
        for field in dataclasses.fields(kind):
            yield f"| `{field.name}` | `{_cell(field.type)}` | {_default(field)} |"
    for own, member in vars(kind).items():
        if own.startswith("_") or (dataclasses.is_dataclass(kind) and own in kind.__dataclass_fields__):
            continue
        if isinstance(member, property):
            yield from ("", f"**`.{own}`**: {_one_line(member)}")
        elif inspect.isfunction(member):
            yield from _function(f"{name[0].lower()}{name[1:]}.{own}", member, "####")


def _one_line(member: Any) -> str:
    return " ".join(str(inspect.getdoc(member)).split())


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|")


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{_cell(repr(field.default)) if not dataclasses.is_dataclass(field.default) else 'none'}`"
    if field.default_factory is not dataclasses.MISSING:
        return f"`{getattr(field.default_factory, '__name__', '')}()`"
    return "required"


def command_reference() -> str:
    """Return COMMANDS.md: every command with its help and options."""
    lines = [_MADE, "# Commands", "", _help(cli), ""]
    lines += ["Exit status: 0 done, 1 the input or the environment was wrong, 2 usage, 130 interrupted."]
    for name, command in sorted(cli.commands.items()):
        lines += _command(f"pa-lite {name}", command)
    return "\n".join(lines) + "\n"


def _command(path: str, command: click.Command) -> Iterator[str]:
    arguments = [_argument(p) for p in command.params if isinstance(p, click.Argument)]
    options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    sub = " COMMAND" if isinstance(command, click.Group) else ""
    yield from ("", f"## {path}", "```", " ".join([path + sub, *arguments, "[OPTIONS]"]), "```", _help(command))
    if options:
        yield from ("", "| option | default | |", "|---|---|---|")
        for option in options:
            yield f"| {_names(option)} | {_shown_default(option)} | {_cell(option.help or '')} |"
    if isinstance(command, click.Group):
        for name, inner in sorted(command.commands.items()):
            yield from _command(f"{path} {name}", inner)


def _help(command: click.Command) -> str:
    """Return a command's help; paragraphs that click must not wrap become blocks of code."""
    text = inspect.cleandoc(command.help or "")
    return re.sub(r"(?:^|\n)\x08\n((?:.+\n?)+)", lambda m: f"\n```sh\n{m[1].rstrip()}\n```\n", text).rstrip()


def _argument(argument: click.Argument) -> str:
    name = argument.metavar or (argument.name or "").upper()
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _names(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    return f"{names} {_cell(_value(option))}".rstrip()


def _value(option: click.Option) -> str:
    if option.is_flag:
        return ""
    if option.metavar:
        return option.metavar
    if isinstance(option.type, click.Choice):
        return "|".join(map(str, option.type.choices))
    words = {"integer": "N", "integer range": "N", "float": "X", "path": "PATH", "text": "TEXT", "boolean": "BOOLEAN"}
    return words.get(option.type.name, option.type.name.upper())


def _shown_default(option: click.Option) -> str:
    value = option.default
    is_plain = isinstance(value, str | int | float | Path) and not isinstance(value, bool)
    return f"`{value}`" if option.show_default and is_plain else ""


FILES: dict[Path, Callable[[], str]] = {
    PACKAGE / "API.md": api_reference,
    PACKAGE / "COMMANDS.md": command_reference,
}


def stale() -> list[Path]:
    """Return the references that are out of date."""
    return [p for p, make in FILES.items() if not p.is_file() or p.read_text("utf-8") != make()]
