"""The commands `sweep`, `search`, `report` and `demo`: the trade-off along lam."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import pa_lite
from pa_lite.cli.bars import bar
from pa_lite.cli.completers import files, instruction_sets, models, prompts, runs, task_names, weight_types
from pa_lite.cli.help import command
from pa_lite.cli.options import (
    CALIBRATION,
    EXTRAPOLATE,
    FORCE,
    GPU,
    JSON,
    PROBE,
    SEEDS,
    THREADS,
    chats,
    check_named,
    parse_size,
    takes_examples,
    takes_pair,
)
from pa_lite.cli.terminal import number, quoted, show_json, show_next, show_table, tell

if TYPE_CHECKING:
    from pa_lite import ChatOptions, Estimate, Examples, StudyOptions
    from pa_lite.api.options import PairLike
    from pa_lite.api.studies import Curves, Reading, StudyLike


def measured(
    type_help: str = "Weight types, comma-separated.", default_type: str = "F16"
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds the options for what is measured; `study_options` turns them into StudyOptions."""
    options: list[Callable[[Callable[..., Any]], Callable[..., Any]]] = [
        click.option("--lam", "lams", default="0:1:0.1", show_default=True, help="L,L,... or LO:HI:STEP, increasing."),
        EXTRAPOLATE,
        click.option("--tasks", shell_complete=task_names,
                     help="Tasks, suites or .toml files, comma-separated."),
        takes_examples("--output", "--output-column"),
        click.option("--text", type=click.Path(path_type=Path), multiple=True, metavar="FILE|DIR", shell_complete=files,
                     help="Without labels: also measure the bits per byte of plain text, the few-shot side. "
                     "Can be repeated; a .jsonl file has a text in each row."),
        click.option("--text-limit", default="100K", show_default=True, callback=parse_size, metavar="SIZE",
                     help="Score up to SIZE bytes of text, in evenly spaced windows; 0: all."),
        click.option("--prompts", metavar="PROMPTS", is_flag=False, flag_value="everyday", default="",
                     shell_complete=prompts,
                     help="Without labels: also measure the agreement with instruct's own answers, the instruction "
                     "side: to prompts everyday (the default), demo, alpaca-eval or a file."),
        click.option("--prompts-limit", type=click.IntRange(1), help="Use N evenly spaced prompts."),
        click.option("--follow", metavar="SET", is_flag=False, flag_value="public", default="",
                     shell_complete=instruction_sets,
                     help="Also measure instruction following: public (the default), demo, ifeval or a file."),
        click.option("--follow-limit", type=click.IntRange(1), help="Use N evenly spaced instructions."),
        click.option("--type", "types", default=default_type, show_default=bool(default_type),
                     shell_complete=weight_types, help=type_help),
        click.option("--shots", type=click.IntRange(0), help="Exemplars in each prompt; by default the task's."),
        click.option("--limit", type=click.IntRange(1), help="Items of each task; by default all."),
        click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the exemplars."),
        click.option("--schedule", default="", metavar="RULES|FILE.toml", shell_complete=files,
                     help="Other lams for groups and layers."),
    ]  # fmt: skip

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        command = chats(command)
        for option in reversed(options):
            command = option(command)
        return command

    return add


def note_instructions(pair: PairLike, follow: str, prompts: str = "") -> None:
    """Say that the demo pair cannot follow the public instructions, or answer everyday prompts."""
    if pair == "demo" and follow == "public":
        tell("note: the demo pair knows only its own instructions: use --follow demo.", err=True)
    if pair == "demo" and prompts == "everyday":
        tell("note: the demo pair knows only its own instructions: use --prompts demo.", err=True)


def study_options(
    lams: str, tasks: str | None, examples: Examples | None, follow: str, follow_limit: int | None, types: str,
    shots: int | None, limit: int | None, seed: int, schedule: str, threads: int, gpu_layers: Any, probe: bool,
    chat: ChatOptions, extrapolate: bool, text: tuple[Path, ...], text_limit: int, prompts: str,
    prompts_limit: int | None, seeds: int = 1,
) -> StudyOptions:  # fmt: skip
    check_named(tasks, examples, text, prompts, others=", --text or --prompts")
    from pa_lite.api.options import parse_lams, read_schedule
    from pa_lite.api.tasks import split_names

    return pa_lite.StudyOptions(
        lams=parse_lams(lams, extrapolate), extrapolate=extrapolate,
        tasks=() if tasks is None else split_names(tasks), examples=examples, text=text, text_limit=text_limit,
        prompts=prompts, prompts_limit=prompts_limit,
        types=split_names(types, "types"), follow=follow, follow_limit=follow_limit, schedule=read_schedule(schedule),
        chat=chat, score=pa_lite.ScoreOptions(shots=shots, limit=limit, seed=seed, seeds=seeds),
        engine=pa_lite.EngineOptions(threads=threads, gpu_layers=gpu_layers, probe=probe),
    )  # fmt: skip


