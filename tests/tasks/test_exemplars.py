"""Leave-one-out: every row is scored, after exemplars that are never the row itself."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pa_lite.errors import InputError
from pa_lite.tasks import exemplars
from pa_lite.tasks.prompts import prepare_draws, prepare_task
from pa_lite.tasks.rendering import Item
from pa_lite.tasks.spec import TaskSpec, load_suite_file

Row = dict[str, Any]


def task(folder: Path, rows: list[Row], **more: Any) -> TaskSpec:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    fields = {"template": "<{{ q }}>", "separator": "\n", "shots": 4, "kind": "G", "answers": "a", **more}
    fields["is_own"] = True  # without a process for templates, which is slow to start
    return TaskSpec(name="t", data={"test": "rows.jsonl"}, folder=folder, leave_one_out=True, **fields)


def rows_of(n: int, answers: int = 3) -> list[Row]:
    return [{"q": f"q{i}", "a": f"a{i % answers}"} for i in range(n)]


def shown(item: Item) -> list[str]:
    """Return the questions of the exemplars before an item."""
    return [line[1 : line.index(">")] for line in item.lead.splitlines()]


def test_every_row_is_scored_after_others(tmp_path: Path) -> None:
    prepared = prepare_task(task(tmp_path, rows_of(12)))
    assert [item.row["q"] for item in prepared.items] == [f"q{i}" for i in range(12)]
    assert prepared.is_drawn
    for item in prepared.items:
        assert len(shown(item)) == len(set(shown(item))) == 4
        assert item.row["q"] not in shown(item)
    # one order for all: a row that would be its own exemplar gets the next one
    common = Counter(item.lead for item in prepared.items).most_common()
    assert [n for _, n in common] == [8, 1, 1, 1, 1]


def test_the_seed_changes_exemplars_and_not_items(tmp_path: Path) -> None:
    spec = task(tmp_path, rows_of(12))
    draws = prepare_draws(spec, seeds=range(3))
    assert len({draw.items[0].lead for draw in draws}) == 3
    assert len({tuple((i.index, i.key) for i in draw.items) for draw in draws}) == 1
    assert draws[1] == prepare_task(spec, seed=1)
    (only,) = prepare_draws(task(tmp_path, rows_of(12), sampler="first"), seeds=range(3))
    assert not only.is_drawn
    assert [shown(item) for item in only.items[:5]] == [
        ["q1", "q2", "q3", "q4"], ["q0", "q2", "q3", "q4"], ["q0", "q1", "q3", "q4"], ["q0", "q1", "q2", "q4"],
        ["q0", "q1", "q2", "q3"],
    ]  # fmt: skip


def test_limit_and_sample_choose_items_but_exemplars_come_from_all_rows(tmp_path: Path) -> None:
    spec = task(tmp_path, rows_of(40))
    assert prepare_task(spec, limit=5).items == prepare_task(spec).items[:5]
    sampled = prepare_task(task(tmp_path, rows_of(40), sample=6))
    assert len(sampled.items) == 6
    assert {q for item in sampled.items for q in shown(item)} - {item.row["q"] for item in sampled.items}


def test_balanced_exemplars_have_every_answer_equally_often_whatever_the_items_answer(tmp_path: Path) -> None:
    rows = [{"q": f"q{i}", "a": "ham" if i % 5 else "spam"} for i in range(30)]
    answer = {row["q"]: row["a"] for row in rows}
    spec = task(tmp_path, rows, sampler="balanced")
    for draw in prepare_draws(spec, seeds=range(3)):
        assert draw.is_drawn
        for item in draw.items:
            assert Counter(answer[q] for q in shown(item)) == {"ham": 2, "spam": 2}


def test_rows_with_the_items_text_or_cluster_are_never_its_exemplars(tmp_path: Path) -> None:
    rows = [{"q": text, "a": "x", "passage": text[0].lower()} for text in ("Aa", " aA", "ab", "ba", "bb", "ca", "da")]
    for item in prepare_task(task(tmp_path, rows, shots=3)).items:
        texts = [" ".join(q.casefold().split()) for q in shown(item)]
        assert len(set(texts)) == 3
        assert " ".join(item.row["q"].casefold().split()) not in texts
    for item in prepare_task(task(tmp_path, rows, shots=3, cluster="passage")).items:
        assert item.row["passage"] not in {q.strip()[0].lower() for q in shown(item)}


def test_groups_have_their_own_exemplars(tmp_path: Path) -> None:
    rows = [{"q": f"{g}{i}", "a": "x", "g": g} for i in range(5) for g in "uv"]
    for item in prepare_task(task(tmp_path, rows, group_by="g")).items:
        assert {q[0] for q in shown(item)} == {item.row["g"]}


def test_too_few_other_rows_are_an_error_that_names_the_number(tmp_path: Path) -> None:
    rows = [*rows_of(4), {"q": "Q1", "a": "x"}]
    with pytest.raises(
        InputError, match=r"rows.jsonl:1: 4 shots .* only 3 other rows ask something else. Use --shots 3"
    ):
        prepare_task(task(tmp_path, rows))
    assert len(shown(prepare_task(task(tmp_path, rows), shots=3).items[0])) == 3
    assert prepare_task(task(tmp_path, rows), shots=0).items[0].lead == ""


def test_candidates_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exemplars, "_MOST_CANDIDATES", 10)
    spec = task(tmp_path, rows_of(50))
    seen = {q for draw in prepare_draws(spec, seeds=range(20)) for item in draw.items for q in shown(item)}
    assert len(seen) == 10


@settings(deadline=None)
@given(data=st.data())
def test_the_fast_choice_equals_the_slow_one(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The slow twin removes the item's own text from all candidates and chooses from the start, for every item."""
    folder = tmp_path_factory.mktemp("rows")
    texts = data.draw(st.lists(st.sampled_from("abcdefghAB"), min_size=6, max_size=14))
    rows = [{"q": text, "a": data.draw(st.sampled_from("xyz"))} for text in texts]
    n, seed = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 9))
    spec = task(folder, rows, shots=n, sampler=data.draw(st.sampled_from(("seed", "balanced"))))
    distinct = len({text.lower() for text in texts})
    if distinct <= n:
        return
    order = [int(i) for i in np.random.default_rng(seed).permutation(len(rows))]
    for item in prepare_task(spec, seed=seed).items:
        first: dict[str, int] = {}
        for i in order:
            first.setdefault(rows[i]["q"].lower(), i)
        others = [i for text, i in first.items() if text != item.row["q"].lower()]
        if spec.sampler == "balanced":
            rank = {i: sum(rows[j]["a"] == rows[i]["a"] for j in others[:at]) for at, i in enumerate(others)}
            others = sorted(others, key=lambda i: rank[i])
        assert shown(item) == [rows[i]["q"] for i in others[:n]]


def test_task_files_may_ask_for_it(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    text = '[tasks.t]\ndata = { test = "rows.jsonl" }\ntemplate = "{{ q }}"\nshots = 2\nleave_one_out = true\n'
    path.write_text(text, "utf-8")
    assert load_suite_file(path)[0].leave_one_out
    path.write_text(text + 'shots_split = "test"\n', "utf-8")
    with pytest.raises(InputError, match=r"task t: leave_one_out draws from the scored split: remove shots_split"):
        load_suite_file(path)
