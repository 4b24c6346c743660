"""The command `chat`: questions and answers on a terminal, or line by line for scripts."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from pa_lite.cli.answers import AnswerPrinter, note_of
from pa_lite.cli.bars import bar
from pa_lite.cli.columns import show_comparison
from pa_lite.cli.help import command
from pa_lite.cli.options import RESIDENT_MEMORY, chats, loads_a_model, samples, takes_start
from pa_lite.cli.signals import EndSignal
from pa_lite.cli.terminal import is_terminal, tell, tell_prose, tell_remark, tell_text, without_echo
from pa_lite.errors import InputError, PaLiteError
from pa_lite.sanitize import one_line

if TYPE_CHECKING:
    from pa_lite import ChatOptions, EngineOptions, GenerationOptions
    from pa_lite.api.options import PairLike
    from pa_lite.api.serving import ChatControl, ChatSession, LiveTurn, Outcome
    from pa_lite.cli.line_editor import LineEditor

_QUOTED = 120  # characters of a question that is shown again
_LONGEST = 1 << 24  # bytes of a message on standard input


@command("Chat with a model, at any lam")
@takes_start
@samples(max_tokens=1024)
@chats
@loads_a_model
@RESIDENT_MEMORY
@click.option("--forget", is_flag=True, help="Drop the oldest turns when the context is full, instead of asking.")
@click.option("--no-history", is_flag=True, help="Do not keep what is typed for the next chat.")
@click.pass_context
def chat(
    context: click.Context,
    model: PairLike,
    lam: str | None,
    study: str | None,
    extrapolate: bool,
    options: GenerationOptions,
    chat: ChatOptions,
    weight_type: str,
    engine: EngineOptions,
    max_memory: int,
    forget: bool,
    no_history: bool,
) -> None:
    """Chat with MODEL; a pair moves to another lam in mid-conversation.

    MODEL is FILE.gguf, PAIR@LAM, or a pair, which starts at --lam, at the best lam of --study, or at 0.6. In the chat,
    /lam 0.4 moves it, /compare 0 0.5 1 answers the last question at several lams, and /help lists all commands.

    Without a terminal, each line of standard input is a message or a command, and answers are plain text.

    \b
    pa-lite chat demo
    pa-lite chat ./Base ./Instruct --study my-run --system "Be brief."
    echo "Who is Tobi?" | pa-lite chat demo --lam 0.8
    """
    from pa_lite.api.serving import ChatControl, open_chat

    ending = context.find_object(EndSignal) or EndSignal()
    with contextlib.ExitStack() as stack:
        with bar("loading the model") as progress:
            opening = open_chat(
                model, options, weight_type, lam=lam, study=study, extrapolate=extrapolate, engine=engine, chat=chat,
                max_memory=max_memory, forgets=forget, progress=progress,
            )  # fmt: skip
            session = stack.enter_context(opening)
        control = ChatControl(session)
        if not (sys.stdin.isatty() and is_terminal()):
            run_script(control)
            return
        from pa_lite.cli.line_editor import LineEditor

        show_welcome(session, study)
        Chat(control, LineEditor(control, keeps_history=not no_history), ending).run()


def run_script(control: ChatControl) -> None:
    """Answer each line of standard input: answers go to stdout, remarks to stderr. Raises the first error."""
    from pa_lite.api.serving import Left

    n_answers = 0
    for text in _messages_of_stdin():
        outcome = control.run(text)
        if isinstance(outcome, Left):
            return
        n_answers += _show_plain(outcome, is_first=not n_answers)


def _messages_of_stdin() -> Iterator[str]:
    """Yield the lines of standard input that are not empty; those that end with a backslash continue on the next."""
    held, number = "", 0
    while raw := sys.stdin.buffer.readline(_LONGEST + 1):
        number += 1
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as e:
            raise InputError(f"line {number} of standard input is not text in UTF-8: {e.reason}.") from e
        if len(raw) > _LONGEST or len(held) > _LONGEST:
            raise InputError(f"line {number} of standard input has more than {_LONGEST / 1e6:.0f} MB.")
        held += line
        if held.endswith("\\"):
            held = f"{held[:-1]}\n"
            continue
        if held.strip():
            yield held
        held = ""
    if held.strip():
        yield held


def _show_plain(outcome: Outcome, is_first: bool) -> bool:
    """Print an outcome for a script, answers with an empty line between them; return whether there was an answer."""
    from pa_lite.api.serving import Confirmation, LiveComparison, LiveTurn, Said

    if isinstance(outcome, Confirmation):
        raise InputError(f"{outcome.question.partition(' Overwrite')[0]} Choose another name.")
    if isinstance(outcome, Said):
        tell_text(outcome.text, err=True)
    if not isinstance(outcome, LiveTurn | LiveComparison):
        return False
    if not is_first:
        tell("")
    if isinstance(outcome, LiveComparison):
        show_comparison(outcome, "")
        return True
    if outcome.n_forgotten:
        tell(_forgotten(outcome.n_forgotten), err=True)
    printer = AnswerPrinter()
    for piece in outcome.pieces():
        printer.add(piece)
    printer.end()
    if outcome.turn is not None and (note := note_of(outcome.turn.answer.finish_reason, "[cut: --max-tokens]")):
        tell(f"note: {note[1:-1]}", err=True)
    return True


def _forgotten(n: int) -> str:
    return f"the context was full: the oldest turn{'' if n == 1 else f's, {n},'} {'was' if n == 1 else 'were'} dropped."


def show_welcome(session: ChatSession, study: str | None) -> None:
    """Print three lines: the model and its lam, how to change it, and the keys."""
    from pa_lite.api.serving import memory_in_words

    name = one_line(session.host.name)
    if session.lam is None:
        tell_prose(f"{name}: a file, whose lam is fixed. The context has {session.host.length} tokens.")
        tell_prose("/system TEXT sets a system prompt, /help lists all commands.")
    else:
        origin = f", the best lam of {one_line(study)}" if study else ""
        tell_prose(f"{name} at lam {session.lam:g}{origin} (0 is base, 1 instruct); {memory_in_words(session)}.")
        tell_prose("/lam 0.4 moves it, /compare 0 0.5 1 shows several lams, /help lists all commands.")
    if not session.host.has_template():
        tell_prose("The model has no chat template: turns are 'Instruction: ... Response: ...'. Ctrl-D leaves.")
    else:
        tell_prose("Alt+Enter starts a new line, Ctrl-C stops an answer, Ctrl-D leaves.")
    tell("")


class Chat:
    """The chat on a terminal: reads lines, shows what they lead to, until the user leaves."""

    def __init__(self, control: ChatControl, editor: LineEditor, ending: EndSignal) -> None:
        """Chat through a control. `ending` tells a signal that ends the program from Ctrl-C."""
        self._control, self._editor, self._ending = control, editor, ending

    def run(self) -> None:
        """Read and answer until /exit or Ctrl-D."""
        from pa_lite.api.serving import Confirmation, ContextFullError, Left

        while True:
            try:
                text = self._editor.read()
                if not text.strip():
                    continue
                with without_echo():
                    outcome = self._control.run(text)
                    if not isinstance(outcome, Confirmation):
                        if isinstance(outcome, Left):
                            return
                        self._show(outcome)
                        continue
                self._say(outcome.then().text if self._editor.confirm(outcome.question) else "nothing was written.")
            except EOFError:
                return
            except KeyboardInterrupt:
                if self._ending.signal is not None:
                    raise
                if self._editor.has_sent:
                    self._say("stopped.")
                elif not self._editor.dropped:
                    self._say("Ctrl-D or /exit leaves the chat.")
            except ContextFullError as e:
                self._say(str(e))
            except PaLiteError as e:
                tell_prose(f"error: {e}")
                tell("")

    @contextlib.contextmanager
    def _stopping(self) -> Iterator[None]:
        """End the block on Ctrl-C; a signal that ends the program is passed on."""
        try:
            yield
        except KeyboardInterrupt:
            if self._ending.signal is not None:
                raise

    @staticmethod
    def _say(text: str) -> None:
        tell_remark(text)
        tell("")

    def _show(self, outcome: Outcome) -> None:
        from pa_lite.api.serving import LiveComparison, LiveTurn, Said

        if isinstance(outcome, Said):
            self._say(outcome.text)
        elif isinstance(outcome, LiveTurn):
            self._show_answer(outcome)
        elif isinstance(outcome, LiveComparison):
            with self._stopping():
                show_comparison(outcome, self._when_cut())
            tell("")

    def _when_cut(self) -> str:
        n = self._control.session.options.max_tokens
        return f"[cut at {n} tokens: /set max_tokens]"

    def _show_answer(self, live: LiveTurn) -> None:
        session, printer = self._control.session, AnswerPrinter()
        if live.n_forgotten:
            tell_remark(_forgotten(live.n_forgotten))
        if live.is_repeated:
            tell_remark(f"> {' '.join(live.question.split())[:_QUOTED]}")
        if session.lam is not None and session.lam not in session.lams_in_memory:
            tell_remark(f"moving to lam {session.lam:g} ...")
        with self._stopping(), live:
            for piece in live.pieces():
                printer.add(piece)
        live.close()  # a second Ctrl-C may have interrupted that
        printer.add(live.rest)
        if live.turn is not None:
            answer = live.turn.answer
            is_full = session.n_used >= session.host.length
            note = note_of(answer.finish_reason, "[cut: the context is full]" if is_full else self._when_cut())
        else:
            note = "[stopped before the answer; your message was not kept]"
        printer.end(note)
        tell("")
