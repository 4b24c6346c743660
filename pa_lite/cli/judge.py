"""The commands `judge` and `winrate`: a model compares two output files; win rates from its annotations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

import pa_lite
from pa_lite.cli.bars import bar
from pa_lite.cli.completers import models
from pa_lite.cli.help import command
from pa_lite.cli.options import CALIBRATION, FORCE, JSON, OUTPUT, chats, loads_a_model
from pa_lite.cli.terminal import percent, show_json, show_table, tell

if TYPE_CHECKING:
    from pa_lite import ChatOptions, EngineOptions, Judging, WinRate
    from pa_lite.api.judging import JudgeCheck, Mean


@command("Let a model compare two sets of answers")
@click.argument("outputs", type=click.Path(path_type=Path))
@click.option("--reference", required=True, type=click.Path(path_type=Path), help="Outputs to compare with.")
@click.option(
    "--judge", "judge_model", required=True, shell_complete=models, help="Judge model: FILE.gguf or PAIR@LAM."
)
@click.option("--lam", metavar="L", help="The judge's lam, if --judge is a pair without one.")
@click.option("--limit", type=click.IntRange(1), help="Judge only the first N pairs.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Random seed for --one-order.")
@click.option("--one-order", is_flag=True, help="Ask in one random order per pair, instead of both orders.")
@CALIBRATION
@click.option("--allow-empty", is_flag=True, help="Judge empty outputs, too, instead of refusing them.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run, with its date.")
@chats
@loads_a_model
@OUTPUT
@FORCE
@JSON
def judge(
    outputs: Path,
    reference: Path,
    judge_model: str,
    lam: str | None,
    limit: int | None,
    seed: int,
    one_order: bool,
    calibration: Path | None,
    allow_empty: bool,
    resume: bool,
    chat: ChatOptions,
    weight_type: str,
    engine: EngineOptions,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Let a model compare OUTPUTS with reference outputs, each pair in both orders, and write AlpacaEval annotations.

    Both files are model_outputs, matched by instruction; reasoning before an answer is removed. --system,
    --template-arg and --date apply to the judge's prompts. By default the annotations are written to
    OUTPUTS-vs-REFERENCE.json in the working folder.

    --calibration compares the judge with the preferences in FILE: on the pairs that both have judged, if there are at
    least 20; otherwise the judge judges the pairs of FILE too.

    \b
    pa-lite judge outputs.json --reference instruct.json --judge judge.gguf -o annotations.json
    """
    from pa_lite.api.judging import annotations_path

    target = output or annotations_path(outputs, reference)
    options = pa_lite.JudgeOptions(limit=limit, seed=seed, both_orders=not one_order)
    with bar("judge", f"finished verdicts are kept next to {target}; add --resume to continue.") as progress:
        result = pa_lite.judge(
            outputs, reference, judge_model, target, calibration=calibration, options=options,
            allow_empty=allow_empty, resume=resume, force=force, lam=lam, type=weight_type, engine=engine, chat=chat,
            progress=progress,
        )  # fmt: skip
    if as_json:
        show_json({"annotations": str(target), **result.document()})
    else:
        show_judging(result)
        tell(f"{target}: see pa-lite winrate")


@command("Show the win rate of a judge's annotations")
@click.argument("annotations", type=click.Path(path_type=Path))
@click.option(
    "--length-control",
    type=click.Choice(["auto", "full", "minimal"]),
    default="auto",
    show_default=True,
    help="full: with AlpacaEval's instruction difficulties; minimal: without; auto: full if they are available.",
)
@click.option(
    "--alpaca-data",
    type=click.Path(path_type=Path),
    help="Folder with alpaca_eval.json and df_gamed.csv; by default they are downloaded from the Hub.",
)
@CALIBRATION
@JSON
def winrate(
    annotations: Path, length_control: str, alpaca_data: Path | None, calibration: Path | None, as_json: bool
) -> None:
    """Show the win rate of ANNOTATIONS, its standard error, and the length-controlled win rate, as in AlpacaEval.

    --calibration compares the judge with the preferences that FILE has for some of the same pairs.

    \b
    pa-lite winrate annotations.json
    """
    result = pa_lite.win_rate(annotations, length_control, alpaca_data, calibration)
    if as_json:
        show_json(asdict(result))
    else:
        show_win_rate(result)


def show_judging(result: Judging) -> None:
    bias, pairing = result.bias, result.pairing
    rows = [["prefers the model", *_percent(result.win_rate)]]
    rows.append(["prefers the answer shown first", *_percent(bias.first_shown)])
    if bias.agreement is not None:
        rows.append(["agrees in both orders", *_percent(bias.agreement)])
    if bias.answer_mass is not None:
        rows.append(["probability on A or B", percent(bias.answer_mass), ""])
    tell(f"{pairing.model} against {pairing.reference}, judged by {result.judge}")
    show_table(["", "%", "s.e."], rows)
    long = f"; {bias.n_too_long} not judged: too long for the judge" if bias.n_too_long else ""
    tell(
        f"{bias.n_pairs} pairs: {bias.n_asked} asked, {bias.n_ties} of them ties; "
        f"{bias.n_identical} identical answers{long}."
    )
    if result.n_resumed:
        tell(f"{result.n_resumed} of {bias.n_pairs} verdicts are from an earlier run.", err=True)
    if pairing.n_left:
        tell(f"note: {pairing.n_left} instructions are only in the reference outputs.", err=True)
    show_trust(result.judge_signs, result.judge_check)


def show_trust(signs: Sequence[str], check: JudgeCheck | None) -> None:
    """Print the comparison of a judge with known preferences, or that there was none, and its warning signs."""
    if check is None:
        tell("The judge was not compared with known preferences (--calibration FILE).")
    else:
        tell(f"Calibration: {check}.")
        if check.win_rate is not None:
            value, error = _percent(check.win_rate)
            tell(f"Win rate adjusted by the known preferences: {value}% (s.e. {error}).")
    for sign in signs:
        tell(f"warning: {sign}.", err=True)


def _percent(share: Mean | None) -> tuple[str, str]:
    return ("-", "-") if share is None else (percent(share.value), percent(share.stderr))


def show_win_rate(result: WinRate) -> None:
    rows = [
        ["win rate", percent(result.win_rate / 100, 2), percent(result.standard_error / 100, 2)],
        [
            "discrete win rate",
            percent(result.discrete_win_rate / 100, 2),
            percent(result.discrete_standard_error / 100, 2),
        ],
    ]
    controls = {
        "length-controlled win rate": result.length_controlled_winrate,
        "length-controlled win rate (minimal)": result.length_controlled_minimal_winrate,
    }
    rows += [[name, f"{c.value:.2f}", f"{c.fit_stderr:.2f}"] for name, c in controls.items() if c is not None]
    tell(f"{result.model} against {result.reference}, judged by {result.annotator}")
    show_table(["", "%", "s.e."], rows)
    unjudged = f"; {result.n_unjudged} not judged" if result.n_unjudged else ""
    tell(
        f"{result.n_total} pairs: {result.n_wins} wins, {result.n_wins_base} losses, {result.n_draws} draws{unjudged}."
    )
    tell(f"Average length: {result.avg_length:.0f} characters, the reference's {result.avg_length_reference:.0f}.")
    note = f" ({result.length_controlled_note})" if result.length_controlled_note else ""
    tell(f"Length control: {result.length_controlled_form or 'none'}{note}.")
    show_trust(result.judge_signs, result.judge_check)
