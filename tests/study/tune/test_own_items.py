"""The items that choose and those held out, and the probability of the right answer."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import pa_lite
from pa_lite.engine.model_reference import open_model
from pa_lite.engine.scoring import make_requests, score_requests
from pa_lite.errors import InputError
from pa_lite.study.plan import StudyOptions
from pa_lite.study.tune.first_pass import first_text
from pa_lite.study.tune.own_items import LikelyTask, held_out, likelihoods, split_task
from pa_lite.study.tune.run import plan_tuning
from pa_lite.tasks.examples import Examples, examples_task
from pa_lite.tasks.scoring import ScoreOptions
from tests.study.test_examples import towns


@pytest.mark.parametrize("kind", ["G", "MC"])
def test_held_out_rows_are_no_exemplars_and_not_in_the_first_pass(tmp_path: Path, kind: str) -> None:
    spec = examples_task(Examples(towns(tmp_path, 30), kind=kind))
    kept, held = split_task(spec, ScoreOptions(), 0)
    names = [[str(item.row["question"]) for item in part.prepared.items] for part in (kept, held)]
    assert (len(names[0]), len(names[1])) == (22, 8)
    assert not set(names[0]) & set(names[1])
    text = first_text([kept], None, 512)
    assert text is not None
    lead = "".join([*(item.lead for part in (kept, held) for item in part.prepared.items), *text.passages])
    assert not [name for name in names[1] if name in lead]
    assert [name for name in names[0] if name in lead]
    assert all(item.lead.count("->") == kept.prepared.shots for part in (kept, held) for item in part.prepared.items)
    others = [[str(item.row["question"]) for item in split_task(spec, ScoreOptions(), seed)[1].prepared.items]
              for seed in (0, 1)]  # fmt: skip
    assert others[0] == names[1] != others[1]


def test_the_first_pass_has_at_most_a_tenth_of_the_tokens(tmp_path: Path) -> None:
    own, notes = towns(tmp_path), Path(pa_lite.__file__).parents[1] / "README.md"
    for options in (
        StudyOptions(examples=own),  # type: ignore[arg-type]
        StudyOptions(tasks=("demo_lookup",)),
        StudyOptions(text=(notes,)),
        StudyOptions(examples=own, text=(notes,)),  # type: ignore[arg-type]
    ):
        tuning = plan_tuning("demo", options, None, "")
        assert tuning.first is not None
        assert 0 < tuning.first_share <= 0.101
        assert all(workload.n_items for workload in (tuning.first, *tuning.held))


@pytest.mark.parametrize("kind", ["G", "MC"])
def test_the_probability_is_that_of_the_right_answer_after_the_prompt(tmp_path: Path, kind: str) -> None:
    kept, _ = split_task(examples_task(Examples(towns(tmp_path, 30), kind=kind)), ScoreOptions(), 0)
    items = range(6)
    with open_model("demo@0.7") as model:
        records = kept.run(model, items)
        for i in items:
            item = kept.prepared.items[i]
            answer = " " + str(item.row["answer"]) + ("\n" if kind == "G" else "")
            (request,) = make_requests(model, item.prompt, [answer])
            (alone,) = score_requests(model, [request])
            assert records[i]["likelihood"] == pytest.approx(math.exp(alone.logprob), abs=0.01)
    assert isinstance(kept, LikelyTask)
    assert kept.facts["likelihood"] is True


def test_items_that_ask_the_same_are_on_one_side() -> None:
    keys = [f"q{i // 3}" for i in range(90)]
    for seed in range(5):
        gone = held_out(keys, seed, "t")
        assert {keys[i] for i in gone}.isdisjoint(keys[i] for i in range(90) if i not in gone)
        assert 22 <= len(gone) <= 25
    assert len(held_out([str(i) for i in range(5000)], 0, "t")) == 200
    assert len(held_out([str(i) for i in range(8)], 0, "t")) == 2
    with pytest.raises(InputError, match="t: has 3 different items to choose by; at least 4 are required"):
        held_out(["a", "b", "c", "a"], 0, "t")


def test_a_damaged_record_is_an_error() -> None:
    assert likelihoods([{"likelihood": 0.25}, {"likelihood": 1.0}]) == [0.25, 1.0]
    for wrong in ({}, {"likelihood": 2.0}, {"likelihood": "0.5"}, {"likelihood": math.nan}):
        with pytest.raises(InputError, match="results of this tuning are damaged"):
            likelihoods([wrong])
