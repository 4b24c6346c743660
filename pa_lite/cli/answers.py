"""Print answers as they are generated: escaped, on a terminal wrapped at words, with reasoning dimmed."""

from __future__ import annotations

from typing import Protocol

from pa_lite.cli.terminal import is_terminal, tell, tell_heading, tell_remark, terminal_width, write_piece
from pa_lite.sanitize import plain

_TAB = 8
_FENCE = "```"  # code between such lines is not wrapped
_NOTES = {"stopped": "[stopped]", "reasoning": "[the model ended its turn within its reasoning]"}


class Part(Protocol):
    """A new part of an answer."""

    @property
    def text(self) -> str: ...

    @property
    def reasoning(self) -> str: ...


def note_of(finish_reason: str, when_cut: str) -> str:
    """Return how an answer ended, `when_cut` if it was cut; empty where it ended as it should."""
    return when_cut if finish_reason == "length" else _NOTES.get(finish_reason, "")


class WordWrap:
    """Breaks text that arrives in pieces into lines of a width, between words; code blocks are left as they are."""

    def __init__(self, width: int) -> None:
        self._width, self._column = width, 0
        self._spaces, self._word = "", ""
        self._is_split = False  # whether the start of the word was shown, as it is longer than a line
        self._line_start = ""  # the first characters of the current line
        self._in_code = False

    def add(self, text: str) -> str:
        """Append a piece; return what can be shown. The last word is held back until its end is known."""
        return "".join(map(self._take, text))

    def end(self) -> str:
        """Return what was held back."""
        return self._flush()

    def _take(self, character: str) -> str:
        if character in "\n \t":
            shown = self._flush()
            self._is_split = False
            if character != "\n":
                self._spaces += character
                self._start_line(character)
                return shown
            if self._line_start.startswith(_FENCE):
                self._in_code = not self._in_code
            self._column, self._line_start, self._spaces = 0, "", ""
            return shown + "\n"
        self._start_line(character)
        if _width_of(character) == 2:  # a script without spaces: lines may break at each character
            shown = self._flush()
            self._word = character
            return shown + self._flush()
        self._word += character
        if _width_of(self._word) > self._width:
            shown = self._flush()
            self._is_split = True
            return shown
        return ""

    def _start_line(self, character: str) -> None:
        if len(self._line_start) < len(_FENCE):
            self._line_start = (self._line_start + character).lstrip()

    def _flush(self) -> str:
        if not self._word:
            return ""
        spaces, word = self._spaces, self._word
        self._spaces = self._word = ""
        gap = sum(_TAB - (self._column + i) % _TAB if c == "\t" else 1 for i, c in enumerate(spaces))
        width = _width_of(word)
        if self._column and not (self._in_code or self._is_split) and self._column + gap + width > self._width:
            self._column = width
            return "\n" + word
        self._column += gap + width
        return spaces + word


def _width_of(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


class AnswerPrinter:
    """Prints one answer on stdout as it grows. Reasoning is shown on a terminal only, dimmed, before the answer."""

    def __init__(self) -> None:
        self._is_terminal = is_terminal()
        self._wrap = WordWrap(terminal_width()) if self._is_terminal else None
        self._in_reasoning = self._has_text = False

    def add(self, part: Part) -> None:
        """Print a part."""
        if part.reasoning and self._is_terminal:
            if not self._in_reasoning:
                self._in_reasoning = True
                tell_remark("reasoning:")
            self._print(part.reasoning, is_dim=True)
        if part.text:
            if self._in_reasoning:
                self._end_reasoning()
            self._has_text = True
            self._print(part.text)

    def _print(self, text: str, is_dim: bool = False) -> None:
        # escaped before it is wrapped, because that changes its width
        write_piece(text if self._wrap is None else self._wrap.add(plain(text)), is_dim)

    def _end_reasoning(self) -> None:
        assert self._wrap is not None
        write_piece(self._wrap.end(), is_remark=True)
        write_piece("\n\n")
        self._wrap, self._in_reasoning = WordWrap(terminal_width()), False

    def end(self, note: str = "") -> None:
        """End the answer's line. A remark on how it ended, or that it is empty, follows on a terminal."""
        if self._in_reasoning:
            self._end_reasoning()
        if self._has_text or not self._is_terminal:
            write_piece(("" if self._wrap is None else self._wrap.end()) + "\n")
        note = note or ("" if self._has_text else "[empty answer]")
        if note and self._is_terminal:
            tell_remark(note)


def show_heading(text: str, is_first: bool) -> None:
    """Print the heading of one of several answers: an empty line before it, on a terminal in bold."""
    if not is_first:
        tell("")
    tell_heading(f"# {' '.join(text.split())}")
