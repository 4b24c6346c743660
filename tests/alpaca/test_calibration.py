"""A judge is believed where it knows more than the lengths of answers."""

from __future__ import annotations

import numpy as np
import pytest

from pa_lite.alpaca.annotations import Judgement
from pa_lite.alpaca.calibration import asked, check_judge, judge_signs, warning_signs
from pa_lite.alpaca.judge import Verdict
from pa_lite.statistics import Mean


def test_a_judge_that_agrees_more_than_length_does() -> None:
    known = [1.0, 0.0] * 50
    longer = [1.0, 0.0, 0.0, 1.0] * 25
    check = check_judge([0.9, 0.2] * 50, known, longer, [0.9, 0.2] * 50)
    assert (check.n, check.agreement.value, check.by_length.value, check.beats_length) == (100, 1.0, 0.5, True)
    assert (check.n_model, check.n_reference, check.is_trusted) == (50, 50, True)
    assert check.win_rate is not None
    assert check.win_rate.value == pytest.approx(0.5)
    assert str(check) == (
        "on 100 pairs the judge agrees with known preferences in 100.0% (s.e. 0.0), the longer answer in 50.0% "
        "(s.e. 5.1), either side counted equally: the judge is measurably better than chance and answer length"
    )


def test_a_judge_of_lengths_beats_nothing() -> None:
    rng = np.random.default_rng(0)
    known, longer = ((rng.random(200) < 0.4).astype(float).tolist() for _ in range(2))
    check = check_judge([0.1 + 0.8 * v for v in longer], known, longer, [0.5] * 9)
    assert check.agreement == check.by_length
    assert not check.beats_length


def test_a_judge_that_never_decides_agrees_by_half() -> None:
    check = check_judge([0.5] * 40, [0.0, 1.0] * 20, [1.0] * 40, [0.5] * 100)
    assert check.agreement.value == 0.5
    assert not check.beats_length
    assert check.win_rate is not None
    assert check.win_rate.value == 0.5  # of the known preferences alone
    assert check.win_rate.stderr == pytest.approx(np.std([0.0, 1.0] * 20, ddof=1) / np.sqrt(40))


def test_few_known_pairs_show_nothing() -> None:
    assert not check_judge([0.9], [1.0], [0.0], [0.9] * 5).beats_length
    known = [1.0, 0.0] * 10
    few, enough = (check_judge(known[:n], known[:n], [0.0, 1.0] * 9 + [0.0, 1.0][: n - 18], None) for n in (19, 20))
    assert (few.is_trusted, enough.is_trusted, enough.win_rate) == (False, True, None)
    assert str(few).endswith("fewer than 20 pairs show nothing")
    same = check_judge([0.9] * 30, [1.0] * 29 + [0.0], [0.0] * 30, None)
    assert (same.n_model, same.n_reference, same.is_trusted) == (29, 1, False)
    assert str(same).endswith("are for the same side, which shows nothing")


def test_pairs_of_one_instruction_are_not_independent() -> None:
    known = [1.0, 0.0] * 20
    longer = [1 - k if i < 12 else k for i, k in enumerate(known)]  # wrong for the first instruction only
    alone = check_judge(known, known, longer, None)
    shared = check_judge(known, known, longer, None, [i // 12 for i in range(40)])
    assert (alone.beats_length, shared.beats_length) == (True, False)
    assert shared.by_length.stderr > 2 * alone.by_length.stderr


def test_a_judge_that_always_prefers_one_side_is_not_trusted() -> None:
    """It agrees with most known preferences where one model is much better, without reading an answer."""
    known = [0.0] * 80 + [1.0] * 20
    longer = [1.0] * 60 + [0.0] * 40  # answer length is even worse
    check = check_judge([0.499] * 100, known, longer, None)
    assert check.agreement.value == 0.5
    assert check.by_length.value == pytest.approx(0.125)
    assert (check.beats_length, check.beats_chance, check.is_trusted) == (True, False, False)
    assert str(check).endswith("the judge is not measurably better than chance")


def test_known_draws_show_nothing() -> None:
    known = [1.0, 0.0] * 20
    check = check_judge(known, known, [0.5] * 40, None)
    with_draws = check_judge([*known, 0.9], [*known, 0.5], [0.5] * 41, None)
    assert with_draws.agreement == check.agreement == Mean(1.0, 0.0)
    nothing = check_judge([0.9] * 30, [0.5] * 30, [1.0] * 30, None)
    assert not nothing.is_trusted
    assert "agrees with known preferences in an unknown share" in str(nothing)


def test_signs_of_a_judge_that_says_nothing() -> None:
    assert warning_signs([0.1, 0.9, 0.7], Mean(0.55, 0.01), Mean(0.8, 0.01), 0.99) == []
    told = warning_signs([0.499, 0.501, 0.5, 0.9], Mean(0.9, 0.01), Mean(0.3, 0.01), 0.1)
    assert [text.split()[2] for text in told] == ["prefers", "would", "prefers", "gives"]
    assert "75% of pairs" in told[0]
    assert "90% of probability" in told[1]
    assert len(warning_signs([], None, None, None)) == 1


def test_signs_of_verdicts_and_of_annotations_by_others() -> None:
    sure = Verdict(preference=1.9, reference_first=0.9, model_first=0.9, answer_mass=1.0)
    first = Verdict(preference=1.5, reference_first=0.0, model_first=1.0, answer_mass=0.2)
    equal, unread = Verdict(preference=1.5), Verdict(preference=None, unjudged="too long")
    assert asked([sure, *[equal] * 9, first, unread]) == [sure, first]  # equal answers tie without a question
    assert judge_signs([sure, sure]) == judge_signs([]) == ()
    assert [sign.split(" ", 2)[2] for sign in judge_signs([first, first, sure])] == [
        "prefers neither answer in 67% of pairs",
        "would write something else than a letter (53% of probability)",
        "prefers the same answer in both orders for 33% of pairs only",
        "gives the answer shown first 83% of the probability",
    ]
    other = [Judgement(instruction="i", output_1="a", output_2="b", preference=p) for p in (1.5, 1.5, 1.51, 2.0)]
    assert judge_signs(other) == ("the judge prefers neither answer in 75% of pairs",)
    assert judge_signs(other[3:]) == ()


def test_an_instruction_on_both_sides_is_one_cluster() -> None:
    """A judge may be right for some instructions only, whichever answer is the better one."""
    known = [1.0, 0.0] * 40
    judged = [k if (i // 8) % 2 else 1 - k for i, k in enumerate(known)]  # right for every second of ten instructions
    alone = check_judge(judged, known, [0.5] * 80, None)
    shared = check_judge(judged, known, [0.5] * 80, None, [i // 8 for i in range(80)])
    assert (alone.agreement.value, shared.agreement.value) == (0.5, 0.5)
    assert shared.agreement.stderr == pytest.approx(0.5 / 9**0.5)  # as for ten items
    assert alone.agreement.stderr == pytest.approx(0.5 / 79**0.5, rel=0.02)
