from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pa_lite.errors import InputError
from pa_lite.tasks import prompts
from pa_lite.tasks.averages import cluster_numbers
from pa_lite.tasks.baselines import Accepted
from pa_lite.tasks.data import RowReference
from pa_lite.tasks.prompts import build_items, prepare_draws, prepare_task
from pa_lite.tasks.rendering import Formatter
from pa_lite.tasks.spec import TaskSpec, find_tasks


def row(query: str | None, answer: int = 0, split: str = "test", **more: Any) -> dict[str, Any]:
    return {"split": split, "query": query, "choices": ["yes", "no"], "answer": answer, **more}


def task(folder: Path, rows: list[Any], **more: Any) -> TaskSpec:
    text = "\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows)
    (folder / "rows.jsonl").write_text(text, "utf-8")
    fields = {"template": "{{ query }}?", "separator": "\n", "shots_split": "shots", **more}
    return TaskSpec(name="t", data="rows.jsonl", folder=folder, **fields)


def test_exemplars_come_before_the_item(tmp_path: Path) -> None:
    rows = [row("a", 0, "shots"), row("b", 1, "shots"), row("c"), row("d", 1)]
    items = build_items(task(tmp_path, rows, shots=2))
    assert [i.answer for i in items] == [0, 1]
    assert items[0].continuations == (" yes", " no")
    assert items[0].prompt in ("a? yes\nb? no\nc?", "b? no\na? yes\nc?")
    assert items[1].prompt == items[0].prompt[:-2] + "d?"


def test_exemplars_follow_the_seed_and_exclude_the_item(tmp_path: Path) -> None:
    spec = task(tmp_path, [row(f"q{i}") for i in range(12)], shots=4, shots_split="test")
    leads = set()
    for seed in range(5):
        items = build_items(spec, seed=seed)
        assert len(items) == 8
        for item in items:
            assert item.prompt.count(item.row["query"] + "?") == 1
        leads.add(items[0].prompt.rsplit("\n", 1)[0])
        assert build_items(spec, seed=seed) == items
    assert len(leads) > 1


@pytest.mark.parametrize("shots_split", ["test", "shots"])
def test_draws_have_the_same_items_and_other_exemplars(tmp_path: Path, shots_split: str) -> None:
    rows = [row(f"q{i}") for i in range(30)] + [row(f"s{i}", split="shots") for i in range(30)]
    spec = task(tmp_path, rows, shots=3, shots_split=shots_split)
    draws = prepare_draws(spec, limit=10, seeds=range(4, 8))
    assert len(draws) == 4
    assert len({tuple((i.index, i.key) for i in draw.items) for draw in draws}) == 1
    leads = [draw.items[0].lead for draw in draws]
    assert len(set(leads)) == 4
    scored = {item.row["query"] for item in draws[0].items}
    assert not any(f"{query}? " in lead for query in scored for lead in leads)
    if shots_split == "shots":  # otherwise the other draws' exemplars are not scored either
        assert draws[1] == prepare_task(spec, limit=10, seed=5)
    assert prepare_draws(spec, limit=10, seeds=[4]) == (prepare_task(spec, limit=10, seed=4),)


@pytest.mark.parametrize("change", [
    {"sampler": "first"}, {"shots": 0}, {"sampler": "balanced", "shots_split": "test"},
])  # fmt: skip
def test_task_without_sampled_exemplars_has_one_draw(tmp_path: Path, change: dict[str, Any]) -> None:
    spec = task(tmp_path, [row("a"), row("b", split="shots"), row("c")], **{"shots": 1, **change})
    (only,) = prepare_draws(spec, seeds=range(3))
    assert only == prepare_task(spec)
    assert not only.is_drawn


def test_demo_task_with_exemplars_in_its_rows_has_one_draw() -> None:
    (spec,) = find_tasks(["demo_lookup"])
    assert len(prepare_draws(spec, limit=3, seeds=range(3))) == 1


def test_limit_shots_and_split(tmp_path: Path) -> None:
    rows = [row("a", 0, "shots"), row("b"), row("c"), row("d", split="dev")]
    spec = task(tmp_path, rows, shots=1)
    assert [i.prompt for i in build_items(spec, shots=0, limit=1)] == ["b?"]
    assert [i.prompt for i in build_items(spec, split="dev")] == ["a? yes\nd?"]


