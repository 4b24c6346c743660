"""Win rates of annotations, by AlpacaEval's formulas: weighted, discrete and length-controlled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pa_lite.alpaca.alpaca_eval import DATASETS, LengthData, load_length_data
from pa_lite.alpaca.annotations import Annotations
from pa_lite.alpaca.calibration import JudgeCheck, judge_signs
from pa_lite.alpaca.known import Known, compare_judge, key_of
from pa_lite.alpaca.length_control import FOLDS, FloatArray, LengthControlled, length_controlled, standardised_delta
from pa_lite.errors import HubError, InputError
from pa_lite.statistics import standard_error

FULL, MINIMAL, BY_DEFINITION = "length_controlled_v1", "length_controlled_minimal", "by definition"


@dataclass(frozen=True, kw_only=True)
class WinRate:
    """Rates and their standard errors in percent, under the names of AlpacaEval's leaderboard.

    `n_total` counts judged pairs; `n_unjudged` counts those without a preference, which are in no rate. Lengths are
    mean characters over all outputs. Only the full form is AlpacaEval's `length_controlled_winrate`; the minimal form
    has another name. `length_controlled_form` is alpaca_eval's name of the form used; `length_controlled_note` says why
    it was not the full form, or why there is no length-controlled rate. `judge_signs` says what speaks against the
    judge, and `judge_check` compares it with known preferences, if any were given.
    """

    model: str
    reference: str
    annotator: str
    win_rate: float
    standard_error: float
    n_wins: int
    n_wins_base: int
    n_draws: int
    n_total: int
    n_unjudged: int
    discrete_win_rate: float
    discrete_standard_error: float
    avg_length: float
    avg_length_reference: float
    length_controlled_winrate: LengthControlled | None
    length_controlled_minimal_winrate: LengthControlled | None
    length_controlled_form: str | None
    length_controlled_note: str | None
    judge_signs: tuple[str, ...] = ()
    judge_check: JudgeCheck | None = None

    @property
    def length_controlled(self) -> LengthControlled | None:
        """The length-controlled win rate in the form that `length_controlled_form` names."""
        return self.length_controlled_winrate or self.length_controlled_minimal_winrate


def discrete(preference: float) -> float:
    """Return 1 where the model wins, 0 where the reference wins, 0.5 for a draw."""
    return 0.5 if preference == 1.5 else float(preference > 1.5)


def find_length_data(
    annotations: Annotations, form: str = "auto", folder: Path | None = None
) -> tuple[LengthData | None, str | None]:
    """Return the data for the full length-controlled form, or None and the reason to use the minimal form.

    `form` is `full`, `minimal` or `auto`: full where the instructions are AlpacaEval's and its data is available, from
    `folder` or from the Hub (which is used only for annotations of AlpacaEval's data sets). Raises InputError for
    malformed files; for `full` also HubError when the data is not available, and InputError for other instructions.
    """
    if form == "minimal":
        return None, "as asked for"
    if form == "auto" and folder is None and not annotations.datasets & DATASETS:
        return None, "the annotations are not of AlpacaEval's data sets"
    try:
        data = load_length_data(folder)
    except HubError as e:
        if form == "full":
            raise
        return None, str(e)
    unknown = sum(j.instruction not in data.difficulty for j in annotations.judgements)
    if not unknown:
        return data, None
    note = f"{unknown} of {len(annotations.judgements)} instructions are not AlpacaEval's"
    if form == "full":
        raise InputError(f"{note}, which full length control requires. Use --length-control minimal.")
    return None, note


def win_rate(
    annotations: Annotations, data: LengthData | None = None, note: str | None = None, known: Known | None = None
) -> WinRate:
    """Return all figures of annotations; `data` and `note` are from `find_length_data`.

    With `known` preferences of some of the pairs, the judge is compared with them. Raises InputError when none of the
    pairs is known, or the preferences cannot be used.

    Source: alpaca_eval, `get_winrate` and `get_length_controlled_winrate`; win rates are means of preference - 1.
    """
    every = annotations.judgements
    given = [j.preference for j in every if j.preference is not None]
    weighted, plain = [p - 1 for p in given], [discrete(p) for p in given]
    lengths_1, lengths_2 = [len(j.output_1) for j in every], [len(j.output_2) for j in every]
    if annotations.model == annotations.reference:
        note = "the model is the reference itself"
    control, form = _control(annotations, standardised_delta(lengths_1, lengths_2), data)
    return WinRate(
        model=annotations.model,
        reference=annotations.reference,
        annotator=annotations.annotator,
        win_rate=100 * float(np.mean(weighted)),
        standard_error=100 * standard_error(weighted),
        n_wins=plain.count(1.0),
        n_wins_base=plain.count(0.0),
        n_draws=plain.count(0.5),
        n_total=len(given),
        n_unjudged=len(every) - len(given),
        discrete_win_rate=100 * float(np.mean(plain)),
        discrete_standard_error=100 * standard_error(plain),
        avg_length=float(np.mean(lengths_2)),
        avg_length_reference=float(np.mean(lengths_1)),
        length_controlled_winrate=None if form == MINIMAL else control,
        length_controlled_minimal_winrate=control if form == MINIMAL else None,
        length_controlled_form=form,
        length_controlled_note=note if control else f"fewer than {FOLDS} preferences to fit",
        judge_signs=judge_signs([j for j in every if j.output_1 != j.output_2]),
        judge_check=None if known is None else _check(annotations, known),
    )


def _check(annotations: Annotations, known: Known) -> JudgeCheck:
    """Compare the annotations with known preferences, which adjust the win rate. Raises InputError."""
    judged = [(key_of(j), j.preference - 1) for j in annotations.judgements if j.preference is not None]
    known.check_annotator(annotations.annotator)
    known.check_names((key for key, _ in judged), annotations.reference, annotations.model)
    found = compare_judge(known, judged, [preference for _, preference in judged])
    if found is None:
        raise known.no_common_pair(f"{annotations.model} against {annotations.reference}")
    return found


def _control(
    annotations: Annotations, delta: FloatArray, data: LengthData | None
) -> tuple[LengthControlled | None, str | None]:
    """Return the length-controlled win rate and the name of its form."""
    if annotations.model == annotations.reference:
        return LengthControlled(value=50.0, stderr=0.0, fit_stderr=0.0, weights={}), BY_DEFINITION
    every = annotations.judgements
    preference = np.array([math.nan if j.preference is None else j.preference - 1 for j in every])
    if data is None:
        control, form = length_controlled(preference, delta), MINIMAL
    else:
        difficulty = np.array([data.difficulty[j.instruction] for j in every])
        control, form = length_controlled(preference, delta, difficulty, data.gamed), FULL
    return control, form if control else None
