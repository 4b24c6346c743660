"""The command `tune`: from a pair and your own rows, tasks or text to a GGUF file."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import pa_lite
from pa_lite.cli.bars import bar, duration
from pa_lite.cli.help import command
from pa_lite.cli.options import GPU, JSON, PROBE, THREADS, takes_pair
from pa_lite.cli.search import parse_sure
from pa_lite.cli.study import measured, note_instructions, study_options, words_of
from pa_lite.cli.terminal import each_remark_once, is_terminal, quoted, show_json, show_next, tell, tell_prose

if TYPE_CHECKING:
    from pa_lite import Tuned, TunePlan
    from pa_lite.api.options import PairLike

_NEXT = "next: c chat, s serve, m compare, p share (push), Enter nothing"


@command("Find the lam for your own use, and write the model")
@takes_pair
@measured("Weight type of the file; by default Q4_K_M from a billion parameters on, else Q8_0.", "")
@click.option("--keep-follow", type=float, metavar="SHARE",
              help="Share of instruct's following to keep; by default 0.95 with --follow or --prompts.")  # fmt: skip
@click.option(
    "--sure", callback=parse_sure, default="0.95", show_default=True, metavar="SHARE|none",
    help="Keep it in this share of resamplings of the prompts; none takes the point estimate.",
)  # fmt: skip
@click.option("--weight", type=float, help="Weight of instruction following in the goal, 0 to 1.")
@click.option(
    "-o", "folder", type=click.Path(path_type=Path), metavar="DIR",
    help="Folder for the file, report and model card; by default PAIR-tuned.",
)  # fmt: skip
@click.option("--yes", is_flag=True, help="Start without asking.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and estimates of time, memory and disk.")
@GPU
@PROBE
@THREADS
@JSON
def tune(
    pair: PairLike,
    keep_follow: float | None,
    sure: float | None,
    weight: float | None,
    folder: Path | None,
    yes: bool,
    dry_run: bool,
    as_json: bool,
    types: str,
    **words: Any,
) -> None:
    """Find PAIR's lam for your own use, and write the model with a report and a model card.

    PAIR is a registered name, or BASE and INSTRUCT. What it is for: rows of your own (--examples, thirty are enough to
    start), tasks, or plain text. A little text at every lam narrows the search, which measures 40% of the lams or
    fewer. A quarter of the items is held out, and the written file is scored on them. The same command continues after
    an interruption.

    \b
    pa-lite tune demo --examples my.csv
    pa-lite tune llama-3.2-1b --examples my.csv --follow --keep-follow 0.95 -o my-model
    """
    from pa_lite.api.tuning import plan_tune, tune_folder

    note_instructions(pair, words["follow"], words["prompts"])
    options = study_options(types="F16", **words)
    goal = None
    if keep_follow is not None or weight is not None:
        goal = pa_lite.Goal(weight or 0.0, keep_follow, sure)
    elif options.follow or options.prompts:
        goal = pa_lite.Goal(0.0, 0.95, sure)
    folder = folder or tune_folder(pair)
    asks = sys.stdin.isatty() and not yes and not as_json
    with each_remark_once():
        if dry_run or not as_json:
            plan = plan_tune(pair, options, goal, folder, types)
            if dry_run and as_json:
                show_json({**asdict(plan), "folder": str(plan.folder)})
                return
            show_plan(plan)
        if dry_run:
            return
        if asks:
            click.confirm("Start?", default=True, abort=True, err=True)
        with bar("tune", f"finished items are kept in {folder}; run the same command again to continue.") as progress:
            done = pa_lite.tune(pair, options, goal, folder, type=types, progress=progress)
    if as_json:
        show_json(_document(done))
        return
    for sentence in done.sentences:
        tell_prose(sentence)
    for path in (done.path, done.report, done.card):
        tell(str(path))
    show_next(**_next(pair, done))
    if sys.stdin.isatty() and is_terminal():
        _go_on(pair, done)


def show_plan(plan: TunePlan) -> None:
    """Print on stderr what a tuning would do, and what it costs."""
    items = ", ".join(f"{name} {n}" for name, n in plan.items.items())
    held = ", ".join(f"{name} {n}" for name, n in plan.held_out.items())
    tell(f"{plan.pair}, for {plan.goal.told()}: {plan.type} file in {plan.folder}", err=True)
    first = f"a little text at {plan.grid} lams (about {100 * plan.first_share:.0f}% of a sweep), then "
    tell(f"{first if plan.first_share else ''}{items} at {plan.lams} of {plan.grid} lams", err=True)
    tell(f"held out, to check the file: {held}", err=True)
    found = plan.estimate
    took = f"about {duration(found.seconds)} to measure; " if found.seconds else ""
    tell(
        f"{took}about {found.memory / 1e6:.0f} MB of memory ({found.memory_available / 1e6:.0f} MB are free); "
        f"{(plan.file_bytes + found.disk) / 1e6:.1f} MB of disk"
        + (f"; {plan.download_bytes / 1e9:.3g} GB to download" if plan.download_bytes else ""),
        err=True,
    )


def _document(done: Tuned) -> dict[str, Any]:
    """Return the result as a JSON object, without the study, which `pa-lite report` gives."""
    names = ("folder", "path", "report", "card")
    plain = {name: str(getattr(done, name)) for name in names}
    return {
        "lam": done.lam, **plain, "type": done.type, "choice": asdict(done.choice), "held_out": asdict(done.held_out),
        "bits_per_byte": done.bits_per_byte, "measured": done.measured, "share": done.share,
        "first_share": done.first_share, "sentences": done.sentences,
    }  # fmt: skip


def _next(pair: PairLike, done: Tuned) -> Mapping[str, str]:
    from pa_lite.api.sharing import next_commands

    file = quoted(done.path)
    compare = f"{'' if isinstance(pair, str) else '--pair '}{words_of(pair)} --lam {_lams(done)}"
    return {
        "chat": f"pa-lite chat {file}", "serve": f"pa-lite serve {file}",
        "compare": f'pa-lite compare {compare} "question"', "share": f"pa-lite push {quoted(done.folder)} ORG/NAME",
        **next_commands(done.path),
    }  # fmt: skip


def _lams(done: Tuned) -> str:
    return ",".join(f"{lam:g}" for lam in sorted({0.0, done.lam, 1.0}))


def _go_on(pair: PairLike, done: Tuned) -> None:
    """Ask on the terminal what to do next, and run that command."""
    choice = click.prompt(_NEXT, default="", show_default=False, err=True).strip().lower()[:1]
    if choice == "c":
        words = ["chat", str(done.path)]
    elif choice == "s":
        words = ["serve", str(done.path)]
    elif choice == "m":
        sides = words_list(pair)
        start = sides if len(sides) == 1 else ["--pair", *sides]
        words = ["compare", *start, "--lam", _lams(done), click.prompt("Question", err=True)]
    elif choice == "p":
        words = ["push", str(done.folder), click.prompt("Repository on the Hub (org/name)", err=True)]
    else:
        return
    context = click.get_current_context().find_root()
    context.command.main(words, prog_name=context.info_name, standalone_mode=False)


def words_list(pair: PairLike) -> list[str]:
    """Return a pair as the words of a command line."""
    if isinstance(pair, str):
        return [pair]
    return [str(side) for side in ((pair.base, pair.instruct) if isinstance(pair, pa_lite.Pair) else pair)]