def test_the_demo_rows_contain_their_own_exemplars() -> None:
    (spec,) = find_tasks(["demo_lookup"])
    item = build_items(spec, limit=1)[0]
    lines = item.prompt.split("\n")
    assert len(lines) == 9
    right = item.continuations[item.answer]
    assert f"{lines[-1]}{right}" in lines[:-1]
    assert build_items(spec, shots=5, limit=1)[0] == item


def test_the_majority_baseline_comes_from_rows_that_are_not_scored(tmp_path: Path) -> None:
    assert 0 < prepare_task(find_tasks(["demo_lookup"])[0]).majority < 0.2
    rows = [row(f"s{i}", 1, "shots") for i in range(4)] + [row(f"q{i}", 0) for i in range(10)]
    assert prepare_task(task(tmp_path, rows, shots=1)).majority == 0.0
    assert prepare_task(task(tmp_path, rows, shots=1), limit=2).majority == 1.0  # most of the others are not scored
    assert prepare_task(task(tmp_path, rows, shots=1), shots=0).majority == 1.0  # the other split is not read


def test_baseline_counts_letters_indices_or_texts(tmp_path: Path) -> None:
    """Items and other rows must give the same answers, with every kind of task."""
    rows = [row(f"q{i}", i % 5 == 0, kind=["no", "yes"][i % 5 == 0]) for i in range(10)]
    rows = [{**r, "answer": int(r["answer"])} for r in rows]
    kinds: list[dict[str, Any]] = [
        {}, {"delimiter": ""}, {"kind": "FMC", "template": "{{ query }} {{ lettered }}"},
        {"partial": True, "template": "{{ query }} {{ choice }}", "target": "so"}, {"kind": "G", "answers": "kind"},
        {"kind": "G", "answers": "[['a', kind], ['b']]"},
    ]  # fmt: skip
    for more in kinds:
        assert prepare_task(task(tmp_path, rows, **more), limit=5).majority == (1.0 if "[['a'" in str(more) else 0.8)


def test_small_groups_do_not_learn_the_majority_from_themselves(tmp_path: Path) -> None:
    """40 rows of 57 subjects with even letters: 25%, where each subject's own rows would give about 80%."""
    rng = random.Random(0)
    rows = [{"split": split, "query": f"{split} {i}", "choices": list("abcd"), "answer": rng.randrange(4),
             "subject": f"s{i % 57}"} for split, n in (("dev", 285), ("test", 5700)) for i in range(n)]  # fmt: skip
    spec = task(tmp_path, rows, group_by="subject", kind="FMC", sample=40, shots=5, shots_split="dev", sampler="first")
    found = [prepare_task(replace(spec, sample=n)).majority for n in (40, 400)]
    assert found[0] == pytest.approx(0.25, abs=0.15)
    assert found[1] == pytest.approx(0.25, abs=0.05)