@command("Measure a pair at every lam")
@takes_pair
@measured()
@SEEDS
@click.option(
    "--alpaca", metavar="PROMPTS", is_flag=False, flag_value="alpaca-eval", default="", shell_complete=prompts,
    help="Also generate answers for the judge: alpaca-eval (the default) or a file of prompts.",
)  # fmt: skip
@click.option("--alpaca-limit", type=click.IntRange(1), help="Use the first N prompts; by default all.")
@click.option(
    "--judge", default="", metavar="MODEL", shell_complete=models,
    help="Model that compares the answers: FILE.gguf or PAIR@LAM.",
)  # fmt: skip
@click.option(
    "--reference", type=click.Path(path_type=Path), metavar="OUTPUTS",
    help="Reference outputs to compare with; by default the answers at lam 1.",
)  # fmt: skip
@CALIBRATION
@click.option("--run", "folder", type=click.Path(path_type=Path), help="Folder for the results; by default PAIR-study.")
@click.option(
    "--backend", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="Where cells run."
)
@click.option("--engine", "old_backend", type=click.Choice(["local", "ray"]), hidden=True)  # as in 0.1.0
@click.option("--address", help="Address of a Ray cluster; by default a local one is started.")
@click.option(
    "--keep-stale", is_flag=True, help="Keep results of outdated inputs instead of measuring again; the report says so."
)
@click.option("--dry-run", is_flag=True, help="Show the number of cells, and estimates of memory, disk space and time.")
@GPU
@PROBE
@THREADS
@JSON
def sweep(
    pair: PairLike,
    alpaca: str,
    alpaca_limit: int | None,
    judge: str,
    reference: Path | None,
    calibration: Path | None,
    folder: Path | None,
    backend: str,
    old_backend: str | None,
    address: str | None,
    keep_stale: bool,
    dry_run: bool,
    as_json: bool,
    **words: Any,
) -> None:
    """Measure PAIR at every lam: few-shot tasks, and with --follow instruction following. Run it again to resume.

    Without labelled data, --text and --prompts show the trade-off: bits per byte of your own text, and how many tokens
    of instruct's own greedy answers each lam would choose too. They stand in for few-shot accuracy and for following.

    PAIR is a registered name, or BASE and INSTRUCT. A judge's preferences rank lams only where --calibration shows that
    the judge agrees with known preferences more often than answer length does. If fewer than 20 of the judged pairs are
    in its FILE, the judge judges the pairs of FILE too.

    \b
    pa-lite sweep demo --tasks demo --follow demo
    pa-lite sweep demo --examples my.csv
    pa-lite sweep llama-3.2-1b --lam 0:1:0.1 --tasks quick --follow --run my-run
    pa-lite sweep llama-3.2-1b --text ./my-notes --prompts
    """
    from pa_lite.api.studies import run_folder

    note_instructions(pair, words["follow"], words["prompts"])
    options = replace(
        study_options(**words), alpaca=alpaca, alpaca_limit=alpaca_limit, judge=judge, reference=reference,
        calibration=calibration,
    )  # fmt: skip
    folder = folder or run_folder(pair)
    if dry_run:
        show_estimate(pa_lite.plan_sweep(pair, options, folder, keep_stale), as_json, is_judged=bool(judge))
        return
    with bar("sweep", f"finished items are kept in {folder}; run the same command again to continue.") as progress:
        study = pa_lite.sweep(
            pair, options, folder, backend=old_backend or backend, address=address, keep_stale=keep_stale,
            progress=progress,
        )  # fmt: skip
    show_study(study, as_json)
    if not as_json:
        tell(f"Results: {folder}")
        show_choice(pair, best_of(study), see_it=f"pa-lite report {quoted(folder)}")


def words_of(pair: PairLike) -> str:
    """Return a pair as on the command line."""
    words = (pair,) if isinstance(pair, str) else (pair.base, pair.instruct) if isinstance(pair, pa_lite.Pair) else pair
    return " ".join(map(quoted, words))


def show_choice(pair: PairLike, lam: float | None, more: str = "", **others: str) -> None:
    """Print the command that makes the model at the best lam, or where no lam is best what to do; then others."""
    if lam is None:
        show_next(
            **others,
            undecided="the lams do not differ measurably. Measure more items, or start at lam 0.6: "
            f"pa-lite merge {words_of(pair)} --lam 0.6",
        )
        return
    end = {0.0: "   (the base model itself)", 1.0: "   (the instruct model itself)"}.get(lam, "")
    show_next(**others, make_it=f"pa-lite merge {words_of(pair)} --lam {lam:g}{more}{end}")


def best_of(study: StudyLike) -> float | None:
    """Return the best lam of the first reading that has one, if any."""
    from pa_lite.api.studies import readings

    return next((r.best.lam for r in readings(study.curves) if r.best is not None), None)


