"""Tests of whole judge runs: annotations, resume of interrupted runs, and the measures of bias."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest

from pa_lite.alpaca.annotations import read_annotations
from pa_lite.alpaca.journal import Journal
from pa_lite.alpaca.judge import JudgeOptions, Verdict
from pa_lite.alpaca.judging import judge_outputs, measure_bias
from pa_lite.alpaca.known import Known, read_known
from pa_lite.alpaca.pairing import AnswerPair, Pairing
from pa_lite.alpaca.win_rate import win_rate
from pa_lite.checkpoints.checkpoint import Vocabulary
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.engine.model_reference import open_model
from pa_lite.errors import OutputError
from pa_lite.ggml.metadata import string
from tests.support.alpaca_files import write_rows
from tests.support.reports import Reports

WORDS = ["Oslo", "a rabbit", "blue", "doctor", "Hello!", "hammer", "seven", "tea"]
PAIRS = tuple(
    AnswerPair(instruction=f"Say {w}.", reference=w, model=f"It is {w}." if i % 4 else w, dataset="demo")
    for i, w in enumerate(WORDS)
)
PAIRING = Pairing(
    model="M",
    reference="R",
    pairs=(*PAIRS, AnswerPair(instruction="Say much.", reference="w " * 400, model="w", dataset="demo")),
    n_left=0,
)


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with open_model("demo@1", EngineOptions(threads=1, n_batch=256)) as opened:
        yield opened


def test_annotations_have_alpacaevals_format(model: Model, tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    done = judge_outputs(model, "demo@1", PAIRING, target, JudgeOptions())
    rows = json.loads(target.read_text("utf-8"))
    assert [r["instruction"] for r in rows] == [p.instruction for p in PAIRING.pairs]
    assert {(r["generator_1"], r["generator_2"], r["annotator"], r["dataset"]) for r in rows} == {
        ("R", "M", "demo@1", "demo")
    }
    assert [(r["output_1"], r["output_2"]) for r in rows] == [(p.reference, p.model) for p in PAIRING.pairs]
    assert [r["preference"] for r in rows[::4]] == [1.5, 1.5, None]
    assert "tokens, the judge's context holds 512" in rows[-1]["unjudged"]
    assert list(tmp_path.iterdir()) == [target]
    bias = done.bias
    assert (bias.n_pairs, bias.n_asked, bias.n_identical, bias.n_too_long) == (9, 6, 2, 1)
    rates = win_rate(read_annotations(target))
    assert (rates.n_total, rates.n_unjudged, rates.n_draws) == (8, 1, 2)
    assert done.win_rate is not None
    assert rates.win_rate == pytest.approx(100 * done.win_rate.value, abs=1e-9)
    assert rates.standard_error == pytest.approx(100 * done.win_rate.stderr, abs=1e-9)
    assert len(done.fingerprint) == 64
    assert done.document()["identity"] == done.identity == model.identity()


def unlike(vocabulary: Vocabulary) -> Vocabulary:
    """Return the same vocabulary with another chat template."""
    return replace(vocabulary, metadata={**vocabulary.metadata, "tokenizer.chat_template": string("{{ messages }}")})


def test_interrupted_run_is_resumed(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, options = tmp_path / "a.json", JudgeOptions(limit=8)
    whole = judge_outputs(model, "j", PAIRING, tmp_path / "whole.json", options)

    def stop(_phase: str, done: int, _total: int, _unit: str) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge_outputs(model, "j", PAIRING, target, options, progress=stop)
    assert not target.exists()
    kept = len((tmp_path / ".a.json.part").read_text("utf-8").splitlines()) - 1
    assert 2 < kept < 8
    with pytest.raises(OutputError, match=rf"an earlier run left {kept} results. Continue it with --resume"):
        judge_outputs(model, "j", PAIRING, target, options)
    with pytest.raises(OutputError, match=r"the order changed\."):
        judge_outputs(model, "j", PAIRING, target, JudgeOptions(both_orders=False), resume=True)
    with (
        open_model("demo@1", EngineOptions(threads=1)) as larger,  # another batch size
        pytest.raises(OutputError, match=r"the settings of the engine changed\."),
    ):
        judge_outputs(larger, "j", PAIRING, target, options, resume=True)
    assert model.merged is not None
    with monkeypatch.context() as patch:
        plan = model.merged.plan
        patch.setattr(model, "merged", replace(plan, vocabulary=unlike(plan.vocabulary)).at(1.0))
        with pytest.raises(OutputError, match=r"the tokenizer and settings of the judge changed\."):
            judge_outputs(model, "j", PAIRING, target, options, resume=True)
    other = Pairing(model="M", reference="R", pairs=PAIRING.pairs[::-1], n_left=0)
    with pytest.raises(OutputError, match=r"the outputs changed\."):
        judge_outputs(model, "j", other, target, options, resume=True)

    reports = Reports()
    done = judge_outputs(model, "j", PAIRING, target, options, resume=True, progress=reports)
    assert done.n_resumed == kept
    assert reports[-1][2] == 2 * (8 - kept)
    assert [v.preference for v in done.verdicts] == pytest.approx([v.preference for v in whole.verdicts], abs=0.01)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "whole.json"]


def known_of(pairs: Sequence[AnswerPair], path: Path) -> Known:
    """Return known preferences for the reference's answer of each pair."""
    rows = [
        {"instruction": p.instruction, "output_1": p.reference, "output_2": p.model, "preference": 1, "annotator": "us"}
        for p in pairs
    ]
    return read_known(write_rows(path, rows))


