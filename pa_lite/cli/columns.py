"""Show answers at several lams while they grow: side by side where the width allows, else below each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pa_lite.cli.answers import AnswerPrinter, note_of
from pa_lite.cli.terminal import draw, draw_while, is_terminal, tell, tell_heading, terminal_width
from pa_lite.errors import PaLiteError
from pa_lite.sanitize import plain

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.text import Text

    from pa_lite.api.serving import LiveAnswer, LiveComparison

LEAST = 24  # characters of a column
_LOOK = 0.08  # seconds between two drawings
_KEPT_LINES = 5  # of the screen: the heading, and lines that stay free


def width_of_column(n: int, width: int) -> int:
    """Return the width of each of n columns of a screen; a space and the table's empty border are between them."""
    return (width + 1) // n - 2


def show_comparison(live: LiveComparison, when_cut: str) -> None:
    """Print the answers as they come, until all are complete. On Ctrl-C the answers are stopped; what came stays.

    Raises the error of an answer that failed.
    """
    if is_terminal() and len(live.answers) > 1 and width_of_column(len(live.answers), terminal_width()) >= LEAST:
        _Columns(live, when_cut).show()
    else:
        _show_below(live, when_cut)


def _heading(answer: LiveAnswer) -> str:
    return "the model" if answer.lam is None else f"lam {answer.lam:g}"


def _show_below(live: LiveComparison, when_cut: str) -> None:
    """Print one answer after the other; those that are not shown yet are generated meanwhile."""
    for number, answer in enumerate(live.answers):
        if number:
            tell("")
        tell_heading(f"## {_heading(answer)}")
        printer = AnswerPrinter()
        try:
            for piece in answer.pieces():
                printer.add(piece)
        except KeyboardInterrupt:
            printer.add(answer.stop())
            live.stop()
            printer.end(note_of("stopped", ""))
            raise
        printer.end(note_of(answer.result().finish_reason, when_cut))


class _Columns:
    """A table with a column for each answer, drawn again while they grow; its end is shown where it is too high."""

    def __init__(self, live: LiveComparison, when_cut: str) -> None:
        self._live, self._when_cut = live, when_cut
        self._is_whole = False

    def show(self) -> None:
        interrupted = False
        try:
            draw_while(self, self._step)
        except KeyboardInterrupt:
            interrupted = True
        self._live.stop()
        self._is_whole = True
        draw(self)
        if interrupted:
            raise KeyboardInterrupt
        for answer in self._live.answers:
            answer.result()  # raises its error

    def _step(self) -> bool:
        """Read what is new; return whether more may come."""
        if self._live.is_done:
            return False
        self._live.wait(_LOOK)
        for answer in self._live.answers:
            answer.take()
        return True

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        answers = self._live.answers
        width = width_of_column(len(answers), options.max_width)
        most = None if self._is_whole else max(2, console.height - _KEPT_LINES)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
        for answer in answers:
            table.add_column(Text(_heading(answer)), overflow="fold", width=width)
        table.add_row(*(self._cell(answer, console, width, most) for answer in answers))
        yield table

    def _cell(self, answer: LiveAnswer, console: Console, width: int, most: int | None) -> Text:
        """Return an answer as far as it is known, and how it ended; of its lines only the last `most`."""
        from rich.text import Text

        text, note = plain(answer.text), ""
        if self._is_whole:
            try:
                note = note_of(answer.result().finish_reason, self._when_cut) or ("" if text else "[empty answer]")
            except PaLiteError:
                note = "[failed]"
        elif not text:
            note = "reasoning ..." if answer.is_reasoning else "..."
        if most is not None and len(text) > most * width:  # lines above these are not shown: do not wrap them
            text = text[-most * width :].partition(" ")[2]
        shown = Text(text, overflow="fold")
        if note:
            shown.append(f"\n{note}" if text else note, style="dim")
        lines = shown.wrap(console, width)
        return Text("\n").join(lines if most is None else lines[-most:])