def test_few_other_rows_are_read_and_bad_ones_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that is not scored must not stop a task, and a few of many are read."""
    rows = [row(f"q{i}", 0) for i in range(50)] + [row(f"b{i}", 7) for i in range(3)]
    spec = task(tmp_path, rows)
    assert prepare_task(spec, limit=2).majority == 1.0
    with pytest.raises(InputError, match=r"rows.jsonl:51: answer is 7"):
        prepare_task(spec)
    asked: list[int] = []
    accepted = Formatter.accepted

    def count(self: Formatter, ref: RowReference) -> Accepted:
        asked.append(ref.i)
        return accepted(self, ref)

    monkeypatch.setattr(Formatter, "accepted", count)
    prepare_task(task(tmp_path, [row(f"q{i}", 0) for i in range(9000)]), limit=20)
    assert len(asked) == 2000
    assert asked == sorted(set(asked))
    asked.clear()
    prepare_task(task(tmp_path, [row("q", 0), *(row(f"b{i}", 7) for i in range(30))]), limit=1)
    assert len(asked) == 5


def test_clusters_are_what_items_share(tmp_path: Path) -> None:
    rows = [row(f"q{i}", passage="long " * 1000 * (1 + i // 2), part=i) for i in range(5)]
    names = [i.cluster for i in build_items(task(tmp_path, rows, cluster="passage"))]
    assert cluster_numbers(names) == (0, 0, 1, 1, 2)
    assert max(map(len, names)) == 16
    assert {i.cluster for i in build_items(task(tmp_path, rows))} == {""}
    listed = build_items(task(tmp_path, rows, cluster="[part % 2] | sort"))
    assert cluster_numbers([i.cluster for i in listed]) == (0, 1, 0, 1, 0)
    with pytest.raises(InputError, match=r"rows.jsonl:1: has no column 'article'"):
        build_items(task(tmp_path, rows, cluster="article"))
    with pytest.raises(InputError, match=r"rows.jsonl:1: cluster is None, but must be a string, a number or a list"):
        build_items(task(tmp_path, [row("q", article=None)], cluster="article"))


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        (["{"], {}, r"rows.jsonl:1: is not JSON"),
        (["[1]"], {}, r"rows.jsonl:1: is not a JSON object"),
        ([row("a"), {"split": "test"}], {}, r"rows.jsonl:2: has no column 'choices'"),
        ([row("a", 2)], {}, "answer is 2, but must be the index of a choice, 0 to 1"),
        ([row("a", True)], {}, "answer is True"),
        ([{**row("a"), "choices": ["x"]}], {}, "at least two non-empty strings"),
        ([{**row("a"), "split": 1}], {}, "split must be a string"),
        ([row("a", 0, "dev")], {}, "has no rows of split 'test'; it has dev"),
        ([row("a")], {"shots": 3}, "3 shots requested, but split 'shots' has 0 rows. Use --shots 0, or add rows"),
        ([row("a")], {"template": "{{ no_such }}"}, "'no_such' is undefined"),
        ([row("a")], {"template": "{{ 1/0 }}"}, "division by zero"),
        ([row(None)], {}, "rows.jsonl:1: template of task t fails on this row: a value that it prints is null"),
        (['{"split": "test", "query": "\\ud800", "choices": ["a", "b"], "answer": 0}'], {}, "lone surrogate"),
        (['{"split": "test", "query": "q", "choices": ["a", "\\ud800"], "answer": 0}'], {}, "lone surrogate"),
        ([row("a")], {"template": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"}, "infinite recursion"),
        ([row("a")], {"choices": "choices["}, "its choices is not valid"),
        ([row("a")], {"choices": "''.__class__"}, "choices of task t fails|unsafe"),
        ([row("a")], {"kind": "FMC", "choices": "choices * 20"}, "has 40 choices; the limit for kind FMC is 26"),
        ([row("a")], {"template": "{% if %}"}, "template is not valid"),
        ([row("a")], {"template": "{{ ''.__class__.__mro__ }}"}, "is unsafe|undefined"),
    ],
)
def test_bad_rows_and_templates(tmp_path: Path, rows: list[Any], more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_items(task(tmp_path, rows, **more))


def test_missing_data_is_named(tmp_path: Path) -> None:
    spec = task(tmp_path, [row("a")])
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(InputError, match=r"task t: .*rows.jsonl: cannot be read"):
        build_items(spec)
    (tmp_path / "rows.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        build_items(spec)


def test_memory_of_rows_and_prompts_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a different prefix for each row, the exemplars are kept once for each."""
    monkeypatch.setattr(prompts, "_MOST_KEPT", 10_000_000)
    rows = [row("s" * 100_000, 0, "shots"), *(row(f"q{i}") for i in range(200))]
    assert len(build_items(task(tmp_path, rows, shots=1))) == 200
    with pytest.raises(InputError, match=r"rows.jsonl:\d+: .* more than 9 MB of memory, the limit .*--limit"):
        build_items(task(tmp_path, rows, shots=1, prefix="{{ query }}"))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([["a"] * 101], "101 spans in one accepted answer; the limit is 100"),
        ([["a"] * 100] * 11, "1100 spans in accepted answers of several spans; the limit is 1000"),
        (["a"] * 10_001, "10001 accepted answers; the limit is 10000"),
        (["a" * 1_000_001], "1000001 characters in all accepted answers"),
    ],
)
def test_gold_answers_have_limits(tmp_path: Path, answer: Any, message: str) -> None:
    rows = [{"split": "test", "query": "q", "answer": answer}]
    with pytest.raises(InputError, match=rf"rows.jsonl:1: has {message}"):
        build_items(task(tmp_path, rows, kind="G"))
