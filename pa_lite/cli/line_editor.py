"""The line editor of a chat: history, completion of commands, several lines, and a bar with the state."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.shortcuts import CompleteStyle
from prompt_toolkit.styles import Style

from pa_lite.cli.terminal import terminal_width
from pa_lite.sanitize import one_line

if TYPE_CHECKING:
    from pa_lite.api.serving import ChatControl, ChatHistory, ChatSession

_log = logging.getLogger(__name__)
_STYLE = Style.from_dict({"lam": "bold", "bottom-toolbar": "noreverse dim", "prompt-mark": ""})
_TENTHS = [f"{i / 10:g}" for i in range(11)]


class LineEditor:
    """Reads what the user types.

    `has_sent` says whether the last `read` returned a line, `dropped` what Ctrl-C or Ctrl-D dropped.
    """

    def __init__(self, control: ChatControl, keeps_history: bool = True) -> None:
        """Edit lines for a session; with `keeps_history` those of earlier chats are in the history."""
        from pa_lite.api.serving import ChatHistory

        self._session, self.has_sent, self.dropped = control.session, False, ""
        history = _KeptHistory(ChatHistory()) if keeps_history else InMemoryHistory()
        self._prompt: PromptSession[str] = PromptSession(
            history=history, completer=_Commands(control.session), complete_while_typing=True,
            complete_style=CompleteStyle.COLUMN, key_bindings=_bindings(), multiline=True, style=_STYLE,
            prompt_continuation=lambda width, _line, _wraps: " " * width, bottom_toolbar=self._toolbar,
            reserve_space_for_menu=5,
        )  # fmt: skip

    def read(self) -> str:
        """Return what was typed. Raises EOFError for Ctrl-D, KeyboardInterrupt for Ctrl-C."""
        self.has_sent, self.dropped = False, ""
        try:
            with _kept_wakeup():
                text = self._prompt.prompt(self._message(), handle_sigint=False)
        except BaseException:
            self.dropped = self._prompt.default_buffer.text
            raise
        self.has_sent = True
        return text

    def confirm(self, question: str) -> bool:
        """Ask a question, and return whether the answer was yes. Ctrl-C and Ctrl-D are no."""
        asked: PromptSession[str] = PromptSession()
        try:
            with _kept_wakeup():
                return asked.prompt(f"{one_line(question)} [y/N] ", handle_sigint=False).strip().lower() in ("y", "yes")
        except (EOFError, KeyboardInterrupt):
            return False

    def _message(self) -> StyleAndTextTuples:
        lam = self._session.lam
        return [("class:lam", "" if lam is None else f"lam {lam:g} "), ("class:prompt-mark", "> ")]

    def _toolbar(self) -> StyleAndTextTuples:
        return [("class:bottom-toolbar", state_in_words(self._session, terminal_width()))]


def state_in_words(session: ChatSession, width: int) -> str:
    """Return the model, its lam, the lams in memory and the tokens used; as much of it as fits in the width."""
    parts = [one_line(session.host.name)]
    if session.lam is not None:
        parts.append(f"lam {session.lam:g}")
    parts.append(f"{session.n_used} of {session.host.length} tokens")
    if session.lams_in_memory:
        parts.append(f"in memory: {', '.join(f'{lam:g}' for lam in sorted(session.lams_in_memory))}")
    parts.append("/help")
    while len(parts) > 1 and len(" | ".join(parts)) > width - 2:
        parts.pop()
    return f" {' | '.join(parts)} "[:width]


@contextlib.contextmanager
def _kept_wakeup() -> Iterator[None]:
    """Keep the file that Python writes signals to, which the line editor's event loop replaces."""
    before = signal.set_wakeup_fd(-1)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before, warn_on_full_buffer=False)


def _bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.is_cursor_at_the_end and buffer.text.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings


class _Commands(Completer):
    """Completes commands and their arguments."""

    def __init__(self, session: ChatSession) -> None:
        self._session, self._paths = session, PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Yield what a line that starts with a slash may continue with."""
        from pa_lite.api.serving import COMMANDS, SETTINGS

        text = document.text_before_cursor
        if not text.startswith("/") or text.startswith("//") or "\n" in text:
            return
        name, space, argument = text.partition(" ")
        if not space:
            for each in COMMANDS:
                if each.name.startswith(name.lower()):
                    yield Completion(each.name, -len(name), display_meta=f"{each.arguments} {each.summary}".strip())
            return
        if name == "/save":
            yield from self._paths.get_completions(Document(argument), complete_event)
            return
        lams = list(dict.fromkeys([*(f"{lam:g}" for lam in self._session.lams_in_memory), *_TENTHS]))
        words = {"/lam": lams, "/compare": _TENTHS, "/set": SETTINGS, "/system": ("off",)}.get(name, ())
        last = argument.rpartition(" ")[2]
        if last == argument or name == "/compare":
            for word in words:
                if word.startswith(last) and word != last:
                    yield Completion(word, -len(last))


class _KeptHistory(History):
    """A history in a file. If the file cannot be used, the history is that of this chat."""

    def __init__(self, kept: ChatHistory) -> None:
        super().__init__()
        self._kept, self._is_usable = kept, True

    def load_history_strings(self) -> Iterable[str]:
        """Return the entries, the newest first."""
        try:
            return self._kept.load()[::-1]
        except OSError as e:
            self._give_up(e)
            return []

    def store_string(self, string: str) -> None:
        """Append an entry."""
        if self._is_usable:
            try:
                self._kept.add(string)
            except OSError as e:
                self._give_up(e)

    def _give_up(self, error: OSError) -> None:
        self._is_usable = False
        _log.warning(
            "%s: the history is not kept: %s.", self._kept.path, error.strerror or os.strerror(error.errno or 0)
        )
