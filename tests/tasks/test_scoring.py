from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from pa_lite.engine.model import EngineOptions
from pa_lite.engine.model_reference import open_model
from pa_lite.engine.scoring import make_requests, score_requests
from pa_lite.errors import InputError
from pa_lite.statistics import score_interval, spread_over_seeds, standard_error
from pa_lite.tasks.draws import score_tasks
from pa_lite.tasks.prompts import build_items
from pa_lite.tasks.scoring import ScoreOptions
from pa_lite.tasks.spec import TaskSpec, find_tasks
from tests.support.reports import Reports

ONE = EngineOptions(threads=1)


def test_results_follow_from_items_in_order() -> None:
    seen = Reports()
    specs = find_tasks(["demo_kind", "demo_labels"])
    with open_model("demo@0", ONE) as model:
        result = score_tasks(model, specs, ScoreOptions(limit=20), seen)
        items = build_items(specs[1], limit=20)
        alone = [score_requests(model, [r])[0] for r in make_requests(model, items[3].prompt, items[3].continuations)]
    assert [t.task for t in result.tasks] == ["demo_kind", "demo_labels"]
    kind, labels = result.tasks
    assert kind.n == labels.n == len(kind.items) == 20
    assert labels.items[3].logprobs == pytest.approx([s.logprob for s in alone], abs=0.01)
    for task in result.tasks:
        right = [i.value for i in task.items]
        assert task.accuracy == sum(right) / 20
        assert task.stderr == pytest.approx(standard_error(right))
        assert all(i.logprobs[i.picked] == max(i.logprobs) for i in task.items)
    assert result.accuracy.value == pytest.approx((kind.accuracy + labels.accuracy) / 2)
    assert labels.chance == pytest.approx(1 / 3)
    assert seen[-1] == ("score demo_labels", 20 * 8 + 20 * 3, 20 * 8 + 20 * 3, "requests")


def test_several_draws_of_exemplars_are_averaged() -> None:
    seen = Reports()
    specs = find_tasks(["demo_kind", "demo_labels"])
    options = ScoreOptions(limit=20, seed=3, seeds=3, noise_sample=4)
    with open_model("demo@0.6", ONE) as model:
        result = score_tasks(model, specs, options, seen)
        alone = score_tasks(model, specs[:1], ScoreOptions(limit=20, seed=4))
    kind, labels = result.tasks
    assert (kind.n, len(kind.items), len(kind.draws)) == (20, 60, 3)
    assert [i.value for i in kind.items[20:40]] == [i.value for i in alone.tasks[0].items]
    assert kind.by_seed[1] == alone.tasks[0].accuracy
    assert kind.accuracy == pytest.approx(sum(kind.by_seed) / 3)
    values = np.reshape([i.value for i in kind.items], (3, 20))
    spread = spread_over_seeds(values)
    own = next(m.measured for m in kind.metrics if m.name == "acc")
    assert (kind.stderr, own.stderr) == (spread.stderr, spread.stderr)
    assert (own.low, own.high) == score_interval(kind.accuracy, spread)
    assert (labels.draws, labels.by_seed, len(labels.items)) == ((), (labels.accuracy,), 20)
    assert kind.is_drawn
    assert not labels.is_drawn
    assert result.remarks == ("scored once, not with 3 draws of exemplars, as no exemplars are drawn: demo_labels",)
    assert result.accuracy.value == pytest.approx((kind.accuracy + labels.accuracy) / 2)
    assert result.accuracy.stderr == pytest.approx(math.hypot(kind.stderr, labels.stderr) / 2)
    assert seen[-1] == ("score demo_labels", 3 * 20 * 8 + 20 * 3, 3 * 20 * 8 + 20 * 3, "requests")


@pytest.mark.parametrize("seeds", [0, 1001])
def test_number_of_seeds_is_bounded(seeds: int) -> None:
    with pytest.raises(InputError, match=f"seeds is {seeds}, but must be from 1 to 1000"):
        ScoreOptions(seeds=seeds)


def test_ties_go_to_the_first(tmp_path: Path) -> None:
    rows = [{"split": "test", "q": "a", "choices": ["the", "the"], "answer": 1}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    spec = TaskSpec(name="t", data="rows.jsonl", template="{{ q }}", folder=tmp_path)
    with open_model("demo@1", ONE) as model:
        (task,) = score_tasks(model, [spec]).tasks
    assert task.items[0].picked == 0
    assert task.accuracy == 0.0
    assert math.isnan(task.stderr)  # unknown for a single item


def test_bad_tasks_are_refused_before_scoring(tmp_path: Path) -> None:
    spec = TaskSpec(name="t", data="no.jsonl", template="{{ q }}", folder=tmp_path)
    seen = Reports()
    with open_model("demo@1", ONE) as model:
        with pytest.raises(InputError, match=r"no.jsonl"):
            score_tasks(model, [*find_tasks(["demo"]), spec], None, seen)
        with pytest.raises(InputError, match="limit is 0"):
            score_tasks(model, find_tasks(["demo"]), ScoreOptions(limit=0))
    assert seen == []
