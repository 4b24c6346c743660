"""The shipped tasks on synthetic rows, fetched as parquet from a local Hub server, rendered and scored."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from pa_lite.engine.model import EngineOptions, Model
from pa_lite.engine.model_reference import open_model
from pa_lite.errors import HubError, InputError
from pa_lite.tasks.draws import score_tasks
from pa_lite.tasks.prompts import build_items, prepare_task
from pa_lite.tasks.scoring import ScoreOptions
from pa_lite.tasks.spec import find_tasks
from tests.support.hub_server import HubServer, running_hub
from tests.support.suite_rows import EXPECTED, ROWS, Rows

ONE = EngineOptions(threads=1)
SUITES = ["icl21", "extraction"]
NAMES = [spec.name for spec in find_tasks(SUITES)]
# files of the data sets in their repositories; the others have CONFIG/SPLIT-00000-of-00001.parquet
LAYOUTS = {
    "sciq": "data/{split}-00000-of-00001.parquet",
    "hellaswag": "data/{split}-00000-of-00001.parquet",
    "commonsense_qa": "data/{split}-00000-of-00001.parquet",
    "piqa": "{split}.parquet",
    "headlines": "{split}.csv",
    "wikineural": "data/{split}-00000-of-00001.parquet",
}
CONVERTED = {
    "drop": "plain_text/{split}/0000.parquet",
    "fpb": "default/partial-{split}/0000.parquet",
    "massive_slots": "en-US/{split}/0000.parquet",
    "e2e_attributes": "default/{split}/0000.parquet",
}


def parquet(rows: Rows) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def content(name: str, rows: Rows) -> bytes:
    if name.endswith(".parquet"):
        return parquet(rows)
    lines = [",".join(rows[0]), *(",".join(f'"{v}"' for v in row.values()) for row in rows)]
    return "\n".join(lines).encode()


def publish(hub: HubServer) -> None:
    """Publish every task's rows under the name of its data set; two tasks may share a repository."""
    files: dict[str, dict[str, bytes]] = {}
    for spec in find_tasks(SUITES):
        own = files.setdefault(spec.hub, {})
        layout = LAYOUTS.get(spec.name, "{config}/{split}-00000-of-00001.parquet")
        if spec.name in CONVERTED:
            continue
        for config in spec.configs or (spec.config,):
            for split, rows in ROWS[spec.name].items():
                name = layout.format(config=config, split=split)
                own[name] = content(name, rows)
    for repo, own in files.items():
        hub.add(repo, own or {"script.py": b"pass"}, kind="dataset")
    for task, layout in CONVERTED.items():
        (spec,) = find_tasks([task])
        converted = {layout.format(split=s): parquet(rows) for s, rows in ROWS[task].items()}
        hub.repos["dataset", spec.hub].commit(converted, branch="refs/convert/parquet")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    with running_hub() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", server.endpoint)
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
            patch.delenv(name, raising=False)
        publish(server)
        yield server


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with open_model("demo@0.7", ONE) as opened:
        yield opened


def test_there_are_rows_for_every_task() -> None:
    assert NAMES == list(ROWS) == list(EXPECTED)


@pytest.mark.parametrize("name", NAMES)
def test_every_task_renders(hub: HubServer, name: str) -> None:
    (spec,) = find_tasks([name])
    prepared = prepare_task(spec, shots=1)
    item = prepared.items[0]
    prompt, expected, answer = EXPECTED[name]
    assert item.prompt == prompt
    assert (item.golds or item.continuations) == expected
    assert item.answer == answer
    (commit,) = prepared.commits
    assert commit in hub.repos["dataset", spec.hub].commits


def test_every_task_is_scored_with_every_metric(hub: HubServer, model: Model) -> None:
    specs = find_tasks(SUITES)
    seen: list[tuple[str, int, int, str]] = []
    options = ScoreOptions(shots=1, limit=3, mutual_info=True, noise_sample=4)
    result = score_tasks(model, specs, options, lambda *n: seen.append(n))
    assert [t.task for t in result.tasks] == NAMES
    _, done, total, unit = seen[-1]
    assert (done, unit) == (total, "requests")
    counts = [n for _, n, _, of in seen if of == "requests"]
    assert counts == sorted(counts)
    for spec, task in zip(specs, result.tasks, strict=True):
        named = {m.name for m in task.metrics}
        assert named >= set(spec.metrics)
        if spec.kind != "G":
            assert named >= {"acc", "acc_norm", "acc_bytes", "acc_token", "acc_mutual_info"}
            assert task.noise is not None
            assert task.noise.largest < 0.01
        assert (task.single_token_labels is None) == (spec.kind != "FMC")
        n_units = len(set(task.clusters)) if task.clusters else task.n
        known = [m.measured for m in task.metrics if n_units > max(1, len(task.groups))]
        assert all(m.low <= m.value <= m.high for m in known)
        assert not known or task.stderr >= 0
    by_name = {t.task: t for t in result.tasks}
    assert [g.name for g in by_name["mmlu"].groups] == ["law", "marine_biology"]
    assert by_name["winogrande"].items[0].metrics["acc"] in (0.0, 1.0)
    assert by_name["gsm8k"].metric == "exact_match,strict-match"
    for name in ("triviaqa", "nq_open"):
        assert by_name[name].metric == "exact_match,strict"
        assert [m.key for m in by_name[name].metrics] == [
            "exact_match,strict", "f1,strict", "exact_match,remove_whitespace", "f1,remove_whitespace"
        ]  # fmt: skip
    assert by_name["few_nerd"].metric == "set_f1"
    assert [g.name for g in by_name["massive_slots"].groups] == ["3", "0"]


