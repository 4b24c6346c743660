"""All that commands show goes out through here: progress bars on stderr, lines, JSON and tables. Computes nothing.

So names and texts of files that strangers made cannot steer the terminal.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from pa_lite.progress import Progress, silent
from pa_lite.sanitize import one_line, plain, to_json


def prepare_streams() -> None:
    """Let stdout and stderr write out what their encoding lacks, instead of failing over it.

    One that is closed leads nowhere from now on: else the next file that is opened would get what is said.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and name != "stdin":
            stream.reconfigure(errors="backslashreplace")


def drop_streams() -> None:
    """Send what is left of the output nowhere: whoever read it, such as `head`, has gone."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                with contextlib.suppress(OSError, ValueError):
                    os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def tell(line: str, err: bool = False) -> None:
    """Print one line, made plain, on stdout or stderr."""
    click.echo(one_line(line), err=err)


def tell_text(text: str, err: bool = False) -> None:
    """Print a text of several lines, made plain, on stdout or stderr."""
    click.echo(plain(text), err=err)


class PlainFormatter(logging.Formatter):
    """Log lines, made plain; tracebacks keep their lines."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return plain(text) if record.exc_info else one_line(text)


def _bars() -> Any:
    """tqdm without the thread that watches its bars: where none can be started, it would print a warning."""
    from tqdm import tqdm

    tqdm.monitor_interval = 0
    return tqdm


def _steady(drawn: Any) -> None:
    """Let a bar measure by a clock that nobody sets: it would stand still, or count back, when the day's time jumps."""
    drawn._time = time.monotonic
    drawn.start_t = drawn.last_print_t = time.monotonic()


_COUNTS = (
    "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"
)


@contextmanager
def bar(phase: str) -> Iterator[Progress]:
    """Show a progress bar on stderr, none where stderr is not a terminal; it is called `phase` until the first report.

    What has no total, such as tokens, is shown as a rate beside it.
    """
    if not sys.stderr.isatty():
        yield silent  # and tqdm is not imported
        return
    start = shown = time.monotonic()
    made = last = 0
    with _bars()(disable=None, file=sys.stderr, desc=phase, leave=False, smoothing=0.1, bar_format=_COUNTS) as drawn:
        _steady(drawn)

        def progress(phase: str, done: int, total: int, unit: str) -> None:
            nonlocal made, last, shown
            if total:
                if drawn.total is None or done < drawn.n or unit != drawn.unit:
                    drawn.unit, drawn.unit_scale = unit, unit in ("B", "values")
                    drawn.reset(total)
                    drawn.initial = drawn.n = done  # what an earlier run did says nothing about speed
                drawn.set_description(phase, refresh=False)
                drawn.total = total
                drawn.update(done - drawn.n)
                return
            made += done - last if done >= last else done  # each call of the engine counts from 0
            last, now = done, time.monotonic()
            if now - shown > 0.2:
                drawn.set_postfix_str(f"{made / (now - start):.0f} {unit}/s")
                shown = now

        yield progress


def percent(share: float, digits: int = 1) -> str:
    """A share in percent; `-` where it is not known."""
    return f"{100 * share:.{digits}f}" if math.isfinite(share) else "-"


def show_json(document: Any) -> None:
    """The document on stdout; what steers a terminal is escaped, so that parsed it is the same."""
    click.echo(to_json(document, ascii_only=(sys.stdout.encoding or "").lower().replace("-", "") != "utf8"))


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]], marked: int | None = None) -> None:
    """A plain table on stdout: numbers to the right, the first and nameless columns to the left; row `marked` bold."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(columns):
        table.add_column(Text(one_line(name)), justify="left" if i == 0 or not name else "right")
    for i, row in enumerate(rows):
        table.add_row(*(Text(one_line(cell)) for cell in row), style="bold" if i == marked else None)
    # a pipe has no width: wide enough for what is shown
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
