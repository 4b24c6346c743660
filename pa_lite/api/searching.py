"""Searching for the best lam of a pair, with a fraction of a sweep's evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date as day
from pathlib import Path
from typing import Any, NamedTuple

from pa_lite.api.options import (
    ChatOptions,
    Date,
    EngineOptions,
    Lams,
    Names,
    PairLike,
    Progress,
    Schedule,
    fill,
    path_of,
    resolve_pair,
)  # fmt: skip
from pa_lite.api.studies import Paths, study_options
from pa_lite.study.estimate import Estimate
from pa_lite.study.goal import Goal
from pa_lite.study.plan import StudyOptions
from pa_lite.study.search.halving import Found, SearchOptions
from pa_lite.study.search.run import Schedules, estimate_search, search_pair
from pa_lite.study.sentences import measures_in_words, stand_ins
from pa_lite.study.store import has_results, read_store
from pa_lite.study.sweep import with_recorded_date
from pa_lite.tasks.examples import Examples
from pa_lite.tasks.scoring import ScoreOptions
from pa_lite.untrusted.safe_names import file_name

__all__ = [
    "Found", "Schedules", "SearchOptions", "SearchResult", "dated", "measures_in_words", "plan_search", "search",
    "search_folder", "stand_ins",
]  # fmt: skip


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
    text: Paths | None = None,
    text_limit: int | None = None,
    prompts: str | None = None,
    prompts_limit: int | None = None,
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
    few-shot accuracy alone. Without `tasks`, the bits per byte of `text` take the place of few-shot accuracy; without
    `follow`, the agreement with instruct's answers to `prompts` takes that of following. `budget` and `seed` are fields
    of `SearchOptions`; the other keywords are as for `sweep`. With `schedules`, coarse schedules by tensor group around
    the best lam are compared next. With a folder `run`, evaluations are kept there, and the same search continues an
    interrupted one. `progress` gets the items evaluated, of those planned. Raises PaLiteError.
    """
    words = locals()
    aim = fill(Goal, {**words, "sure": None if sure == Goal.sure else sure}, goal)  # the default keeps that of `goal`
    aim = replace(aim, sure=None) if sure is None else aim
    how, chosen = fill(SearchOptions, words, search), study_options(words, options)
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
