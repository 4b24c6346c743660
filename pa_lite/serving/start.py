"""Decide at which lam a chat or a server starts: the one given, the best one of a study, or 0.6."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pa_lite.checkpoints.hub.references import Location
from pa_lite.checkpoints.pairs import Pair, all_pairs, resolve_pair
from pa_lite.engine.model_reference import ModelRef, resolve_model
from pa_lite.errors import InputError
from pa_lite.merging.lams import read_lam

if TYPE_CHECKING:  # statistics are loaded only for a study
    from pa_lite.study.curves import Curves
    from pa_lite.study.summary import StudySummary

START_LAM = 0.6  # without a study; the paper finds the best lams around it
_KEEP = 0.95  # the share of instruct's following that the best lam keeps
_log = logging.getLogger(__name__)

PairLike = str | Pair | tuple[str | Location, str | Location]


def starting_reference(
    model: PairLike | ModelRef | Path,
    lam: float | str | None = None,
    study: str | Path | None = None,
    extrapolate: bool = False,
) -> ModelRef:
    """Return the model with which a chat or a server starts.

    A GGUF file and `PAIR@LAM` stay as they are. A pair without a lam (a registered name, or base and instruct) starts
    at `lam`, else at the best lam of the study in the run folder `study` (`best_start`), else at 0.6. `study` may be a
    registered pair's name, for the newest of its default run folders.

    Raises InputError for a study together with a lam or with a model whose lam is fixed, a study of other checkpoints,
    and as `resolve_model` does; what reading a study raises.
    """
    pair = _pair_without_lam(model)
    if study is None:
        at = START_LAM if lam is None and pair is not None else lam
        return resolve_model(model if pair is None else pair, at, extrapolate)
    if lam is not None:
        raise InputError(f"lam {lam} and study {study} are both given: leave one of them out.")
    if pair is None:
        fixed = resolve_model(model, None, extrapolate)
        kind = "a file, whose lam is fixed" if fixed.pair is None else "at a lam already"
        raise InputError(f"{fixed} is {kind}, so the study {study} cannot choose one. Leave one of them out.")
    return ModelRef(pair=pair, lam=read_lam(_lam_of_study(study, pair), extrapolate))


def _pair_without_lam(model: PairLike | ModelRef | Path) -> Pair | None:
    """Return the pair that a model names without a lam, else None.

    A registered pair is preferred to a file of that name, which `./NAME` names.
    """
    if isinstance(model, str):
        found = all_pairs().get(model)
        if found is not None and Path(model).exists():
            _log.warning("%s means the pair %s; for the file of that name, write ./%s.", model, model, model)
        return found
    return None if isinstance(model, ModelRef | Path) else resolve_pair(model)


def study_of(study: str | Path, pair: Pair) -> StudySummary:
    """Return the study in a run folder, or in the newest default one of the pair of that name.

    Raises InputError for a study of other checkpoints than the pair's, and what reading a study raises.
    """
    from pa_lite.study.results import load_study, planned_cells
    from pa_lite.study.run_folders import find_run
    from pa_lite.study.store import read_store

    folder = find_run(study)
    with read_store(folder) as store:
        found, schedule = load_study(store), store.facts().get("schedule")
        measured = [tuple(c.inputs.get(side) for side in ("base", "instruct")) for c in planned_cells(store)]
    _check_same(folder, found.pair, pair, [sides for sides in measured if any(sides)])
    if schedule:
        _log.warning("%s: was measured with the schedule %s; here every tensor has the same lam.", folder, schedule)
    return found


def _lam_of_study(study: str | Path, pair: Pair) -> float:
    """Return the lam at which to start by a study of the pair. Raises InputError for a study of another one."""
    curves = study_of(study, pair).curves
    if len(curves.lams) < 2:
        raise InputError(f"{study}: the study has one lam, and a best one requires several. Give a lam instead.")
    return best_start(curves)


def best_start(curves: Curves) -> float:
    """Return the lam with the best few-shot accuracy that keeps 95% of following, where following was measured.

    Where no lam is measurably better than the others, it is the one nearest to 0.6 of those among which the best is.
    """
    from pa_lite.study.goal import Goal
    from pa_lite.study.ranking import refusal
    from pa_lite.study.summary import best_for

    keeps = curves.compliance is not None and 1.0 in curves.lams and not refusal(curves)
    found = best_for(curves, Goal(keep_follow=_KEEP) if keeps else Goal())
    if found.differs:
        return found.lam
    return min((found.lam, *found.ties), key=lambda lam: (abs(lam - START_LAM), lam))


def _check_same(folder: Path, name: str, pair: Pair, measured: Sequence[tuple[object, ...]]) -> None:
    """Raise InputError unless a study was made with the pair's checkpoints.

    `measured` has the fingerprints of both sides for each cell that recorded them; without any, the names count.
    """
    from pa_lite.checkpoints import open_pair
    from pa_lite.checkpoints.fingerprint import fingerprint

    if not measured and name == pair.name:
        return
    if measured:
        sides = tuple(map(fingerprint, open_pair(pair.base, pair.instruct)))
        if sides in measured:
            return
    other = "other checkpoints of that name" if name == pair.name else f"the pair {name}"
    raise InputError(f"{folder}: is a study of {other}, not of {pair.name}. Name its run folder, or leave it out.")
