"""Judging of two output files: verdicts journaled as they arrive, annotations, and measures of the judge's bias."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pa_lite.alpaca.calibration import (
    LEAST_PAIRS,
    JudgeCheck,
    asked,
    judge_signs,
    mean_mass,
    order_agreement,
    shown_first,
)  # fmt: skip
from pa_lite.alpaca.journal import Journal, digest, recorded_fact
from pa_lite.alpaca.judge import PROMPT_ID, JudgeOptions, Verdict, judge_pairs
from pa_lite.alpaca.known import Known, compare_judge, key_of, mirrored
from pa_lite.alpaca.outputs import with_recorded_date
from pa_lite.alpaca.pairing import AnswerPair, Pairing
from pa_lite.alpaca.records import Record
from pa_lite.engine.chat_options import ChatOptions
from pa_lite.engine.chat_template import chat_facts, measured_options, template_of
from pa_lite.engine.model import Model
from pa_lite.errors import OutputError
from pa_lite.progress import Progress
from pa_lite.statistics import Mean, standard_error
from pa_lite.system.atomic import check_target, write_text

_CALIBRATION = "calibration pairs"  # a fact of the journal, where the judge is asked about such pairs too
# keys of `chat_facts` -> names for messages
_NAMES = {"system": "system prompt", "template_args": "template arguments (--template-arg)", "date": "date"}


@dataclass(frozen=True, kw_only=True)
class Bias:
    """How far to trust a judge, over `n_asked` pairs; shares in [0, 1].

    `first_shown` is the mean probability of preferring the answer shown first: 0.5 without position bias. Only with
    both orders is it independent of the answers' quality. `agreement` is the share of pairs whose two orders prefer the
    same model, None with one order. `answer_mass` near 0 means that the judge would reply with something other than a
    letter.
    """

    n_pairs: int
    n_asked: int
    n_identical: int
    n_too_long: int
    n_ties: int
    first_shown: Mean | None
    agreement: Mean | None
    answer_mass: float | None


@dataclass(frozen=True, kw_only=True)
class Judging:
    """A judge's verdicts on the first pairs of a pairing, in order; `judge` is its name under `annotator`.

    `n_resumed` verdicts are from an earlier run. `chat` records what differs from the chat template's defaults in the
    judge's prompts (see `chat_facts`). `judge_check` compares the judge with known preferences, if any were given.
    """

    judge: str
    fingerprint: str
    identity: str
    pairing: Pairing
    options: JudgeOptions
    verdicts: tuple[Verdict, ...]
    n_resumed: int = 0
    chat: Mapping[str, Any] = field(default_factory=dict)
    judge_check: JudgeCheck | None = None

    @property
    def judge_signs(self) -> tuple[str, ...]:
        """What speaks against the judge, in words (see `warning_signs`)."""
        return judge_signs(asked(self.verdicts))

    @property
    def pairs(self) -> tuple[AnswerPair, ...]:
        return self.pairing.pairs[: len(self.verdicts)]

    @property
    def bias(self) -> Bias:
        return measure_bias(self.pairs, self.verdicts)

    @property
    def win_rate(self) -> Mean | None:
        """The model's mean preference over judged pairs, in [0, 1]."""
        values = [v.preference - 1 for v in self.verdicts if v.preference is not None]
        return Mean(float(np.mean(values)), standard_error(values)) if values else None

    def document(self) -> Record:
        """Return the figures and their origin as JSON, for a report."""
        return {
            "judge": self.judge,
            "fingerprint": self.fingerprint,
            "identity": self.identity,
            "prompt": PROMPT_ID,
            "model": self.pairing.model,
            "reference": self.pairing.reference,
            "n_reference_only": self.pairing.n_left,
            "options": asdict(self.options),
            "chat": dict(self.chat),
            "n_resumed": self.n_resumed,
            "win_rate": None if self.win_rate is None else asdict(self.win_rate),
            **asdict(self.bias),
            "judge_signs": list(self.judge_signs),
            "judge_check": None if self.judge_check is None else asdict(self.judge_check),
        }

    def annotations(self) -> list[Record]:
        """Return the entries of an annotations file: AlpacaEval's fields and the fields of the verdict."""
        return [
            {
                "instruction": pair.instruction,
                "dataset": pair.dataset,
                "output_1": pair.reference,
                "generator_1": self.pairing.reference,
                "output_2": pair.model,
                "generator_2": self.pairing.model,
                "annotator": self.judge,
                **asdict(verdict),
            }
            for pair, verdict in zip(self.pairs, self.verdicts, strict=True)
        ]


