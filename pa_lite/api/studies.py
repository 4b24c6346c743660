"""Studies: measuring a pair along lam, and reading the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pa_lite.alpaca.known import read_known
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
    path_of,
    renamed,
    resolve_pair,
)  # fmt: skip
from pa_lite.errors import InputError
from pa_lite.study import summary
from pa_lite.study.comparisons import items_in_words
from pa_lite.study.curves import Curves, averages
from pa_lite.study.demo import DEMO_FOLDER, DemoResult, run_demo
from pa_lite.study.estimate import Estimate
from pa_lite.study.export import to_document
from pa_lite.study.goal import Goal
from pa_lite.study.measures import Measure
from pa_lite.study.plan import StudyOptions
from pa_lite.study.report.matplotlib_charts import write_figure
from pa_lite.study.report.publish import ReportOptions, publish, write_items
from pa_lite.study.results import load_study
from pa_lite.study.run_folders import default_run, find_run
from pa_lite.study.store import read_store
from pa_lite.study.summary import BestLam, Reading, best_for, conclusion, labels, readings
from pa_lite.study.sweep import estimate_pair, sweep_pair
from pa_lite.system.atomic import check_target
from pa_lite.tasks.examples import Examples
from pa_lite.tasks.scoring import ScoreOptions

__all__ = [
    "BestLam", "Curves", "DemoResult", "Estimate", "Goal", "Measure", "Paths", "Reading", "ReportOptions", "Study",
    "StudyLike", "StudyOptions", "averages", "conclusion", "demo", "items_in_words", "labels", "open_study",
    "plan_sweep", "readings", "run_folder", "study_options", "sweep", "to_document", "write_report",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Study(summary.StudySummary):
    """A study at one weight type: its curves, its settings, and the folder `run` with the result of every item."""

    run: Path | None = None

    def best(
        self, *, keep_follow: float | None = None, weight: float | None = None, sure: float | None = Goal.sure
    ) -> BestLam:
        """Return the best lam for a goal: few-shot accuracy alone, or as the fields of `Goal` say.

        `keep_follow=0.95` maximises few-shot accuracy while keeping 95% of instruct's instruction following, in 95% of
        resamplings or as many as `sure` says; `sure=None` goes by the point estimate. Raises InputError if the study
        did not measure that.
        """
        return best_for(self.curves, replace(fill(Goal, locals()), sure=sure))

    def to_csv(self, path: str | Path, *, force: bool = False) -> Path:
        """Write every finished item of the run as CSV; return the path. Raises PaLiteError."""
        check_target(target := Path(path), force)
        write_items(self._folder(), target)
        return target

    def report(self, path: str | Path | None = None, *, force: bool = False) -> Path:
        """Write the study as a self-contained HTML page, by default report.html in the run folder; return its path.

        Raises PaLiteError.
        """
        written, _ = publish(self._folder(), ReportOptions(output=path_of(path), type=self.type, force=force))
        return written[0]

    def plot(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the curves along lam as a figure, a .png or .svg file; return the path. Raises PaLiteError."""
        check_target(target := Path(path), force)
        write_figure(self, target)
        return target

    def document(self) -> dict[str, Any]:
        """Return the study as a JSON document: averages with standard errors, differences, findings, settings."""
        return to_document(self)

    def _folder(self) -> Path:
        if self.run is None:
            raise InputError("this study has no run folder: use a study from sweep or open_study.")
        return self.run


StudyLike = summary.StudySummary  # a study with or without a run folder
Paths = str | Path | Sequence[str | Path]


def _study(found: summary.StudySummary, run: Path) -> Study:
    return Study(**{f.name: getattr(found, f.name) for f in fields(found)}, run=run)


def open_study(run: str | Path, type: str | None = None, calibration: str | Path | None = None) -> Study:
    """Read the study in a run folder, for one weight type (by default the first measured).

    `run` may be a registered pair's name, for the newest of its default run folders.
    `calibration` is an annotations file by people or a strong judge for pairs that the study's judge has judged; the
    judge is compared with it. Raises PaLiteError.
    """
    folder = find_run(run)
    with read_store(folder) as store:
        known = None if calibration is None else read_known(Path(calibration))
        return _study(load_study(store, ReportOptions(type=type).type, known), folder)


def run_folder(pair: PairLike) -> Path:
    """Return the default run folder of a sweep: `PAIR-study` in the working folder."""
    return default_run(resolve_pair(pair))


