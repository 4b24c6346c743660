"""What the page shows besides the state of the server: a study's curves, and the words that name the pair."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pa_lite.checkpoints.pairs import Pair, all_pairs, models_folder
from pa_lite.errors import PaLiteError
from pa_lite.sanitize import one_line
from pa_lite.serving.page.study_view import study_view
from pa_lite.serving.start import study_of
from pa_lite.study.run_folders import newest_run

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PageContent:
    """A study's curves as the page draws them (None: there is no study), and how a command line names the pair."""

    study: Mapping[str, Any] | None = None
    pair_words: str = ""


def _shipped() -> Mapping[str, Any] | None:
    """Return the curves that come with the embedded pair."""
    shipped: Mapping[str, Any] = json.loads((models_folder() / "demo" / "curves.json").read_text("utf-8"))
    return shipped


def page_content(pair: Pair | None, study: str | Path | None = None) -> PageContent:
    """Return what the page shows of a pair: the study in a run folder, by default in the newest of its default ones.

    A default run folder that cannot be used is logged and left out. Raises InputError for a given `study` of other
    checkpoints, and what reading it raises.
    """
    if pair is None:
        return PageContent()
    is_registered = all_pairs().get(pair.name) == pair
    sides = (shlex.quote(one_line(str(side))) for side in (pair.base, pair.instruct))
    words = pair.name if is_registered else " ".join(sides)
    run = study or (newest_run(pair.name) if is_registered else None)
    if run is None:
        return PageContent(study=_shipped() if is_registered and pair.name == "demo" else None, pair_words=words)
    try:
        return PageContent(study=study_view(study_of(run, pair).curves), pair_words=words)
    except PaLiteError as e:
        if study is not None:
            raise
        _log.warning("the page shows no study: %s", e)
        return PageContent(pair_words=words)
