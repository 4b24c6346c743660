from __future__ import annotations

import math

import pytest

from pa_lite.statistics import clustered_error, mean_over_tasks, significant_z, standard_error


def test_standard_error_is_sample_deviation_over_root_n() -> None:
    assert standard_error([0, 1, 1, 1]) == pytest.approx(math.sqrt(0.25 / 4))
    assert standard_error([1.0]) == 0.0


def test_clustered_error() -> None:
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    assert clustered_error([[v] for v in values]) == pytest.approx(standard_error(values))
    # two of the same in each cluster tell no more than one
    assert clustered_error([[v, v] for v in values]) == pytest.approx(standard_error(values))
    # of opposite errors within clusters nothing is left
    assert clustered_error([[0.0, 1.0], [1.0, 0.0], []]) == 0.0
    assert clustered_error([[1.0, 0.0, 1.0]]) == clustered_error([]) == 0.0


def test_mean_over_tasks_weighs_tasks_alike() -> None:
    few, many = [0.0, 1.0], [1.0] * 98 + [0.0, 0.0]
    got = mean_over_tasks([few, many])
    assert got.value == pytest.approx((0.5 + 0.98) / 2)
    assert got.stderr == pytest.approx(math.hypot(standard_error(few), standard_error(many)) / 2)


def test_bonferroni() -> None:
    assert significant_z(1) == pytest.approx(1.959964, abs=1e-6)
    assert significant_z(10) == pytest.approx(2.807034, abs=1e-6)