def sweep(
    pair: PairLike,
    options: StudyOptions | None = None,
    run: str | Path | None = None,
    *,
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
    alpaca: str | None = None,
    alpaca_limit: int | None = None,
    judge: str | None = None,
    reference: str | Path | None = None,
    calibration: str | Path | None = None,
    score: ScoreOptions | None = None,
    shots: int | None = None,
    limit: int | None = None,
    seed: int | None = None,
    seeds: int | None = None,
    split: str | None = None,
    mutual_info: bool | None = None,
    parallel: int | None = None,
    chat: ChatOptions | None = None,
    system: str | None = None,
    template_args: Mapping[str, Any] | None = None,
    date: Date | None = None,
    engine: EngineOptions | str | None = None,
    threads: int | None = None,
    gpu_layers: int | str | None = None,
    flash_attention: bool | None = None,
    cache_type: str | None = None,
    n_batch: int | None = None,
    n_ctx: int | None = None,
    probe: bool | None = None,
    backend: str = "local",
    address: str | None = None,
    keep_stale: bool = False,
    progress: Progress | None = None,
    folder: str | Path | None = None,
) -> Study:
    """Measure a pair at every lam; results are stored in the folder `run`, and a second call continues there.

    `pair` is a registered name, or (base, instruct). `run` is by default `PAIR-study`. The keywords are the fields of
    `StudyOptions`, `ScoreOptions`, `ChatOptions` and `EngineOptions`, and override those of `options`, `score`, `chat`
    and `engine`; None keeps the default. `text` and `prompts` measure without labels, and need no `tasks`. `backend` is
    `local` or `ray` (extra `cluster`; `address` of a running cluster). Results of other inputs (checkpoints, tasks,
    versions) are measured again, unless `keep_stale`; the study then says so. `progress` gets the items done. Raises
    PaLiteError.
    """
    words = dict(locals())
    if isinstance(engine, str):
        renamed(f"sweep(engine={engine!r})", f"backend={engine!r}")
        words["engine"], backend = None, engine
    if folder is not None:
        renamed("sweep(folder=...)", "run=...")
        run = run or folder
    found, chosen = resolve_pair(pair), study_options(words, options)
    where = run_folder(found) if run is None else Path(run)
    # pass on a name, not its paths: nodes of a cluster may have other paths
    named = pair if isinstance(pair, str) else _absolute(found)
    return _study(sweep_pair(named, chosen, where, progress, backend, address, keep_stale), where)


def study_options(words: Mapping[str, Any], base: StudyOptions | None) -> StudyOptions:
    """Return the study's options, changed by the keywords; `score`, `chat` and `engine` get the keywords they have."""
    start = base or StudyOptions()
    parts = {
        "score": fill(ScoreOptions, words, words["score"] or start.score),
        "chat": fill(ChatOptions, words, words["chat"] or start.chat),
        "engine": fill(EngineOptions, words, words["engine"] or start.engine),
    }
    return fill(StudyOptions, {**words, **parts}, start)


def _absolute(pair: Pair) -> Pair:
    """Return the pair with absolute paths: workers of a cluster have other working folders."""
    base, instruct = (side.absolute() if isinstance(side, Path) else side for side in (pair.base, pair.instruct))
    return replace(pair, base=base, instruct=instruct)


def plan_sweep(
    pair: PairLike,
    options: StudyOptions | None = None,
    run: str | Path | None = None,
    keep_stale: bool = False,
    *,
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
    alpaca: str | None = None,
    alpaca_limit: int | None = None,
    judge: str | None = None,
    reference: str | Path | None = None,
    calibration: str | Path | None = None,
    score: ScoreOptions | None = None,
    shots: int | None = None,
    limit: int | None = None,
    seed: int | None = None,
    seeds: int | None = None,
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
) -> Estimate:
    """Estimate the memory, disk space and time of a sweep with the same arguments, given what `run` already has.

    Measures a few items. Raises PaLiteError.
    """
    return estimate_pair(resolve_pair(pair), study_options(locals(), options), path_of(run), keep_stale)


def write_report(run: str | Path, options: ReportOptions | None = None) -> tuple[list[Path], Study]:
    """Write the study in a run folder as an HTML page and, if requested, figures, CSV and lm-eval files.

    Returns the written files and the study. Raises PaLiteError.
    """
    folder = find_run(run)
    written, found = publish(folder, options)
    return written, _study(found, folder)


def demo(output: str | Path = DEMO_FOLDER, progress: Progress | None = None) -> DemoResult:
    """Run a complete study of the embedded pair; write it, results.json, chart.svg and report.html to `output`.

    Raises PaLiteError.
    """
    return run_demo(Path(output), progress)