MANY = tuple(
    AnswerPair(instruction=f"Count to {i}.", reference=f"{i}", model=f"{i} or so", dataset="demo") for i in range(24)
)


def test_judge_is_compared_on_the_pairs_that_it_judged(model: Model, tmp_path: Path) -> None:
    pairing = Pairing(model="M", reference="R", pairs=MANY, n_left=0)
    known = known_of([*MANY[:21], *PAIRS], tmp_path / "known.json")
    done = judge_outputs(model, "j", pairing, tmp_path / "a.json", JudgeOptions(), known=known)
    check = done.judge_check
    assert check is not None
    assert (check.n, check.by_length.value) == (21, 0.0)  # the other pairs of the file were not judged
    right = [1.0 if v.preference is not None and v.preference < 1.5 else 0.0 for v in done.verdicts[:21]]
    assert check.agreement.value == pytest.approx(sum(right) / 21)
    assert check.win_rate is not None
    assert check.win_rate.value == pytest.approx(0)  # every known preference is for the reference
    assert done.document()["judge_check"]["n"] == 21
    again = win_rate(read_annotations(tmp_path / "a.json"), known=known).judge_check
    assert repr(again) == repr(check)  # not ==: a NaN is not equal to itself
    assert win_rate(read_annotations(tmp_path / "a.json")).judge_signs == done.judge_signs


def test_judge_is_asked_about_other_known_pairs_and_resumed(model: Model, tmp_path: Path) -> None:
    target, options = tmp_path / "a.json", JudgeOptions(limit=3)
    known = known_of([*MANY, PAIRS[1]], tmp_path / "known.json")
    whole = judge_outputs(model, "j", PAIRING, tmp_path / "whole.json", options, known=known)
    assert whole.judge_check is not None
    assert (whole.judge_check.n, whole.judge_check.win_rate) == (25, None)  # the win rate is that of other pairs
    assert len(whole.verdicts) == 3

    def stop(_phase: str, done: int, _total: int, _unit: str) -> None:
        if done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge_outputs(model, "j", PAIRING, target, options, progress=stop, known=known)
    with pytest.raises(OutputError, match=r"the calibration pairs changed\."):
        judge_outputs(model, "j", PAIRING, target, options, resume=True)
    reports = Reports()
    done = judge_outputs(model, "j", PAIRING, target, options, resume=True, progress=reports, known=known)
    assert 0 < reports[-1][2] < 2 * (2 + 24)  # pairs judged before are not asked again
    assert done.judge_check is not None
    assert done.judge_check.agreement.value == pytest.approx(whole.judge_check.agreement.value)
    assert len(json.loads(target.read_text("utf-8"))) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "known.json", "whole.json"]


