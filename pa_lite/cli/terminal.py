"""Everything that commands print: progress bars on stderr, lines, JSON and tables.

Control characters are escaped here, so that untrusted names and texts cannot control the terminal.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from pa_lite.sanitize import one_line, plain, to_json

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from pa_lite.api.studies import Measure


def prepare_streams() -> None:
    """Let stdout and stderr escape characters that their encoding lacks, instead of raising.

    Closed streams are redirected to the null device: else the next opened file would get their output.
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
    """Discard the rest of the output: its reader, such as `head`, has exited."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                with contextlib.suppress(OSError, ValueError):
                    os.dup2(null, stream.fileno())
        os.close(null)


@contextlib.contextmanager
def without_echo() -> Iterator[None]:
    """Do not show what is typed during the block, where it would be mixed into the output; it is read afterwards.

    Ctrl-C works. Does nothing where stdin is not a terminal, and on Windows.
    """
    try:
        import termios
    except ImportError:
        yield
        return
    try:
        number = sys.stdin.fileno()
        before = termios.tcgetattr(number)
    except (OSError, ValueError, termios.error):
        yield
        return
    changed = [*before]
    changed[3] &= ~termios.ECHO
    termios.tcsetattr(number, termios.TCSANOW, changed)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(number, termios.TCSANOW, before)


def tell(line: str, err: bool = False) -> None:
    """Print one line, escaped, on stdout or stderr."""
    click.echo(one_line(line), err=err)


def show_next(**commands: str) -> None:
    """Print on stderr the commands that are useful next, each after what it does: `score="pa-lite score ..."`."""
    for what, line in commands.items():
        tell(f"{what.replace('_', ' ')}: {line}", err=True)


def quoted(word: object) -> str:
    """Return a word as a shell takes it, with control characters escaped."""
    return shlex.quote(one_line(str(word)))


def tell_prose(text: str, err: bool = False) -> None:
    """Print sentences on stdout or stderr, escaped; on a terminal they wrap at words."""
    stream = sys.stderr if err else sys.stdout
    line = one_line(text)
    click.echo("\n".join(wrapped(line)) if stream.isatty() else line, err=err)


def wrapped(line: str) -> list[str]:
    """Return a line in parts that fit the terminal, broken between words."""
    width = shutil.get_terminal_size().columns
    if not 0 < width < len(line):
        return [line]
    return textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False)


def tell_remark(text: str) -> None:
    """Print a remark next to answers on stdout: escaped, wrapped at words, and dimmed unless NO_COLOR is set."""
    for line in text.split("\n"):
        for part in wrapped(one_line(line)):
            click.echo(_dimmed(part))


def tell_heading(line: str) -> None:
    """Print a heading on stdout, escaped, in bold on a terminal; a long one is cut to the terminal's width."""
    from rich.cells import cell_len, set_cell_size

    shown, width = one_line(line), shutil.get_terminal_size().columns if is_terminal() else 100
    if cell_len(shown) > width > 3:
        shown = set_cell_size(shown, width - 3).rstrip() + "..."
    click.echo(click.style(shown, bold=True))


def write_piece(text: str, is_remark: bool = False) -> None:
    """Print a part of a text on stdout at once, escaped, without a line end; remarks are dimmed on a terminal."""
    if text:
        click.echo(_dimmed(plain(text)) if is_remark else plain(text), nl=False)
        sys.stdout.flush()


def _dimmed(text: str) -> str:
    return text if os.environ.get("NO_COLOR") else click.style(text, dim=True)


def is_terminal() -> bool:
    """Return whether stdout is a terminal."""
    return sys.stdout.isatty()


def terminal_width() -> int:
    """Return the number of columns of the terminal, at least 20."""
    return max(20, shutil.get_terminal_size().columns)


def draw_while(drawing: RenderableType, step: Callable[[], bool]) -> None:
    """Draw on the terminal, again after each step while it returns true; then remove the drawing.

    The drawing's texts must be escaped, and it must not be higher than the terminal.
    """
    from rich.live import Live

    with Live(drawing, console=_console(), auto_refresh=False, transient=True) as drawn:
        while step():
            drawn.refresh()


def draw(drawing: RenderableType) -> None:
    """Draw once on stdout. The drawing's texts must be escaped."""
    _console().print(drawing)
    sys.stdout.flush()


def _console() -> Console:
    from rich.console import Console

    return Console(width=terminal_width(), highlight=False)


def tell_text(text: str, err: bool = False) -> None:
    """Print a text of several lines, escaped, on stdout or stderr."""
    click.echo(plain(text), err=err)


class PlainFormatter(logging.Formatter):
    """Format log records as single escaped lines; tracebacks keep their line breaks."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return plain(text) if record.exc_info else one_line(text)


@contextlib.contextmanager
def each_remark_once() -> Iterator[None]:
    """Print a log message that comes again within the block only the first time."""
    seen: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        known = text in seen
        seen.add(text)
        return not known

    handlers = logging.getLogger().handlers
    for handler in handlers:
        handler.addFilter(is_new)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(is_new)


def percent(share: float, digits: int = 1) -> str:
    """Return a share in percent; `-` if unknown."""
    return f"{100 * share:.{digits}f}" if math.isfinite(share) else "-"


def number(value: float, measure: Measure) -> str:
    """Return a value of a measure in percent, or in the measure's unit; `-` if unknown."""
    return measure.number(value) if math.isfinite(value) else "-"


def blocks(n: int) -> str:
    """Return a bar of n blocks, in characters that stdout can show."""
    return ("█" if "utf" in (sys.stdout.encoding or "").lower() else "#") * n


def show_json(document: Any) -> None:
    """Print a JSON document on stdout, with terminal control characters escaped."""
    click.echo(to_json(document, ascii_only=(sys.stdout.encoding or "").lower().replace("-", "") != "utf8"))


def show_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], marked: int | None = None, prose: Sequence[str] = ()
) -> None:
    """Print a table on stdout, row `marked` in bold. The first column and nameless ones are left-aligned.

    Columns named in `prose`, and nameless ones after the first, wrap at words; other columns are never cut or wrapped,
    even if the terminal is narrower.
    """
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console, JustifyMethod
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_header=any(columns))
    needed = 2 + 2 * len(columns)  # spaces at the edges and between columns
    for i, name in enumerate(columns):
        wraps = i > 0 and (name in prose or not name)
        justify: JustifyMethod = "left" if i == 0 or not name or wraps else "right"
        cells = [word for row in rows for word in (row[i].split() if wraps else [one_line(row[i])])]
        longest = max(map(cell_len, [name, *cells]), default=0)
        least = min(14, longest) if wraps else longest
        table.add_column(Text(one_line(name)), justify=justify, no_wrap=not wraps, overflow="fold", min_width=least)
        needed += least
    for i, row in enumerate(rows):
        table.add_row(*(Text(one_line(cell)) for cell in row), style="bold" if i == marked else None)
    # a pipe has no width: use a wide one
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.width = max(console.width, needed)
    console.print(table)
