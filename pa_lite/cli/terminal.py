"""What commands show alike: progress bars on stderr, JSON and tables on stdout. Computes nothing.

Names and texts of files that strangers made reach the terminal through here, and cannot steer it.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from pa_lite.errors import STEERING, plain

if TYPE_CHECKING:
    from pa_lite.merge.stream import Progress


def tell(text: str, err: bool = False) -> None:
    """Print a line, made plain, on stdout or stderr."""
    click.echo(plain(text), err=err)


class PlainFormatter(logging.Formatter):
    """Log lines, made plain."""

    def format(self, record: logging.LogRecord) -> str:
        return plain(super().format(record))


@contextmanager
def bar(unit: str) -> Iterator[Progress]:
    """A progress bar on stderr, none where stderr is no terminal."""
    from tqdm import tqdm

    with tqdm(disable=None, file=sys.stderr, desc=unit, unit_scale=True, leave=False) as drawn:

        def progress(done: int, total: int) -> None:
            drawn.total = total
            drawn.update(done - drawn.n)

        yield progress


@contextmanager
def token_bar(unit: str) -> Iterator[tuple[Progress, Callable[[int], None]]]:
    """A progress bar that also shows tokens a second; its second function takes the tokens of each step."""
    from tqdm import tqdm

    begin = shown = time.monotonic()
    made = 0
    with tqdm(disable=None, file=sys.stderr, desc=unit, leave=False, smoothing=0.1) as drawn:

        def progress(done: int, total: int) -> None:
            if drawn.total is None:
                drawn.reset(total)
                drawn.initial = drawn.n = done  # what an earlier run did says nothing about speed
            drawn.update(done - drawn.n)

        def on_tokens(n: int) -> None:
            nonlocal made, shown
            made += n
            now = time.monotonic()
            if now - shown > 0.2:
                drawn.set_postfix_str(f"{made / (now - begin):.0f} tokens/s")
                shown = now

        yield progress, on_tokens


def show_json(document: Any) -> None:
    """The document on stdout; what steers a terminal is escaped, so that parsed it is the same."""
    text = json.dumps(document, indent=1, ensure_ascii=False)
    click.echo(STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]], marked: int | None = None) -> None:
    """A plain table on stdout: numbers to the right, the first and nameless columns to the left; row `marked` bold."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(columns):
        table.add_column(Text(plain(name)), justify="left" if i == 0 or not name else "right")
    for i, row in enumerate(rows):
        table.add_row(*(Text(plain(cell)) for cell in row), style="bold" if i == marked else None)
    # a pipe has no width: wide enough for what is shown
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
