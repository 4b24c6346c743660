"""Preferences: a model judges two files of outputs; win rates are computed from its annotations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pa_lite.alpaca.annotations import read_annotations
from pa_lite.alpaca.calibration import JudgeCheck
from pa_lite.alpaca.judge import JudgeOptions
from pa_lite.alpaca.judging import Judging, judge_outputs
from pa_lite.alpaca.known import Known, read_known
from pa_lite.alpaca.outputs import generator_name
from pa_lite.alpaca.pairing import pair_outputs
from pa_lite.alpaca.win_rate import WinRate, find_length_data
from pa_lite.alpaca.win_rate import win_rate as rate_annotations
from pa_lite.api.options import (
    ChatOptions,
    Date,
    EngineOptions,
    ModelLike,
    Progress,
    fill,
    model_type,
    path_of,
    resolve_model,
)  # fmt: skip
from pa_lite.engine.model_reference import open_model
from pa_lite.statistics import Mean
from pa_lite.system.atomic import check_target

__all__ = ["JudgeCheck", "JudgeOptions", "Judging", "Mean", "WinRate", "annotations_path", "judge", "win_rate"]


def annotations_path(outputs: str | Path, reference: str | Path) -> Path:
    """Return the default annotations file: OUTPUTS-vs-REFERENCE.json in the working folder."""
    return Path(f"{Path(outputs).stem}-vs-{Path(reference).stem}.json")


def judge(
    outputs: str | Path,
    reference: str | Path,
    judge: ModelLike,
    output: str | Path | None = None,
    *,
    calibration: str | Path | None = None,
    options: JudgeOptions | None = None,
    limit: int | None = None,
    seed: int | None = None,
    both_orders: bool | None = None,
    allow_empty: bool = False,
    resume: bool = False,
    force: bool = False,
    lam: float | str | None = None,
    type: str | None = None,
    engine: EngineOptions | None = None,
    threads: int | None = None,
    gpu_layers: int | str | None = None,
    flash_attention: bool | None = None,
    cache_type: str | None = None,
    n_batch: int | None = None,
    n_ctx: int | None = None,
    probe: bool | None = None,
    chat: ChatOptions | None = None,
    system: str | None = None,
    template_args: Mapping[str, Any] | None = None,
    date: Date | None = None,
    progress: Progress | None = None,
) -> Judging:
    """Let the model `judge` compare two model_outputs files by instruction, and write AlpacaEval annotations.

    `output` is the annotations file, by default `annotations_path`. `allow_empty` judges empty outputs too instead of
    refusing them. `calibration` is an annotations file by people or a strong judge, with which this judge is compared:
    on the pairs that both have judged, or on all pairs of that file if fewer than 20 are. `resume` continues an
    interrupted run; `force` overwrites an existing file. `lam` and `type` apply if the judge is a pair. The other
    keywords are the fields of `JudgeOptions`, `EngineOptions`, and `ChatOptions` (for the judge's prompts). `progress`
    gets the prompts done. Raises PaLiteError.
    """
    words = locals()
    target = annotations_path(outputs, reference) if output is None else Path(output)
    check_target(target, force)
    known = _known(calibration)
    chosen, how, runs = (
        fill(JudgeOptions, words, options), fill(ChatOptions, words, chat), fill(EngineOptions, words, engine)
    )  # fmt: skip
    decider = resolve_model(judge, lam)
    pairing = pair_outputs(Path(outputs), Path(reference), allow_empty)
    with open_model(decider, runs, model_type(type)) as model:
        name = generator_name(str(decider))
        return judge_outputs(model, name, pairing, target, chosen, resume, force, progress, how, known)


def win_rate(
    annotations: str | Path,
    length_control: str = "auto",
    alpaca_data: str | Path | None = None,
    calibration: str | Path | None = None,
) -> WinRate:
    """Compute AlpacaEval's win rate of an annotations file, its standard error, and the length-controlled win rate.

    `length_control` is `full` (with AlpacaEval's instruction difficulties), `minimal` (without), or `auto` (`full` if
    the difficulties are available, from the folder `alpaca_data` or the Hub). `calibration` is an annotations file with
    preferences by people or a strong judge for some of the pairs, with which the judge is compared. Raises PaLiteError.
    """
    read, known = read_annotations(Path(annotations)), _known(calibration)
    return rate_annotations(read, *find_length_data(read, length_control, path_of(alpaca_data)), known)


def _known(calibration: str | Path | None) -> Known | None:
    return None if calibration is None else read_known(Path(calibration))