def show_estimate(found: Estimate, as_json: bool, is_judged: bool = False) -> None:
    if as_json:
        show_json(asdict(found))
        return
    tell(f"{found.cells} cells, {found.items} items, {found.items_left} of them to be measured")
    for label, reasons in (("to be measured again", found.stale), ("kept (--keep-stale)", found.kept)):
        for reason, names in reasons.items():
            tell(f"{label}: {', '.join(names)}; reason: {reason}")
    tell(
        f"about {found.memory / 1e6:.0f} MB of memory for {found.workers} model(s) at a time "
        f"({found.memory_available / 1e6:.0f} MB are free); about {found.disk / 1e6:.1f} MB of disk"
    )
    if found.memory > found.memory_available:
        tell("note: that is more than is free. Models that do not fit are merged to a temporary file, which is slower.")
    if found.seconds is not None:
        judged = ", without the judge" if is_judged else ""
        tell(f"about {found.seconds:.0f} s, estimated from a few items on this machine{judged}")
    if found.calibration:
        tell(
            f"the judge also judges the {found.calibration} pairs of --calibration, unless at least 20 of them are "
            "among the study's"
        )


def show_study(study: StudyLike, as_json: bool) -> None:
    from pa_lite.api.studies import conclusion, readings, to_document

    if as_json:
        show_json(to_document(study))
        return
    found = readings(study.curves)
    show_curves(study.curves, found)
    tell(conclusion(study.curves))
    for reading in found:
        tell(f"- {reading.sentence}")
    for remark in study.remarks:
        tell(f"note: {remark}")


def show_curves(curves: Curves, found: Sequence[Reading]) -> None:
    """Print every average by lam; lams that are best in a reading are labelled, the first reading's in bold."""
    from pa_lite.api.studies import averages, labels

    shown, marks = averages(curves), labels(found)
    rows = [
        [f"{lam:g}", *(number(x, a.measure) for a in shown for x in (a.estimates[i].value, a.estimates[i].stderr)),
         ", ".join(marks.get(lam, []))]
        for i, lam in enumerate(curves.lams)
    ]  # fmt: skip
    lead = found[0].best if found else None
    columns = ["lam", *(text for each in shown for text in (each.measure.column, "s.e.")), ""]
    show_table(columns, rows, marked=None if lead is None else curves.lams.index(lead.lam))


@command("Write a study as an HTML page, figures, CSV")
@click.argument("run", shell_complete=runs)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Path of the page; by default report.html in RUN."
)
@click.option("--png", type=click.Path(path_type=Path, file_okay=False), help="Write the figures to this folder.")
@click.option("--csv", "csv_path", type=click.Path(path_type=Path), help="Write every item as CSV.")
@click.option("--lm-eval", type=click.Path(path_type=Path, file_okay=False), help="Write lm-eval results files here.")
@click.option("--type", "weight_type", help="Weight type; by default the first measured.")
@CALIBRATION
@FORCE
@JSON
def report(
    run: str,
    output: Path | None,
    png: Path | None,
    csv_path: Path | None,
    lm_eval: Path | None,
    weight_type: str | None,
    calibration: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write the study in RUN as a self-contained HTML page; optionally figures, CSV, and lm-eval results files.

    RUN is a run folder, or a pair's name for its newest default run folder.

    --calibration compares the study's judge with the preferences that FILE has for some of the judged pairs. The files
    of --lm-eval have the tasks only, not what was measured without labels.

    \b
    pa-lite report demo-study -o trade-off.html --png figures
    """
    from pa_lite.api.studies import write_report

    written, study = write_report(
        run,
        pa_lite.ReportOptions(
            output=output,
            png=png,
            csv=csv_path,
            lm_eval=lm_eval,
            type=weight_type,
            calibration=calibration,
            force=force,
        ),
    )
    if as_json:
        show_study(study, as_json)
    else:
        for path in written:
            tell(str(path))


@command("Study the embedded pair, offline, in a minute")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("pa-lite-demo"), show_default=True,
    help="Folder for the study, results.json, chart.svg and report.html.",
)  # fmt: skip
@JSON
def demo(output: Path, as_json: bool) -> None:
    """Measure the embedded pair at lam 0, 0.1, ..., 1, offline, and show the trade-off."""
    from pa_lite.api.studies import conclusion, readings

    with bar("demo", f"finished items are kept in {output}; run the same command again to continue.") as progress:
        result = pa_lite.demo(output, progress)
    if as_json:
        show_json(json.loads(result.results.read_text("utf-8")))
        return
    curves = result.study.curves
    found = readings(curves)
    for reading in found[:2]:
        tell(reading.sentence)
    show_curves(curves, found[:2])
    tell(conclusion(curves))
    tell(f"Results: {result.results}   Chart: {result.chart}")
    tell(f"Report: {result.report}")
    show_choice("demo", best_of(result.study))
