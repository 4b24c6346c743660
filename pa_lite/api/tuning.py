"""Tuning: from a pair and rows, tasks or text of your own to a GGUF file at the lam for them, checked and described."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pa_lite.api.options import (
    ChatOptions,
    Date,
    EngineOptions,
    Lams,
    Names,
    Pair,
    PairLike,
    Progress,
    Schedule,
    fill,
    resolve_pair,
)  # fmt: skip
from pa_lite.api.studies import Paths, Study, open_study, study_options
from pa_lite.checkpoints.pairs import pair_fit
from pa_lite.errors import InputError, OutputError
from pa_lite.ggml.quant_types import type_name
from pa_lite.merging.plan import PlanOptions
from pa_lite.merging.write import MergeOptions, merge_checkpoints, output_bytes
from pa_lite.sharing.model_card import CARD, PICTURE, write_card
from pa_lite.study.estimate import Estimate
from pa_lite.study.goal import Goal
from pa_lite.study.plan import StudyOptions
from pa_lite.study.report.publish import ReportOptions, publish
from pa_lite.study.tune.choice import USUAL, Choice
from pa_lite.study.tune.run import (
    SEARCH,
    HeldOut,
    Searched,
    Tuning,
    estimate_tuning,
    held_key,
    plan_tuning,
    score_held_out,
    search_lams,
)  # fmt: skip
from pa_lite.study.tune.words import card_section, findings
from pa_lite.system.atomic import check_space, existing_parent, write_errors, write_text
from pa_lite.system.opening import MOST_TOML_BYTES, read_regular
from pa_lite.tasks.examples import Examples
from pa_lite.tasks.scoring import ScoreOptions
from pa_lite.untrusted.safe_names import file_name
from pa_lite.untrusted.strict_json import parse_json

__all__ = ["USUAL", "Choice", "HeldOut", "TunePlan", "Tuned", "findings", "plan_tune", "tune", "tune_folder"]

RECORD, REPORT = "tune.json", "report.html"


@dataclass(frozen=True, kw_only=True)
class TunePlan:
    """What a tuning would do and cost, before it starts.

    `estimate` is the cost of its measurements (items, seconds, bytes of memory and disk), `file_bytes` the size of the
    GGUF file, `download_bytes` that of checkpoints that are not here yet, 0 if none or unknown. `items` are the items
    that choose the lam, and `held_out` those that check the file, by name. `lams` is the number of lams measured, of
    `grid`.
    """

    pair: str
    folder: Path
    type: str
    goal: Goal
    items: Mapping[str, int]
    held_out: Mapping[str, int]
    lams: int
    grid: int
    first_share: float
    estimate: Estimate
    file_bytes: int
    download_bytes: int


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The result of a tuning: the lam, the GGUF file, and what was found.

    `choice` says how sure the lam is, `held_out` is what the file does on items that had no part in the choice.
    `bits_per_byte` are those of the first pass at every lam, empty without one; `measured` are the lams of the search,
    `share` is their share of the grid's evaluations and `first_share` about the first pass' share of the grid's tokens.
    `sentences` say all that in words.
    """

    folder: Path
    path: Path
    lam: float
    type: str
    choice: Choice
    held_out: HeldOut
    report: Path
    card: Path
    study: Study
    bits_per_byte: tuple[float, ...]
    measured: tuple[float, ...]
    share: float
    first_share: float
    sentences: tuple[str, ...]


def tune_folder(pair: PairLike) -> Path:
    """Return the default folder of a tuning: `PAIR-tuned` in the working folder."""
    return Path(f"{file_name(resolve_pair(pair).name)}-tuned")


