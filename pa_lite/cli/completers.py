"""What a shell is offered for pairs, models, tasks, instruction sets, prompts, weight types and files."""

from __future__ import annotations

from collections.abc import Iterable

import click
from click.shell_completion import CompletionItem


def _items(names: Iterable[str], start: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.lower().startswith(start.lower())]


def _names_or_files(names: Iterable[str], start: str) -> list[CompletionItem]:
    """Return the names that start with a word, and the shell's own completion of files."""
    return [*_items(names, start), CompletionItem(start, type="file")]


def files(_context: click.Context, _parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Return the shell's own completion of files."""
    return _names_or_files((), start)


def pair_names(_context: click.Context, _parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Return registered pairs that start with a word."""
    import pa_lite

    return _items(sorted(pa_lite.pairs()), start)


def own_pairs(_context: click.Context, _parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Return pairs that the user registered and that start with a word."""
    import pa_lite

    return _items(sorted(name for name, pair in pa_lite.pairs().items() if pair.is_own), start)


def pairs(context: click.Context, parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Return registered pairs and files that start with a word."""
    return [*pair_names(context, parameter, start), *files(context, parameter, start)]


def runs(context: click.Context, parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Return registered pairs, whose newest run is meant, and folders that start with a word."""
    return [*pair_names(context, parameter, start), CompletionItem(start, type="dir")]


def models(_context: click.Context, _parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Return PAIR@ and files that start with a word; after the @ some lams."""
    import pa_lite

    pair, at, _ = start.partition("@")
    names = [f"{pair}@0.{i}" for i in range(1, 10)] if at else [f"{name}@" for name in sorted(pa_lite.pairs())]
    return _names_or_files(names, start)


def starts(context: click.Context, parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Return pairs and files that start with a word, as a pair needs no lam; after an @ some lams."""
    return (models if "@" in start else pairs)(context, parameter, start)


def models_then_prompts(context: click.Context, parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Return models for the first word, and files for the others, which are questions or prompts."""
    is_model = not (context.params.get("words") or context.params.get("pair"))
    return (models if is_model else files)(context, parameter, start)


def pairs_then_prompts(context: click.Context, parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Return pairs for the first word, and files for the others, which are questions or prompts."""
    is_pair = not (context.params.get("words") or context.params.get("pair"))
    return (pairs if is_pair else files)(context, parameter, start)


def known_tasks() -> list[str]:
    """Return the names of suites and tasks, each once."""
    from pa_lite.api.tasks import suites

    found = suites()
    return list(dict.fromkeys([*found, *(spec.name for specs in found.values() for spec in specs)]))


def task_names(_context: click.Context, _parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Return suites, tasks and files that start with the last word of a list with commas."""
    before, comma, _ = start.rpartition(",")
    return _names_or_files((before + comma + name for name in known_tasks()), start)


def one_task(_context: click.Context, _parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Return tasks and files that start with a word."""
    from pa_lite.api.tasks import suites

    names = dict.fromkeys(spec.name for specs in suites().values() for spec in specs)
    return _names_or_files(names, start)


def instruction_sets(_context: click.Context, _parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Return sets of instructions and files that start with a word."""
    return _names_or_files(("public", "demo", "ifeval"), start)


def prompts(_context: click.Context, _parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Return sets of prompts and files that start with a word."""
    return _names_or_files(("alpaca-eval", "demo", "everyday"), start)


def weight_types(_context: click.Context, _parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Return weight types that start with the last word of a list with commas, in upper case."""
    from pa_lite.api.options import WEIGHT_TYPES

    before, comma, _ = start.rpartition(",")
    return _items((before + comma + name for name in WEIGHT_TYPES), start)
