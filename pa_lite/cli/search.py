"""The command `search`: the best lam with part of a sweep's evaluations."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import pa_lite
from pa_lite.cli.bars import bar
from pa_lite.cli.help import command
from pa_lite.cli.options import GPU, JSON, PROBE, THREADS, takes_pair
from pa_lite.cli.study import measured, note_instructions, show_choice, show_estimate, study_options
from pa_lite.cli.terminal import quoted, show_json, show_table, tell

if TYPE_CHECKING:
    from pa_lite import ChatOptions, Goal
    from pa_lite.api.options import PairLike
    from pa_lite.api.searching import Found, Schedules


def parse_sure(_context: click.Context, _parameter: click.Parameter, text: str) -> float | None:
    """Return the value of --sure. Raises BadParameter unless it is a number or `none`."""
    if text.lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a number or none.") from None


@command("Find the best lam with fewer measurements")
@takes_pair
@measured()
@click.option("--keep-follow", type=float, metavar="SHARE", help="Share of instruct's following to keep, such as 0.95.")
@click.option(
    "--sure", callback=parse_sure, default="0.95", show_default=True, metavar="SHARE|none",
    help="Keep it in this share of resamplings of the prompts; none takes the point estimate.",
)  # fmt: skip
@click.option("--weight", type=float, default=0.0, help="Weight of instruction following in the goal, 0 to 1.")
@click.option(
    "--budget", type=float, metavar="SHARE",
    help="Share of a sweep's evaluations to spend; by default 0.4, or all of them where there are too few items.",
)  # fmt: skip
@click.option("--schedules", is_flag=True, help="Then compare coarse schedules (one lam per tensor group) around it.")
@click.option(
    "--run", "folder", type=click.Path(path_type=Path), help="Folder for the results; by default PAIR-search."
)
@click.option("--dry-run", is_flag=True, help="Show the evaluations planned, and estimates of memory and time.")
@GPU
@PROBE
@THREADS
@JSON
def search(
    pair: PairLike,
    keep_follow: float | None,
    sure: float | None,
    weight: float,
    budget: float | None,
    schedules: bool,
    folder: Path | None,
    dry_run: bool,
    as_json: bool,
    **words: Any,
) -> None:
    """Find PAIR's best lam for a goal, and its confidence, with a fraction of a sweep's evaluations.

    PAIR is a registered name, or BASE and INSTRUCT. Evaluations are kept in a folder: after a kill or Ctrl-C, the same
    command continues.

    Without labelled data, the bits per byte of --text take the place of few-shot accuracy, and the agreement with
    instruct's answers to --prompts that of following; shares and weights are then of the agreement beyond base's.

    \b
    pa-lite search demo --tasks demo --follow demo --keep-follow 0.95
    pa-lite search llama-3.2-1b --text ./my-notes --prompts --keep-follow 0.95
    """
    from pa_lite.api.searching import dated, measures_in_words, plan_search, search_folder

    note_instructions(pair, words["follow"], words["prompts"])
    options, goal = study_options(**words), pa_lite.Goal(weight, keep_follow, sure)
    limits = pa_lite.SearchOptions(budget=budget, seed=options.score.seed)
    folder = folder or search_folder(pair)
    if dry_run:
        show_estimate(plan_search(pair, options, goal, limits), as_json)
        return
    options = dated(options, folder)
    with bar("search", f"finished items are kept in {folder}; run the same command again to continue.") as progress:
        found, raced = pa_lite.search(pair, options, goal, limits, schedules, run=folder, progress=progress)
    if as_json:
        show_json(
            {
                "goal": asdict(goal),
                "chat": describe_chat(options.chat),
                "lam": _document(found),
                "schedules": asdict(raced) if raced else None,
            }
        )
        return
    show_found(found, goal)
    if raced is not None:
        show_schedules(raced)
    if raced is not None and raced.differs:
        show_choice(pair, raced.lam, f" --schedule {quoted(raced.text)}" if raced.text else "")
    else:
        show_choice(pair, found.lam if found.differs else None)
    tell(f"Results: {folder}; the same command shows them again.")
    if goal.keep_follow is None and sure != pa_lite.Goal.sure:
        tell("note: --sure is for --keep-follow, which was not given.", err=True)
    if (options.follow or options.prompts) and not goal.needs_follow:
        skill, following = measures_in_words(bool(found.text), bool(found.agreement))
        tell(f"note: {following} was measured, but the goal is {skill} alone: add --keep-follow 0.95 or --weight 0.5.",
             err=True)  # fmt: skip


def describe_chat(chat: ChatOptions) -> dict[str, Any]:
    return {**asdict(chat), "date": str(chat.date)}


def _document(found: Found) -> dict[str, Any]:
    """Return what was found as a JSON object, with the measures without labels where they were used."""
    out = asdict(found)
    return {name: value for name, value in out.items() if value or name not in ("text", "agreement")}


def show_found(found: Found, goal: Goal) -> None:
    from pa_lite.api.searching import measures_in_words, stand_ins
    from pa_lite.api.studies import items_in_words

    stands_in = bool(found.text), bool(found.agreement)
    told = goal.told(*measures_in_words(*stands_in))
    if found.differs:
        tell(f"Best for {told}: lam {found.lam:g}, within 0.1 with probability {found.confidence:.2f}.")
    else:
        step = ", or of 0.01 bits per byte" if found.text else ""
        tell(f"No measurable difference between the lams for {told}; {items_in_words(found.needed)}{step}.")
    rows = [
        [f"{lam:g}", f"{found.text[i]:.3f}" if found.text else f"{100 * found.few_shot[i]:.1f}",
         f"{100 * (found.follow or found.agreement)[i]:.1f}" if found.follow or found.agreement else "",
         f"{100 * found.evaluated[i]:.0f}"]
        for i, lam in enumerate(found.lams)
    ]  # fmt: skip
    marked = found.lams.index(found.lam) if found.differs else None
    how = "" if found.is_grid else " (smoothed)"
    skill, following = "text bits/byte" if found.text else "few-shot %", "agreed %" if found.agreement else "followed %"
    show_table(["lam", f"{skill}{how}", f"{following}{how}", "items seen %"], rows, marked=marked)
    if words := stand_ins(*stands_in):
        tell(f"{words[0].upper()}{words[1:]}.")
    tell(f"{found.spent} item evaluations, of {found.grid} for the whole grid ({100 * found.spent / found.grid:.0f}%).")


def show_schedules(raced: Schedules) -> None:
    from pa_lite.api.studies import items_in_words

    best = f"schedule {raced.text!r} at lam {raced.lam:g}" if raced.text else f"no schedule, lam {raced.lam:g} alone"
    spent = f"{raced.spent} of {raced.grid} evaluations"
    if raced.differs:
        tell(f"Schedules: {best}, best with probability {raced.confidence:.2f}; {spent}.")
    else:
        tell(
            f"Schedules: no measurable difference between the schedules and lam {raced.lam:g} alone; "
            f"{items_in_words(raced.needed)}; {spent}."
        )