def test_partial_scoring_puts_each_option_before_one_continuation(hub: HubServer) -> None:
    (item,) = build_items(find_tasks(["winogrande"])[0], shots=0)
    assert item.requests == [
        ("The cup fits the box because the cup", " is small."),
        ("The cup fits the box because the box", " is small."),
    ]


@pytest.mark.parametrize("seed", range(6))
def test_a_scored_question_is_never_an_exemplar(hub: HubServer, seed: int) -> None:
    (item,) = build_items(find_tasks(["triviaqa"])[0], shots=1, seed=seed)
    assert item.prompt == EXPECTED["triviaqa"][0]
    with pytest.raises(
        InputError, match=r"2 shots requested, but split 'train' has 2 rows \(1 of them are duplicates or scored\)"
    ):
        build_items(find_tasks(["triviaqa"])[0], shots=2, seed=seed)


def test_every_group_has_its_own_exemplars(hub: HubServer) -> None:
    law, marine, last = build_items(find_tasks(["mmlu"])[0], shots=1)
    assert law.lead == last.lead
    assert marine.lead.startswith("The following are multiple choice questions (with answers) about marine biology.")
    assert "Whales are?" in marine.lead
    assert "A tort is?" not in marine.lead
    (group,) = build_items(find_tasks(["mmlu/marine_biology"])[0], shots=1)
    assert group.prompt == marine.prompt
    with pytest.raises(InputError, match="split 'test' has no group 'anatomy'"):
        build_items(find_tasks(["mmlu/anatomy"])[0])
    with pytest.raises(InputError, match="5 shots requested, but split 'dev' has 2 rows"):
        build_items(find_tasks(["mmlu"])[0])


@pytest.mark.parametrize("name", ["triviaqa", "nq_open"])
@pytest.mark.parametrize(
    ("output", "strict", "cut"),
    [
        (" Paris, the capital of France", "Paris, the capital of France", "Paris"),
        (" Paris.", "Paris.", "Paris"),
        (" St. Louis", "St. Louis", "St"),
        (" Saint Louis", "Saint Louis", "Saint Louis"),
        ("", "", ""),
        (".", ".", ""),
    ],
)
def test_a_second_pattern_cuts_answers_where_lm_eval_stops(name: str, output: str, strict: str, cut: str) -> None:
    (spec,) = find_tasks([name])
    assert {e.name: e.find(output) for e in spec.extract} == {"strict": strict, "remove_whitespace": cut}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("few_nerd", {"ner_tags": [9]}, "ner_tags contains 9, but the known tags are 0 to 8"),
        ("few_nerd", {"ner_tags": [-1]}, "ner_tags contains -1"),
        ("few_nerd", {"ner_tags": ["O"]}, "'<=' not supported"),
        ("few_nerd", {"ner_tags": [0, 0]}, "zip"),
        ("massive_slots", {"annot_utt": "at [time : six"}, "is not closed"),
        ("massive_slots", {"annot_utt": "at [six]"}, "the slot 'six' has no colon"),
        ("e2e_attributes", {"meaning_representation": "name, food"}, r"is not a list of name\[value\]"),
        ("e2e_attributes", {"meaning_representation": "[Alimentum]"}, r"is not a list of name\[value\]"),
    ],
)
def test_rows_that_are_not_as_the_card_says_are_errors(
    tmp_path: Path, name: str, change: dict[str, Any], message: str
) -> None:
    (spec,) = find_tasks([name])
    row = {**ROWS[name]["test"][0], "tokens": ["Ada"], **change}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row), "utf-8")
    local = replace(spec, hub="", data={"test": "rows.jsonl"}, folder=tmp_path)
    with pytest.raises(InputError, match=rf"rows.jsonl:1: transform .* of task {name} fails on this row: .*{message}"):
        build_items(local, shots=0)


