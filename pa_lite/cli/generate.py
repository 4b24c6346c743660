"""The command `generate`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

import pa_lite
from pa_lite.cli import completers
from pa_lite.cli.answers import AnswerPrinter, note_of, show_heading
from pa_lite.cli.bars import bar
from pa_lite.cli.help import command
from pa_lite.cli.options import (
    EXTRAPOLATE,
    FORCE,
    JSON,
    LAM,
    OUTPUT,
    PAIR,
    chats,
    loads_a_model,
    model_and_questions,
    samples,
)  # fmt: skip
from pa_lite.cli.terminal import show_json, tell
from pa_lite.errors import InputError

if TYPE_CHECKING:
    from pa_lite import ChatOptions, EngineOptions, GenerationOptions, LoadedModel, Prompt
    from pa_lite.api.models import OutputPiece


@command("Answer a question, or many prompts")
@click.argument("words", nargs=-1, metavar="MODEL [QUESTION]...", shell_complete=completers.models_then_prompts)
@LAM
@EXTRAPOLATE
@PAIR
@click.option(
    "--prompts", shell_complete=completers.prompts,
    help="alpaca-eval, demo, or a file (see below); the answers are AlpacaEval's JSON.",
)  # fmt: skip
@samples(max_tokens=256)
@click.option("--parallel", type=click.IntRange(1, 256), default=16, show_default=True, help="Prompts at a time.")
@click.option("--resume", is_flag=True, help="Continue a killed run, with its date; requires -o.")
@chats
@loads_a_model
@OUTPUT
@FORCE
@JSON
def generate(
    words: tuple[str, ...],
    lam: str | None,
    extrapolate: bool,
    pair: tuple[str, str] | None,
    prompts: str | None,
    options: GenerationOptions,
    parallel: int,
    chat: ChatOptions,
    resume: bool,
    weight_type: str,
    engine: EngineOptions,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Answer questions with MODEL through its chat template.

    MODEL is FILE.gguf, PAIR@LAM, or a pair with --lam. QUESTION is a question in quotes, `-` for one on standard input,
    or a file: .txt with one prompt a line, or .json or .jsonl.

    The answers to questions are printed as text. With --prompts, --json or -o they are AlpacaEval's model_outputs.

    A JSON file has objects with `instruction` and optionally `input` (or `context`), which is appended to the
    instruction after an empty line; `system`, the prompt's own system prompt; and `dataset`.

    With -o, finished answers are kept: after a kill or Ctrl-C, the same command with --resume continues.

    \b
    pa-lite generate demo@0.7 "One word only: what does Tobi do?"
    git diff | pa-lite generate model.gguf --system "Write a commit message." -
    pa-lite generate demo@0.7 --prompts demo -o outputs.json
    """
    from pa_lite.api.files import check_target
    from pa_lite.api.models import check_prompts
    from pa_lite.api.options import resolve_model

    named, questions = model_and_questions(words, pair, "MODEL", prompts is not None)
    model = resolve_model(named, lam, extrapolate)
    if output is not None:
        check_target(output, force)
    elif resume:
        raise InputError("--resume requires -o, the file to continue.")
    loaded = prompts_of(questions, prompts)
    check_prompts(loaded, chat.system)  # before a model is loaded
    options = replace(options, parallel=parallel)
    if output is None and prompts is None and not as_json:
        with pa_lite.load(model, engine, weight_type) as opened:
            show_answers(opened, loaded, options, chat)
        return
    with pa_lite.load(model, engine, weight_type) as opened:
        note_plain_prompts(opened)
        kept = (
            f"finished answers are kept next to {output}; add --resume to continue." if output else "nothing was kept."
        )
        with bar("generate", kept) as progress:
            if output is not None:
                written = opened.write_outputs(
                    loaded, output, options, resume=resume, force=force, chat=chat, progress=progress,
                )  # fmt: skip
            else:
                made = opened.generate(loaded, options, chat=chat, progress=progress)
    if output is None:
        show_json([each.document() for each in made])
    elif as_json:
        show_json(asdict(written))
    else:
        if written.n_resumed:
            tell(f"{written.n_resumed} of {written.n} answers are from an earlier run.", err=True)
        note_unended_reasoning(written.reasons["reasoning"] + written.n_reasoning_cut, written.n)
        tell(written.path)


def prompts_of(questions: Sequence[str], prompts: str | None = None) -> list[Prompt]:
    """Return the prompts of words, or of --prompts. Raises click's usage error for neither and for both."""
    from pa_lite.api.models import read_questions

    if prompts is not None:
        if questions:
            raise click.UsageError("questions and --prompts are both given: leave one of them out.")
        return pa_lite.load_prompts(prompts)
    if not questions:
        raise click.UsageError(
            'a question is missing, such as "What is a lark?". - reads standard input, --prompts a file.'
        )
    if len(questions) > 2 and not any(" " in word for word in questions):
        tell(f"note: these are {len(questions)} questions. Quote one of several words.", err=True)
    return read_questions(questions, sys.stdin.buffer)


class OrderedAnswers:
    """Prints answers that grow at the same time one after the other, each with a heading if there are several."""

    def __init__(self, prompts: Sequence[Prompt], when_cut: str) -> None:
        self._prompts, self._when_cut = prompts, when_cut
        self._waiting: dict[int, list[OutputPiece]] = {}
        self._current = -1
        self._start_next()

    def _start_next(self) -> None:
        self._current += 1
        self._printer = AnswerPrinter()
        if 1 < len(self._prompts) > self._current:
            show_heading(self._prompts[self._current].instruction, is_first=not self._current)

    def add(self, piece: OutputPiece) -> None:
        """Print a piece if it is its answer's turn, or keep it."""
        self._waiting.setdefault(piece.index, []).append(piece)
        while (ready := self._waiting.pop(self._current, None)) is not None:
            for each in ready:
                self._printer.add(each)
            if ready[-1].finish_reason:
                self._printer.end(note_of(ready[-1].finish_reason, self._when_cut))
                self._start_next()


def show_answers(model: LoadedModel, prompts: Sequence[Prompt], options: GenerationOptions, chat: ChatOptions) -> None:
    """Print the answers to prompts as they are generated."""
    note_plain_prompts(model)
    printed = OrderedAnswers(prompts, f"[cut at {options.max_tokens} tokens: --max-tokens]")
    try:
        model.generate(prompts, options, chat=chat, on_piece=printed.add)
    except KeyboardInterrupt:
        tell("")
        raise


def note_unended_reasoning(n: int, total: int) -> None:
    if n:
        tell(f"note: {n} of {total} answers are empty: the model was still reasoning. Raise --max-tokens.", err=True)


def note_plain_prompts(model: LoadedModel) -> None:
    if not model.has_template:
        tell(f"note: {model.name} has no chat template: prompts are 'Instruction: ... Response:'.", err=True)
