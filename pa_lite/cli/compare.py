"""The command `compare`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from pa_lite.cli.answers import show_heading
from pa_lite.cli.bars import bar
from pa_lite.cli.columns import show_comparison
from pa_lite.cli.completers import pairs_then_prompts
from pa_lite.cli.generate import prompts_of
from pa_lite.cli.help import command
from pa_lite.cli.options import (
    EXTRAPOLATE,
    JSON,
    PAIR,
    RESIDENT_MEMORY,
    chats,
    loads_a_model,
    model_and_questions,
    samples,
)  # fmt: skip
from pa_lite.cli.study import words_of
from pa_lite.cli.terminal import is_terminal, show_json, show_next, tell

if TYPE_CHECKING:
    from pa_lite import ChatOptions, EngineOptions, GenerationOptions
    from pa_lite.api.serving import LiveComparisons


@command("Answer questions at several lams, side by side")
@click.argument("words", nargs=-1, metavar="PAIR [QUESTION]...", shell_complete=pairs_then_prompts)
@click.option(
    "--lam", "lams", default="0,0.5,1", show_default=True, metavar="L[,L...]", help="The lams, also LO:HI:STEP."
)
@EXTRAPOLATE
@PAIR
@samples(max_tokens=256)
@chats
@loads_a_model
@RESIDENT_MEMORY
@JSON
def compare(
    words: tuple[str, ...],
    lams: str,
    extrapolate: bool,
    pair: tuple[str, str] | None,
    options: GenerationOptions,
    chat: ChatOptions,
    weight_type: str,
    engine: EngineOptions,
    max_memory: int,
    as_json: bool,
) -> None:
    """Answer questions at several lams of PAIR, computed together as far as the models fit in memory.

    PAIR is a registered name; two checkpoints are --pair BASE INSTRUCT. QUESTION is a question in quotes, `-` for one
    on standard input, or a file: .txt with one prompt a line, or .json or .jsonl. Answers are in columns where the
    terminal is wide enough, else below each other. Each is that of the model merged at its lam.

    \b
    pa-lite compare demo --lam 0,0.5,0.8,1 "One word only: what does Tobi do?"
    """
    from pa_lite.api.serving import start_comparison

    named, questions = model_and_questions(words, pair, "PAIR")
    prompts = prompts_of(questions)
    with contextlib.ExitStack() as stack:
        with bar("loading the pair") as progress:
            starting = start_comparison(
                named, prompts, options, weight_type, lams=lams, extrapolate=extrapolate, engine=engine, chat=chat,
                max_memory=max_memory, progress=progress,
            )  # fmt: skip
            live = stack.enter_context(starting)
        if as_json:
            show_json(live.result().document())
            return
        show_comparisons(live, f"[cut at {options.max_tokens} tokens: --max-tokens]")
        middle = min(live.lams, key=lambda lam: abs(lam - 0.6))
    if is_terminal():
        tell("", err=True)
    show_next(chat_at_one_of_them=f"pa-lite chat {words_of(named)} --lam {middle:g}")


def show_comparisons(live: LiveComparisons, when_cut: str) -> None:
    """Print each question, if there are several, and its answers."""
    for number, each in enumerate(live.each):
        if len(live.each) > 1:
            show_heading(each.question, is_first=not number)
        show_comparison(each, when_cut)