def test_bbh_takes_exemplars_from_its_first_rows(hub: HubServer) -> None:
    (spec,) = find_tasks(["bbh"])
    prepared = prepare_task(spec, shots=1)
    assert len(prepared.items) == 27 * 2
    assert prepared.n_rows == 27 * 3
    assert [i.group for i in prepared.items[::2]] == list(spec.configs)
    assert all(item.prompt.count(item.row["input"]) == 1 for item in prepared.items)
    limited = prepare_task(spec, shots=1, limit=30).items
    assert [sum(i.group == c for i in limited) for c in spec.configs] == [2] * 3 + [1] * 24
    with pytest.raises(InputError, match="every row of split 'test' is an exemplar"):
        prepare_task(spec)


def test_samples_do_not_depend_on_the_seed(hub: HubServer) -> None:
    spec = replace(find_tasks(["bbh"])[0], sample=9)
    first, second = (prepare_task(spec, shots=1, seed=seed).items for seed in (0, 1))
    assert len(first) == 9
    assert [(i.group, i.index) for i in first] == [(i.group, i.index) for i in second]
    assert len({i.group for i in first}) > 4


def test_unexpected_row_counts_are_reported(hub: HubServer, caplog: pytest.LogCaptureFixture) -> None:
    build_items(find_tasks(["rte"])[0], shots=1)
    assert "split validation has 1 rows, expected 277" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hub": "nobody/nothing"}, "nobody/nothing"),
        ({"config": "nope"}, "has no files of split 'validation' of config 'nope', which task rte needs; it has rte/"),
        ({"split": "tests"}, "has no files of split 'tests'"),
        ({"revision": "v9"}, "v9"),
        ({"answer": "lable"}, "parquet: row 1: has no column 'lable'"),
        ({"answer": "lable[0]"}, "answer of task rte fails on this row: 'lable' is undefined"),
        ({"template": "{{ sentence3 }}"}, r"parquet: row 1: template of task rte fails .*'sentence3' is undefined"),
        ({"choices": "['True', 2]"}, "row 1: choices must be a list of at least two non-empty strings"),
        ({"choices": "['True']"}, "row 1: choices must be a list of at least two non-empty strings"),
        ({"answer": "label + 1"}, "row 1: answer is 2, but must be the index of a choice, 0 to 1"),
        ({"answer": "-1"}, "row 1: answer is -1"),
        ({"answer": "''"}, "row 1: answer is ''"),
        ({"transforms": ("gsm8k",)}, "row 1: transform gsm8k of task rte fails .* no column 'answer'"),
        ({"group_by": "topic"}, "row 1: has no column 'topic'"),
        ({"prefix": "{{ texts.none }}"}, "prefix of task rte fails"),
        ({"kind": "G", "answers": "[]"}, "has no accepted answer"),
        ({"kind": "G", "answers": "[true]"}, "answers are .True., but must be a string or a list of strings"),
        ({"kind": "G", "answers": "sentence1", "target": " "}, "target of task rte fails on this row: it is empty"),
    ],
)  # fmt: skip
def test_bad_specifications_name_file_row_and_field(hub: HubServer, change: dict[str, Any], message: str) -> None:
    spec = replace(find_tasks(["rte"])[0], **change)
    with pytest.raises((InputError, HubError), match=message) as caught:
        build_items(spec, shots=1)
    assert "\n" not in str(caught.value)


def test_offline_uses_the_cache_or_says_so(hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (spec,) = find_tasks(["piqa"])
    before = build_items(spec, shots=1)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert build_items(spec, shots=1) == before
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(HubError, match="baber/piqa"):
        build_items(spec, shots=1)


def test_lists_of_structs_are_read_in_either_form(hub: HubServer, tmp_path: Any) -> None:
    for name, field in (("arc_easy", "choices"), ("squadv2", "answers"), ("drop", "validated_answers")):
        (spec,) = find_tasks([name])
        files = {}
        for split, rows in ROWS[name].items():
            listed = [{**r, field: [dict(zip(r[field], e, strict=True)) for e in zip(*r[field].values(), strict=True)]}
                      for r in rows]  # fmt: skip
            files[split] = f"{name}.{split}.jsonl"
            (tmp_path / files[split]).write_text("\n".join(map(json.dumps, listed)), "utf-8")
        item = build_items(replace(spec, hub="", data=files, folder=tmp_path), shots=1)[0]
        assert (item.prompt, item.golds or item.continuations, item.answer) == EXPECTED[name]


def test_a_pinned_revision_keeps_its_rows(hub: HubServer) -> None:
    (spec,) = find_tasks(["sst2"])
    repo = hub.repos["dataset", spec.hub]
    first = repo.refs["main"]
    changed = [{"sentence": "three bright hours ", "label": 1, "idx": 0}]
    name = "sst2/validation-00000-of-00001.parquet"
    later = repo.commit({**repo.commits[first], name: parquet(changed)})
    try:
        assert build_items(spec, shots=1)[0].row == changed[0]
        pinned = prepare_task(replace(spec, revision=first), shots=1)
        assert pinned.items[0].prompt == EXPECTED["sst2"][0]
        assert pinned.commits == (first,)
        assert prepare_task(spec, shots=1).commits == (later,)
    finally:
        repo.refs["main"] = first