def judge_outputs(
    model: Model,
    judge: str,
    pairing: Pairing,
    target: Path,
    options: JudgeOptions,
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    chat: ChatOptions | None = None,
    known: Known | None = None,
) -> Judging:
    """Judge a pairing and write the annotations to `target`; verdicts are journaled next to it as they arrive.

    `resume` continues an interrupted run with the same judge, outputs, orders and date; the limit may differ. `chat`
    applies to the judge's prompts. The judge is compared with `known` preferences: on the pairs judged if LEAST_PAIRS
    of them are known, otherwise it is asked about all pairs of `known`. Raises what Journal and judge_pairs raise, and
    InputError for preferences that cannot be used.
    """
    pairs = pairing.pairs[: options.limit]
    further = () if known is None else _further_pairs(known, pairing, pairs, judge)
    if resume and further and recorded_fact(target, "outputs") and not recorded_fact(target, _CALIBRATION):
        raise OutputError(
            f"{target}: cannot resume with this --calibration: the earlier run did not judge its pairs. Resume without "
            "it, or discard the earlier results with --force."
        )
    fingerprint = model.fingerprint()
    if resume:
        chat = with_recorded_date(chat, target)
    template = template_of(model)
    chat = measured_options(template, chat, model.name)
    chat_inputs = chat_facts(template, chat, model.name)
    facts = {
        **model.inputs("judge"),
        "judge": digest(fingerprint),  # as in journals of pa-lite 0.1.0
        "judge's prompt": PROMPT_ID,
        "context": digest(model.max_length),
        "outputs": digest(asdict(pairing)),
        **{_NAMES[key]: value if key == "date" else digest(value) for key, value in chat_inputs.items()},
        "order": digest("both" if options.both_orders else options.seed),
        **({_CALIBRATION: digest([asdict(pair) for pair in further])} if further else {}),
    }
    n_main = len(pairing.pairs)
    every = {**dict(enumerate(pairs)), **dict(enumerate(further, n_main))}
    check_target(target, force)
    with Journal(target, facts, n_main + len(further), resume, force) as journal:
        check_target(target, force)  # again, under the lock: another process may have finished since
        verdicts = journal.results_as(Verdict, Verdict.is_possible)
        missing = [i for i in every if i not in verdicts]

        def finished(i: int, verdict: Verdict) -> None:
            verdicts[missing[i]] = verdict
            journal.add(missing[i], asdict(verdict))

        judge_pairs(model, [every[i] for i in missing], options, finished, progress, chat)
        in_order = tuple(verdicts[i] for i in range(len(pairs)))
        n_resumed = len(pairs) - sum(i < n_main for i in missing)
        done = Judging(
            judge=judge,
            fingerprint=fingerprint,
            identity=model.identity(),
            pairing=pairing,
            options=options,
            verdicts=in_order,
            n_resumed=n_resumed,
            chat=chat_inputs,
            judge_check=None if known is None else _check(known, every, verdicts, n_main, bool(further)),
        )
        write_text(target, json.dumps(done.annotations(), indent=2, ensure_ascii=False) + "\n")
        journal.finish()
    return done


def _further_pairs(known: Known, pairing: Pairing, pairs: Sequence[AnswerPair], judge: str) -> tuple[AnswerPair, ...]:
    """Return the pairs that the judge must be asked about too, so that it can be compared with `known`."""
    keys = dict.fromkeys(key_of(pair) for pair in pairs)
    known.check_annotator(judge)
    known.check_names(keys, pairing.reference, pairing.model)
    if len(known.among(keys)) >= LEAST_PAIRS:
        return ()
    both_orders = {*keys, *map(mirrored, keys)}
    return tuple(pair for pair in known.pairs if key_of(pair) not in both_orders)


def _check(
    known: Known, pairs: Mapping[int, AnswerPair], verdicts: Mapping[int, Verdict], n_main: int, has_further: bool
) -> JudgeCheck | None:
    """Compare the verdicts with `known`; the win rate is adjusted only where all known pairs are among its own."""
    judged = {i: v.preference - 1 for i in pairs if (v := verdicts[i]).preference is not None}
    own = None if has_further else [value for i, value in judged.items() if i < n_main]
    return compare_judge(known, ((key_of(pairs[i]), value) for i, value in judged.items()), own)


def measure_bias(pairs: Sequence[AnswerPair], verdicts: Sequence[Verdict]) -> Bias:
    """Return the judge's figures over pairs and their verdicts, in the same order."""
    found = asked(verdicts)
    return Bias(
        n_pairs=len(pairs),
        n_asked=len(found),
        n_identical=sum(p.reference == p.model for p in pairs),
        n_too_long=sum(v.unjudged is not None for v in verdicts),
        n_ties=sum(v.preference == 1.5 for v in found),
        first_shown=shown_first(found),
        agreement=order_agreement(found),
        answer_mass=mean_mass(found),
    )
