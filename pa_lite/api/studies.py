"""Studies: measuring a pair along lam, reading the results, and searching for the best lam."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import date as day
from pathlib import Path
from typing import Any, NamedTuple

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
from pa_lite.checkpoints.pairs import all_pairs
from pa_lite.errors import InputError
from pa_lite.study import summary
from pa_lite.study.comparisons import items_in_words
from pa_lite.study.curves import Curves, averages
from pa_lite.study.demo import DEMO_FOLDER, DemoResult, run_demo
from pa_lite.study.estimate import Estimate
from pa_lite.study.export import to_document
from pa_lite.study.goal import Goal
from pa_lite.study.plan import StudyOptions
from pa_lite.study.report.matplotlib_charts import write_figure
from pa_lite.study.report.publish import ReportOptions, publish, write_items
from pa_lite.study.results import load_study
from pa_lite.study.results_file import FILE
from pa_lite.study.search.halving import Found, SearchOptions
from pa_lite.study.search.run import Schedules, estimate_search, search_pair
from pa_lite.study.store import has_results, read_store
from pa_lite.study.summary import BestLam, Reading, best_for, conclusion, labels, readings
from pa_lite.study.sweep import estimate_pair, sweep_pair, with_recorded_date
from pa_lite.system.atomic import check_target
from pa_lite.tasks.examples import Examples
from pa_lite.tasks.scoring import ScoreOptions
from pa_lite.untrusted.safe_names import file_name

__all__ = [
    "BestLam", "Curves", "DemoResult", "Estimate", "Found", "Goal", "Reading", "ReportOptions", "Schedules",
    "SearchOptions", "SearchResult", "Study", "StudyLike", "StudyOptions", "averages", "conclusion", "demo",
    "items_in_words", "labels", "open_study", "plan_sweep", "readings", "run_folder", "search", "sweep",
    "to_document", "write_report",
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
    return Path(f"{file_name(resolve_pair(pair).name)}-study")


def find_run(run: str | Path) -> Path:
    """Return the run folder of that name; for a pair's name the newest of its default ones.

    Raises InputError, naming the studies in the working folder, for a name without results.
    """
    folder = Path(run)
    if isinstance(run, Path) or (folder / FILE).exists():
        return folder
    known = [Path(f"{run}-study"), *([Path(DEMO_FOLDER)] if run == "demo" else [])]
    found = [each for each in known if (each / FILE).is_file()]
    if found:
        return max(found, key=lambda each: (each / FILE).stat().st_mtime)
    if folder.exists():
        return folder  # reading it says what is wrong
    here = sorted(str(path.parent) for path in Path().glob(f"*/{FILE}"))
    named = f" Studies here: {', '.join(here[:6])}." if here else ""
    advice = f" Run `pa-lite sweep {run} --tasks ...` first." if run in all_pairs() else ""
    raise InputError(f"{run}: no study was found.{named}{advice}")


def sweep(
    pair: PairLike,
    options: StudyOptions | None = None,
    run: str | Path | None = None,
    *,
    tasks: Names | None = None,
    examples: Examples | str | Path | None = None,
    follow: str | None = None,
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
    and `engine`; None keeps the default. `backend` is `local` or `ray` (extra `cluster`; `address` of a running
    cluster). Results of other inputs (checkpoints, tasks, versions) are measured again, unless `keep_stale`; the study
    then says so. `progress` gets the items done. Raises PaLiteError.
    """
    words = dict(locals())
    if isinstance(engine, str):
        renamed(f"sweep(engine={engine!r})", f"backend={engine!r}")
        words["engine"], backend = None, engine
    if folder is not None:
        renamed("sweep(folder=...)", "run=...")
        run = run or folder
    found, chosen = resolve_pair(pair), _options(words, options)
    where = run_folder(found) if run is None else Path(run)
    # pass on a name, not its paths: nodes of a cluster may have other paths
    named = pair if isinstance(pair, str) else _absolute(found)
    return _study(sweep_pair(named, chosen, where, progress, backend, address, keep_stale), where)


def _options(words: Mapping[str, Any], base: StudyOptions | None) -> StudyOptions:
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
    return estimate_pair(resolve_pair(pair), _options(locals(), options), path_of(run), keep_stale)


class SearchResult(NamedTuple):
    """The result of a search: the best lam and, if requested, the schedules compared around it."""

    found: Found
    schedules: Schedules | None

    @property
    def lam(self) -> float:
        """The best lam."""
        return self.found.lam

    @property
    def confidence(self) -> float:
        """The probability, over items, that no lam farther than 0.1 away is better."""
        return self.found.confidence

    @property
    def differs(self) -> bool:
        """Whether any other lam is measurably different in the goal's measures."""
        return self.found.differs


def search(
    pair: PairLike,
    options: StudyOptions | None = None,
    goal: Goal | None = None,
    search: SearchOptions | None = None,
    schedules: bool = False,
    *,
    run: str | Path | None = None,
    keep_follow: float | None = None,
    weight: float | None = None,
    sure: float | None = Goal.sure,
    budget: float | None = None,
    tasks: Names | None = None,
    examples: Examples | str | Path | None = None,
    follow: str | None = None,
    lams: Lams | None = None,
    extrapolate: bool | None = None,
    types: Names | None = None,
    follow_limit: int | None = None,
    schedule: str | Schedule | None = None,
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
) -> SearchResult:
    """Find a pair's best lam for a goal with a fraction of a sweep's evaluations: `.lam`, with its `.confidence`.

    The goal is `keep_follow=0.95` or a `weight` (see `Goal`, also for `sure`; None is the point estimate); by default
    few-shot accuracy alone. `budget` and `seed` are fields of `SearchOptions`; the other keywords are as for `sweep`.
    With `schedules`, coarse schedules by tensor group around the best lam are compared next. With a folder `run`,
    evaluations are kept there, and the same search continues an interrupted one. `progress` gets the items evaluated,
    of those planned. Raises PaLiteError.
    """
    words = locals()
    aim = fill(Goal, {**words, "sure": None if sure == Goal.sure else sure}, goal)  # the default keeps that of `goal`
    aim = replace(aim, sure=None) if sure is None else aim
    how, chosen = fill(SearchOptions, words, search), _options(words, options)
    where = path_of(run)
    found, raced = search_pair(resolve_pair(pair), dated(chosen, where), aim, how, schedules, where, progress)
    return SearchResult(found, raced)


def dated(options: StudyOptions, run: Path | None) -> StudyOptions:
    """Return the options with a date for chat templates: the given one, that of the run folder's search, or today."""
    if run is not None and has_results(run):
        with read_store(run) as store:
            options = with_recorded_date(options, store)
    return replace(options, chat=replace(options.chat, date=options.chat.date or day.today()))


def search_folder(pair: PairLike) -> Path:
    """Return the default run folder of a search on the command line: `PAIR-search` in the working folder."""
    return Path(f"{file_name(resolve_pair(pair).name)}-search")


def plan_search(pair: PairLike, options: StudyOptions, goal: Goal, search: SearchOptions) -> Estimate:
    """Estimate the memory and time of a search without schedules; measures a few items. Raises PaLiteError."""
    return estimate_search(resolve_pair(pair), options, goal, search)


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