def plan_tune(
    pair: PairLike, options: StudyOptions, goal: Goal | None = None, output: str | Path | None = None, type: str = ""
) -> TunePlan:
    """Return what `tune` would do with these options, and its cost. Raises PaLiteError.

    To estimate the time, a few items are measured, unless the folder has the record of a tuning.
    """
    found, folder = resolve_pair(pair), tune_folder(pair) if output is None else Path(output)
    tuning = _tuning(found, options, goal, type, folder)
    fit = pair_fit(found)
    plan = tuning.plan
    return TunePlan(
        pair=plan.pair, folder=folder, type=tuning.type, goal=tuning.goal,
        items={w.name: w.n_items for w in plan.workloads}, held_out={w.name: w.n_items for w in tuning.held},
        lams=tuning.n_measured, grid=len(plan.options.lams), first_share=tuning.first_share,
        estimate=estimate_tuning(tuning, not (folder / RECORD).exists()), file_bytes=output_bytes(tuning.target),
        download_bytes=0 if fit.is_here else found.download_bytes,
    )  # fmt: skip


def tune(
    pair: PairLike,
    options: StudyOptions | None = None,
    goal: Goal | None = None,
    output: str | Path | None = None,
    *,
    type: str = "",
    keep_follow: float | None = None,
    weight: float | None = None,
    sure: float | None = Goal.sure,
    tasks: Names | None = None,
    examples: Examples | str | Path | None = None,
    follow: str | None = None,
    text: Paths | None = None,
    text_limit: int | None = None,
    prompts: str | None = None,
    prompts_limit: int | None = None,
    lams: Lams | None = None,
    extrapolate: bool | None = None,
    types: Names | None = None,
    follow_limit: int | None = None,
    schedule: str | Schedule | None = None,
    workers: int | None = None,
    score: ScoreOptions | None = None,
    shots: int | None = None,
    limit: int | None = None,
    seed: int | None = None,
    split: str | None = None,
    mutual_info: bool | None = None,
    parallel: int | None = None,
    chat: ChatOptions | None = None,
    system: str | None = None,
    template_args: Mapping[str, Any] | None = None,
    date: Date | None = None,
    engine: EngineOptions | None = None,
    threads: int | None = None,
    gpu_layers: int | str | None = None,
    flash_attention: bool | None = None,
    cache_type: str | None = None,
    n_batch: int | None = None,
    n_ctx: int | None = None,
    probe: bool | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Find the lam of a pair for your own use, and write the model: `.path`, with a report and a model card next to it.

    What it is for: `examples`, a table of your rows; `tasks`; or plain `text`. With `follow` or `prompts`, 95% of
    instruct's following is kept, unless `keep_follow` or `weight` say otherwise (see `Goal`). A quarter of the items is
    held out: the written file is scored on them once. `type` is the file's weight type, by default Q4_K_M from a
    billion parameters on, else Q8_0. `output` is a folder, by default `PAIR-tuned`; the same call continues there, and
    a finished one repeats no work. The other keywords are as for `sweep`. Raises PaLiteError.
    """
    words = locals()
    if goal is None and (keep_follow is not None or weight is not None):
        goal = fill(Goal, {**words, "sure": None})
    if goal is not None:
        goal = replace(goal, sure=sure)
    found, folder = resolve_pair(pair), tune_folder(pair) if output is None else Path(output)
    tuning = _tuning(found, study_options(words, options), goal, type, folder)
    earlier = _claim(folder)
    check_space(existing_parent(folder), output_bytes(tuning.target) + tuning.plan.disk)
    searched = search_lams(tuning, folder, progress)
    path = _write(found, tuning, searched, folder, progress)
    return _described(found, tuning, searched, path, earlier, progress)


def _tuning(pair: Pair, options: StudyOptions, goal: Goal | None, weight_type: str, folder: Path) -> Tuning:
    return plan_tuning(pair, options, goal, type_name(weight_type) if weight_type else "", folder)


def _claim(folder: Path) -> dict[str, Any]:
    """Return the record of the folder's earlier tuning; a new folder gets one. Raises OutputError for other content."""
    path = folder / RECORD
    if os.path.lexists(folder) and not folder.is_dir():
        raise OutputError(f"{folder}: is a file. Name a folder (-o).")
    try:
        found = parse_json(read_regular(path, MOST_TOML_BYTES).decode())
        if isinstance(found, dict):
            return found
        raise ValueError
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as e:
        raise OutputError(f"{path}: is not the record of a tuning. Name another folder (-o).") from e
    for name in (CARD, REPORT, PICTURE):
        if os.path.lexists(folder / name):
            raise OutputError(f"{folder / name}: exists already, and is not of a tuning. Name another folder (-o).")
    with write_errors(existing_parent(folder)):
        folder.mkdir(parents=True, exist_ok=True)
    write_text(path, "{}\n")
    return {}


def _write(pair: Pair, tuning: Tuning, searched: Searched, folder: Path, progress: Progress | None) -> Path:
    """Merge the pair at the chosen lam into the folder, unless the file is there; return it."""
    chosen = tuning.plan.options
    plan = PlanOptions(type=tuning.type, schedule=chosen.schedule)
    how = MergeOptions(resume=True, threads=chosen.engine.threads, extrapolate=chosen.extrapolate)
    lam = searched.choice.lam
    (path,) = merge_checkpoints(pair.base, pair.instruct, [lam], plan, f"{folder}{os.sep}", how, progress)
    return path


def _described(
    pair: Pair, tuning: Tuning, searched: Searched, path: Path, earlier: Mapping[str, Any], progress: Progress | None
) -> Tuned:
    """Check the file on held-out items, and write report and card, as far as an earlier run did not."""
    folder, key = path.parent, held_key(tuning, searched)
    held = _earlier_figure(earlier) if earlier.get("key") == key else None
    is_new = held is None
    if held is None:
        held = score_held_out(tuning, path, progress)
    done = Tuned(
        folder=folder, path=path, lam=searched.choice.lam, type=tuning.type, choice=searched.choice, held_out=held,
        report=folder / REPORT, card=folder / CARD, study=open_study(folder / SEARCH), bits_per_byte=searched.bits,
        measured=searched.measured, share=len(searched.measured) / len(tuning.plan.options.lams),
        first_share=tuning.first_share, sentences=tuple(findings(searched, held, tuning.goal)),
    )  # fmt: skip
    if is_new or not (done.report.exists() and done.card.exists()):
        publish(folder / SEARCH, ReportOptions(output=done.report, force=True))
        if done.card.exists() and _digest(done.card) != earlier.get("card"):
            raise OutputError(f"{done.card}: was changed by hand. Move it, then run the same command again.")
        sides = " ".join(shlex.quote(str(side)) for side in (pair.base, pair.instruct))
        named = pair.name if pair.name in _registered() else sides
        schedule = tuning.plan.options.schedule.text
        again = f"pa-lite merge {named} --lam {done.lam:g} --type {tuning.type}"
        again += f" --schedule {shlex.quote(schedule)}" if schedule else ""
        write_card(path, folder, done.study, again, force=True, more=card_section(done.sentences))
        record = {
            "key": key, "card": _digest(done.card), "held_out": asdict(held), "lam": done.lam, "file": path.name,
            "type": tuning.type, "choice": asdict(done.choice), "measured": done.measured,
            "bits_per_byte": done.bits_per_byte,
        }  # fmt: skip
        write_text(folder / RECORD, json.dumps(_finite(record), indent=1) + "\n")
    return done


def _registered() -> Mapping[str, Pair]:
    from pa_lite.checkpoints.pairs import all_pairs

    return all_pairs()


def _finite(value: Any) -> Any:
    """Return a JSON value with null for NaN."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _earlier_figure(earlier: Mapping[str, Any]) -> HeldOut | None:
    """Return the final figure of the record; None if it has none that can be read."""
    with contextlib.suppress(KeyError, TypeError, ValueError, InputError):
        found = {name: math.nan if value is None else value for name, value in earlier["held_out"].items()}
        numbers = {name: float(found[name]) for name in ("value", "low", "high")}
        return HeldOut(name=str(found["name"]), unit=str(found["unit"]), n=int(found["n"]), **numbers)
    return None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
