"""What a shell is offered for a pair, a model, tasks and weight types."""

from __future__ import annotations

from collections.abc import Iterable

import click
from click.shell_completion import CompletionItem


def _items(names: Iterable[str], start: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.lower().startswith(start.lower())]


def _names_or_files(names: Iterable[str], start: str) -> list[CompletionItem]:
    """Return the names that start with a word, and the shell's own completion of files."""
    return [*_items(names, start), CompletionItem(start, type="file")]


def pairs(_context: click.Context, _parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Return registered pairs and files that start with a word."""
    import pa_lite

    return _names_or_files(sorted(pa_lite.pairs()), start)


def models(_context: click.Context, _parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Return PAIR@ and files that start with a word; after the @ some lams."""
    import pa_lite

    pair, at, _ = start.partition("@")
    names = [f"{pair}@0.{i}" for i in range(1, 10)] if at else [f"{name}@" for name in sorted(pa_lite.pairs())]
    return _names_or_files(names, start)


def task_names(_context: click.Context, _parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Return suites, tasks and files that start with the last word of a list with commas."""
    from pa_lite.api.tasks import suites

    found = suites()
    names = [*found, *(spec.name for specs in found.values() for spec in specs)]
    before, comma, last = start.rpartition(",")
    return _names_or_files((before + comma + name for name in dict.fromkeys(names) if name.startswith(last)), start)


def weight_types(_context: click.Context, _parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Return weight types that start with the last word of a list with commas, in upper case."""
    from pa_lite.api.options import WEIGHT_TYPES

    before, comma, last = start.rpartition(",")
    return _items((before + comma + name for name in WEIGHT_TYPES if name.lower().startswith(last.lower())), start)
