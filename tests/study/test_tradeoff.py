from __future__ import annotations

from collections.abc import Sequence

import pytest

from pa_lite.checkpoints.pairs import Pair
from pa_lite.follow.instructions import Answer, FollowResult, load_instructions
from pa_lite.follow.outputs import demo_instructions_path
from pa_lite.statistics import standard_error
from pa_lite.study.tradeoff import Point, TradeOff, measure_tradeoff
from pa_lite.tasks.scoring import ItemScore, ScoreOptions, SuiteResult, TaskResult
from pa_lite.tasks.spec import find_tasks


def point(lam: float, tasks: Sequence[Sequence[int]], follow: Sequence[int]) -> Point:
    """A point from right (1) and wrong (0) items of each task, and instructions followed or not."""
    results = []
    for i, right in enumerate(tasks):
        items = tuple(ItemScore(k, (-1.0, -2.0), 0, 0 if r else 1) for k, r in enumerate(right))
        mean = sum(right) / len(right)
        results.append(TaskResult(f"t{i}", "", len(right), mean, standard_error(right), 0.5, 0.5, items))
    answers = tuple(Answer("i", "k", "o", True, bool(f)) for f in follow)
    share = sum(follow) / len(follow)
    followed = FollowResult("m", len(follow), share, standard_error(follow), answers)
    return Point(lam, SuiteResult("m", ScoreOptions(), tuple(results)), followed)


def test_differences_are_paired_by_item() -> None:
    left = point(0.5, [[1] * 50 + [0] * 50, [1] * 10], [1])
    right = point(1.0, [[1] * 40 + [0] * 60, [1] * 10], [1])
    got = TradeOff((left, right)).difference(left, right)
    assert got.value == pytest.approx(0.05)
    assert got.stderr == pytest.approx(standard_error([1.0] * 10 + [0.0] * 90) / 2)  # not of two independent means


def test_best_is_the_first_of_equals() -> None:
    points = tuple(point(lam, [[1, r, 0, 0]], [0]) for lam, r in ((0.0, 0), (0.3, 1), (0.6, 1)))
    assert TradeOff(points).best.lam == 0.3


def test_the_conclusion_claims_only_what_is_clear() -> None:
    low, middle, high = [1] * 200 + [0] * 800, [1] * 600 + [0] * 400, [1] * 603 + [0] * 397
    result = TradeOff((point(0.0, [middle], [0, 0]), point(0.4, [high], [0, 1]), point(1.0, [low], [1, 1])))
    assert result.conclusion() == (
        "Few-shot accuracy is highest at lam 0.4, 40.3 points above instruct (lam 1; clearly), "
        "0.3 points above base (lam 0; but within noise). "
        "Instructions followed: 0% at lam 0, 50% at lam 0.4, 100% at lam 1."
    )
    ends = TradeOff((point(0.0, [high], [0, 0]), point(1.0, [low], [1, 1])))
    assert "highest at lam 0, 40.3 points above instruct" in ends.conclusion()
    assert "base" not in ends.conclusion()


def test_measured_points_do_not_depend_on_workers(demo_pair: Pair) -> None:
    tasks = find_tasks(["demo_kind", "demo_lookup"])
    instructions = load_instructions(demo_instructions_path())[::24]
    seen: list[tuple[int, int]] = []
    one, two = (
        measure_tradeoff(
            demo_pair.base, demo_pair.instruct, (0.0, 0.5, 1.0), tasks, instructions, ScoreOptions(limit=12),
            workers=workers, progress=lambda done, total: seen.append((done, total)),
        ) for workers in (1, 2)
    )  # fmt: skip
    assert one == two
    assert [p.lam for p in one.points] == [0.0, 0.5, 1.0]
    assert seen == [(i, 7) for i in range(1, 8)] * 2
