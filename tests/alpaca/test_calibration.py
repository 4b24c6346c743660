"""A judge is believed where it knows more than the lengths of answers."""

from __future__ import annotations

import numpy as np
import pytest

from pa_lite.alpaca.calibration import check_judge, warning_signs
from pa_lite.statistics import Mean


def test_a_judge_that_agrees_more_than_length_does() -> None:
    known = [1.0, 0.0] * 50
    longer = [1.0, 0.0, 0.0, 1.0] * 25
    check = check_judge([0.9, 0.2] * 50, known, longer, [0.9, 0.2] * 50)
    assert (check.n, check.agreement.value, check.by_length.value, check.beats_length) == (100, 1.0, 0.5, True)
    assert check.win_rate.value == pytest.approx(0.5)


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
    assert check.win_rate.value == 0.5  # of the known preferences alone
    assert check.win_rate.stderr == pytest.approx(np.std([0.0, 1.0] * 20, ddof=1) / np.sqrt(40))


def test_one_known_pair_shows_nothing() -> None:
    assert not check_judge([0.9], [1.0], [0.0], [0.9] * 5).beats_length


def test_signs_of_a_judge_that_says_nothing() -> None:
    assert warning_signs([0.1, 0.9, 0.7], Mean(0.55, 0.01), Mean(0.8, 0.01), 0.99) == []
    told = warning_signs([0.499, 0.501, 0.5, 0.9], Mean(0.9, 0.01), Mean(0.3, 0.01), 0.1)
    assert [text.split()[2] for text in told] == ["prefers", "would", "prefers", "gives"]
    assert "75% of pairs" in told[0]
    assert "90% of probability" in told[1]
    assert len(warning_signs([], None, None, None)) == 1
