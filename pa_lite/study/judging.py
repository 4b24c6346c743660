"""What a study says about its judge: warning signs, and the comparison with known preferences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pa_lite.alpaca.calibration import LEAST_PAIRS, JudgeCheck, asked, judge_signs
from pa_lite.alpaca.known import Known, compare_judge
from pa_lite.study.cells import StoredCell
from pa_lite.study.curves import Curves
from pa_lite.study.measures import PREFERRED
from pa_lite.study.ranking import judge_statement
from pa_lite.study.records import FinishedItem, JudgedItem


@dataclass(kw_only=True)
class StudyJudging:
    """The verdicts of a study's judge: all of those at the lams, and by lam those whose pairs have a key.

    `once` has those on pairs that belong to no lam, by key.
    """

    verdicts: list[JudgedItem] = field(default_factory=list)
    by_lam: dict[float, list[tuple[str, float]]] = field(default_factory=dict)
    once: list[tuple[str, float]] = field(default_factory=list)

    def add(self, cell: StoredCell, results: Sequence[FinishedItem]) -> None:
        """Add a finished cell's verdicts; other cells have none. Summaries of older versions have no keys of pairs."""
        verdicts = [result for result in results if isinstance(result, JudgedItem)]
        keys = (cell.summary or {}).get("pairs", []) if verdicts else []
        judged = [
            (key, v.preference - 1)
            for key, v in zip(keys, verdicts, strict=bool(keys))
            if v.preference is not None
        ]  # fmt: skip
        if cell.kind == "calibration":
            self.once += judged
        else:
            self.verdicts += [replace(v, output="", remarks=()) for v in verdicts]  # only the numbers
            self.by_lam.setdefault(cell.lam, []).extend(judged)

    @property
    def signs(self) -> tuple[str, ...]:
        """The warning signs of all verdicts at the lams."""
        return judge_signs(asked(self.verdicts))

    def compare(self, known: Known) -> tuple[JudgeCheck | None, list[str]]:
        """Compare the judge with known preferences: None where it judged none of these pairs; and remarks.

        The remarks give the win rates of lams that have at least LEAST_PAIRS known pairs, adjusted by these.
        """
        every = [*(each for judged in self.by_lam.values() for each in judged), *self.once]
        adjusted = []
        for lam, judged in self.by_lam.items():
            found = compare_judge(known, judged, [preference for _, preference in judged])
            if found is not None and found.win_rate is not None and found.n >= LEAST_PAIRS:
                value, error = 100 * found.win_rate.value, 100 * found.win_rate.stderr
                adjusted.append(f"lam {lam:g} {value:.1f}% (s.e. {error:.1f}, {found.n} known pairs)")
        remark = f"Win rates adjusted by the known preferences: {', '.join(adjusted)}."
        return compare_judge(known, every), [remark] if adjusted else []


def judge_remarks(curves: Curves) -> list[str]:
    """Return remarks on the judge: its warning signs, the comparison, and what the conclusion does not say of it."""
    out = [f"Warning: {sign}." for sign in curves.judge_signs]
    statement = judge_statement(curves)
    if curves.judge_check is not None:
        out.append(f"Calibration: {curves.judge_check}.")
    if statement and curves.compliance_measure is not PREFERRED:  # otherwise the conclusion says it
        out.append(f"{statement[0].upper()}{statement[1:]}.")
    return out