def test_calibration_cannot_be_added_to_an_interrupted_run(model: Model, tmp_path: Path) -> None:
    def stop(_phase: str, done: int, _total: int, _unit: str) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge_outputs(model, "j", PAIRING, tmp_path / "a.json", JudgeOptions(), progress=stop)
    known = known_of(MANY, tmp_path / "known.json")
    with pytest.raises(OutputError, match="cannot resume with this --calibration: the earlier run did not judge"):
        judge_outputs(model, "j", PAIRING, tmp_path / "a.json", JudgeOptions(), resume=True, known=known)


def test_limit_keeps_the_first_pairs(model: Model, tmp_path: Path) -> None:
    assert [p.instruction for p in judge_outputs(model, "j", PAIRING, tmp_path / "a", JudgeOptions(limit=3)).pairs] == [
        p.instruction for p in PAIRS[:3]
    ]


def test_measures_of_bias() -> None:
    pairs = [AnswerPair(instruction=str(i), reference="r", model="m", dataset="d") for i in range(5)] + [
        AnswerPair(instruction="5", reference="m", model="m", dataset="d")
    ]
    verdicts = [
        Verdict(
            preference=1.9, reference_first=0.9, model_first=0.9, answer_mass=0.8
        ),  # prefers the model in both orders
        Verdict(
            preference=1.1, reference_first=0.2, model_first=0.0, answer_mass=0.6
        ),  # prefers the reference in both orders
        Verdict(
            preference=1.5, reference_first=0.1, model_first=0.9, answer_mass=1.0
        ),  # prefers the answer shown first: a tie
        Verdict(preference=1.45, reference_first=0.4, model_first=0.5, answer_mass=0.4),  # undecided in one order only
        Verdict(preference=None, unjudged="too long"),
        Verdict(preference=1.5),
    ]
    bias = measure_bias(pairs, verdicts)
    assert (bias.n_pairs, bias.n_asked, bias.n_identical, bias.n_too_long, bias.n_ties) == (6, 4, 1, 1, 1)
    assert bias.agreement is not None
    assert bias.agreement.value == 0.5
    assert bias.first_shown is not None
    firsts = [(0.1 + 0.9) / 2, (0.8 + 0.0) / 2, 0.9, (0.6 + 0.5) / 2]
    assert bias.first_shown.value == pytest.approx(sum(firsts) / 4)
    assert bias.answer_mass == pytest.approx(0.7)
    one = measure_bias(
        pairs[:2],
        [
            Verdict(preference=1.9, reference_first=0.9, model_first=None, answer_mass=0.8),
            Verdict(preference=1.2, reference_first=None, model_first=0.2, answer_mass=0.8),
        ],
    )
    assert one.agreement is None
    assert one.first_shown is not None
    assert one.first_shown.value == pytest.approx((0.1 + 0.2) / 2)
    nothing = measure_bias(pairs[5:], verdicts[5:])
    assert (nothing.first_shown, nothing.agreement, nothing.answer_mass) == (None, None, None)


def test_output_that_another_process_finished_is_kept(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, open_journal = tmp_path / "a.json", Journal._open

    def late(self: Journal) -> tuple[BinaryIO, bool]:
        opened = open_journal(self)
        target.write_text("another's", "utf-8")
        return opened

    monkeypatch.setattr(Journal, "_open", late)
    with pytest.raises(OutputError, match="exists already"):
        judge_outputs(model, "j", PAIRING, target, JudgeOptions(limit=1))
    assert target.read_text("utf-8") == "another's"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
