"""Carry out what is typed in a chat: commands on its session, and messages. What to show is returned as data."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pa_lite.engine.resident_models import ResidentModels
from pa_lite.errors import InputError
from pa_lite.merging.lams import parse_lams
from pa_lite.sanitize import one_line
from pa_lite.serving.chat_commands import COMMANDS, changed_setting, parse_line, settings_in_words
from pa_lite.serving.conversation_session import ChatSession, LiveTurn
from pa_lite.serving.live_answers import LiveComparison
from pa_lite.serving.transcript import write_transcript

COMPARED = (0.0, 0.5, 1.0)  # the lams of /compare alone
_KEYS = (
    "Alt+Enter, or \\ at the end of a line, starts a new line. Ctrl-C stops an answer.",
    "To send a message that starts with /, write // there.",
)
_SHOWN = 60  # characters of a question that a remark quotes


@dataclass(frozen=True)
class Said:
    """A remark for the user; it may have several lines."""

    text: str


@dataclass(frozen=True)
class Confirmation:
    """A question to answer with yes or no, and what to do after yes."""

    question: str
    then: Callable[[], Said]


@dataclass(frozen=True)
class Left:
    """The user leaves the chat."""


Outcome = Said | Confirmation | Left | LiveTurn | LiveComparison


class ChatControl:
    """Reads lines for a session."""

    def __init__(self, session: ChatSession) -> None:
        self.session = session
        self._commands: dict[str, Callable[[str], Outcome]] = {
            "/lam": self._lam, "/compare": self._compare, "/system": self._system, "/retry": self._retry,
            "/undo": self._undo, "/forget": self._forget, "/clear": self._clear, "/set": self._set,
            "/save": self._save, "/help": self._help, "/exit": self._exit,
        }  # fmt: skip

    def run(self, text: str) -> Outcome:
        """Carry out a line, or start the answer to a message.

        Raises PaLiteError, after which the session is as before, also for a message that does not fit in the context.
        """
        line = parse_line(text)
        if not line.command:
            return self.session.ask(line.text)
        return self._commands[line.command](line.text.strip())

    def _lam(self, text: str) -> Outcome:
        session = self.session
        if not text:
            return Said(f"{self._at()}; {memory_in_words(session)}.")
        seconds = session.move(text)
        if seconds is None:
            return Said(f"{self._at()}: it was in memory.")
        return Said(f"{self._at()}: moved in {seconds:.2f} s{self._reloaded()}.")

    def _at(self) -> str:
        lam = self.session.lam
        return f"{self.session.host.name}: the lam of a file is fixed" if lam is None else f"lam {lam:g}"

    def _reloaded(self) -> str:
        return ", loaded again on the GPU" if self.session.host.models.moves_reload else ""

    def _compare(self, text: str) -> Outcome:
        joined = ",".join(part for part in re.split(r"[\s,]+", text) if part)
        lams = parse_lams(joined) if joined else COMPARED
        return self.session.compare(lams)

    def _system(self, text: str) -> Outcome:
        session = self.session
        if not text:
            system = session.chat.system
            return Said(f"system prompt: {system}" if system else "no system prompt; /system TEXT sets one.")
        off = text.lower() == "off"
        session.set_system("" if off else text)
        what = "system prompt removed" if off else "system prompt set"
        turns = " The turns so far stay; /clear drops them." if session.turns else ""
        return Said(f"{what}: it counts from the next answer on.{turns}")

    def _retry(self, text: str) -> Outcome:
        self._no_argument("/retry", text)
        return self._repeated(self.session.retry())

    @staticmethod
    def _repeated(live: LiveTurn) -> LiveTurn:
        live.is_repeated = True
        return live

    def _undo(self, text: str) -> Outcome:
        self._no_argument("/undo", text)
        removed = self.session.undo()
        return Said(f"removed: {_short(removed.question)}")

    def _forget(self, text: str) -> Outcome:
        refused = self.session.refused
        if text and not re.fullmatch(r"\d{1,6}", text, re.ASCII):
            raise InputError(f"/forget takes a number of turns, not {text!r:.40}.")
        n = self.session.forget(int(text) if text else None)
        if refused:
            live = self._repeated(self.session.ask(refused))
            live.n_forgotten += n
            return live
        return Said(f"dropped the oldest turn{'' if n == 1 else f's, {n}'}; {len(self.session.turns)} left.")

    def _clear(self, text: str) -> Outcome:
        self._no_argument("/clear", text)
        n = self.session.clear()
        return Said(f"a new conversation: {n} turn{'s' * (n != 1)} dropped.")

    def _set(self, text: str) -> Outcome:
        if not text:
            return Said(settings_in_words(self.session.options))
        self.session.options, name = changed_setting(self.session.options, text)
        return Said(f"{name} {getattr(self.session.options, name):g}, from the next answer on.")

    def _save(self, text: str) -> Outcome:
        if not text:
            raise InputError("/save takes a file name, such as /save chat.json or /save chat.md.")
        if not self.session.turns:
            raise InputError("there is nothing to save: the conversation is empty.")
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
        path = Path(text[1:-1] if quoted else text).expanduser()
        if os.path.lexists(path) and not path.is_dir():
            return Confirmation(f"{one_line(str(path))} exists already. Overwrite it?", lambda: self._write(path, True))
        return self._write(path, False)

    def _write(self, path: Path, force: bool) -> Said:
        session = self.session
        write_transcript(path, session.host.name, session.chat.system, session.turns, session.options, force)
        n = len(session.turns)
        return Said(f"{path}: {n} turn{'s' * (n != 1)} written.")

    def _help(self, _text: str) -> Outcome:
        rows = [(f"{c.name} {c.arguments}".strip(), c.summary) for c in COMMANDS]
        width = max(len(left) for left, _ in rows)
        lines = [f"{left:<{width}}  {summary}" for left, summary in rows]
        return Said("\n".join([*lines, *_KEYS]))

    def _exit(self, _text: str) -> Outcome:
        return Left()

    @staticmethod
    def _no_argument(name: str, text: str) -> None:
        if text:
            raise InputError(f"{name} takes nothing after it, not {text!r:.40}.")


def memory_in_words(session: ChatSession) -> str:
    """Return which lams are in memory, and how many models fit; the file's name for a model without lams."""
    models = session.host.models
    if not isinstance(models, ResidentModels):
        return "one model in memory"
    lams = ", ".join(f"{lam:g}" for lam in sorted(models.lams))
    n = models.n_models
    return f"in memory: {lams or 'none'} (room for {n} model{'s' * (n != 1)})"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 3]}..."
