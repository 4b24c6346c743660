"""Workloads in which a judge compares two answers: a lam's with a reference, and pairs with known preferences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pa_lite.alpaca.annotations import Annotations, Judgement
from pa_lite.alpaca.journal import digest
from pa_lite.alpaca.judge import JudgeOptions, Verdict, judge_pairs
from pa_lite.alpaca.known import key_of
from pa_lite.alpaca.outputs import generator_name
from pa_lite.alpaca.pairing import AnswerPair
from pa_lite.alpaca.win_rate import find_length_data, win_rate
from pa_lite.engine.model import Model
from pa_lite.progress import Progress
from pa_lite.study.judges import Judge
from pa_lite.study.measures import PREFERRED
from pa_lite.study.records import JudgedItem, Record
from pa_lite.study.workload import CHARACTERS, Workload


@dataclass(frozen=True, kw_only=True)
class _Judged(Workload[JudgedItem]):
    """Common part of workloads in which a judge compares the two answers of each pair to `answers`, a set's name."""

    result = JudgedItem
    answers: str
    decider: Judge
    pairs: tuple[AnswerPair, ...]

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.answers}, judged by {generator_name(self.decider.reference)}"

    @property
    def pair_keys(self) -> list[str]:
        """The key of every pair, by which known preferences are found."""
        return [key_of(pair) for pair in self.pairs]

    @property
    def judge(self) -> Judge:
        return self.decider

    @property
    def n_items(self) -> int:
        return len(self.pairs)

    @property
    def tokens_of_item(self) -> float:
        some = self.pairs[:100]
        characters = [len(p.instruction) + len(p.reference) + len(p.model) for p in some]
        return 2 * float(np.mean(characters)) / CHARACTERS  # both orders

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"pairs": digest([asdict(p) for p in self.pairs]), "options": asdict(JudgeOptions())}

    def check(self, model: Model) -> None:
        """Accept all: a pair that the judge's tokenizer cannot encode is recorded as not judged."""

    def run(self, model: Model, items: Sequence[int], progress: Progress | None = None) -> dict[int, Record]:
        verdicts: dict[int, Verdict] = {}
        part = [self.pairs[i] for i in items]
        judge_pairs(model, part, JudgeOptions(), verdicts.__setitem__, progress, chat=self.decider.chat)
        return {i: {"instruction": part[k].instruction, **asdict(verdicts[k])} for k, i in enumerate(items)}

    @staticmethod
    def value(result: JudgedItem) -> float:
        return float("nan") if result.preference is None else float(result.preference) - 1

    def summary(self, results: Sequence[JudgedItem]) -> dict[str, Any]:
        out = super().summary(results)
        return {**out, "unjudged": len(results) - out["n"], "pairs": self.pair_keys}


@dataclass(frozen=True, kw_only=True)
class CalibrationWorkload(_Judged):
    """Pairs with known preferences, with which the judge is compared; `answers` names their file."""

    kind, activity, is_along_lam = "calibration", "calibrating", False


@dataclass(frozen=True, kw_only=True)
class WinsWorkload(_Judged):
    """One lam's answers compared with a reference's by a judge; `model` and `reference` name their authors.

    `datasets` are the sources of the instructions; AlpacaEval's allow the full length-controlled win rate.
    """

    kind, activity, measure = "wins", "judging", PREFERRED
    summary_version = 3  # 2: with the length-controlled win rate; 3: with the keys of the pairs
    model: str
    reference: str
    datasets: frozenset[str] = frozenset()

    def summary(self, results: Sequence[JudgedItem]) -> dict[str, Any]:
        return {**super().summary(results), "length_controlled": self._control(results)}

    def _control(self, results: Sequence[JudgedItem]) -> dict[str, Any]:
        """Return the length-controlled win rate in [0, 1], NaN if unknown, with its form and note from `win_rate`."""
        judged = tuple(
            Judgement(instruction=p.instruction, output_1=p.reference, output_2=p.model, preference=r.preference)
            for p, r in zip(self.pairs, results, strict=True)
        )
        out: dict[str, Any] = dict.fromkeys(("value", "stderr", "fit_stderr"), float("nan"))
        if all(j.preference is None for j in judged):
            return {**out, "form": None, "note": "no pair was judged"}
        annotations = Annotations(
            model=self.model,
            reference=self.reference,
            annotator=self.decider.reference,
            judgements=judged,
            datasets=self.datasets,
        )
        rate = win_rate(annotations, *find_length_data(annotations))
        if rate.length_controlled is not None:
            out = {name: getattr(rate.length_controlled, name) / 100 for name in out}
        return {**out, "form": rate.length_controlled_form, "note": rate.length_controlled_note}
