"""Results and samples in lm-eval's format."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pa_lite.engine.model import EngineOptions, Model
from pa_lite.engine.model_reference import open_model
from pa_lite.errors import InputError, OutputError
from pa_lite.statistics import DRAWS, clustered_error, standard_error
from pa_lite.tasks.draws import score_tasks
from pa_lite.tasks.results import check_samples_target, results_document, sample_records, write_samples
from pa_lite.tasks.scoring import ScoreOptions, SuiteResult
from pa_lite.tasks.spec import TaskSpec, load_suite_file

SUITE = """
[defaults]
data = "rows.jsonl"
template = "- {{ q }} ->"
separator = "\\n"
shots = 2
version = 3
[tasks.pick]
group_by = "topic"
metrics = ["acc_norm", "f1_weighted"]
[tasks.letter]
kind = "FMC"
template = "{{ lettered }}\\n- {{ q }}"
[tasks.say]
kind = "G"
answers = "gold"
max_tokens = 4
normalise = ["lower"]
metrics = ["exact_match", "numeric"]
extract = [{ name = "word", pattern = "\\\\w+" }, { name = "number", pattern = "{number}", pick = "last" }]
"""


def rows() -> list[dict[str, Any]]:
    made = []
    for split, n in (("train", 6), ("test", 7)):
        for i in range(n):
            topic = "even" if i % 2 == 0 else "odd"
            made.append({"split": split, "q": f"{split} {i}", "choices": ["cat", "hammer"], "answer": i % 3 % 2,
                         "gold": ["cat", f"{i}"], "topic": topic})  # fmt: skip
    return made


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with open_model("demo@0.7", EngineOptions(threads=1)) as opened:
        yield opened


def write_suite(folder: Path, suite: str = SUITE, entries: list[dict[str, Any]] | None = None) -> list[TaskSpec]:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, entries or rows())), "utf-8")
    (folder / "suite.toml").write_text(suite, "utf-8")
    return load_suite_file(folder / "suite.toml")


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> list[TaskSpec]:
    return write_suite(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="module")
def result(model: Model, suite: list[TaskSpec]) -> SuiteResult:
    return score_tasks(model, suite, ScoreOptions(seed=5, noise_sample=4))


def test_document_has_lm_evals_keys(result: SuiteResult) -> None:
    document = results_document(result, "demo@0.7")
    assert json.loads(json.dumps(document)) == document
    pick = document["results"]["pick"]
    assert pick["sample_len"] == 7
    assert {"acc,none", "acc_stderr,none", "acc_norm,none", "acc_bytes,none", "f1_weighted,none"} < pick.keys()
    assert document["groups"] == {"pick": pick}
    assert document["group_subtasks"] == {"pick": ["pick_even", "pick_odd"], "letter": [], "say": []}
    assert document["results"]["pick_odd"]["sample_len"] == 3
    assert {"exact_match,word", "exact_match,number", "numeric,number"} < document["results"]["say"].keys()
    assert document["n-samples"]["pick_even"] == {"original": 4, "effective": 4}
    assert document["n-shot"]["pick_odd"] == 2
    assert document["versions"]["say"] == 3
    assert document["higher_is_better"]["letter"]["acc"] is True
    assert document["configs"]["say"]["output_type"] == "generate_until"
    assert document["configs"]["say"]["pa_lite"]["extract"][1]["pick"] == "last"
    assert document["config"]["model"] == "pa-lite"
    assert len(document["pa_lite"]["fingerprint"]) == 64
    assert document["config"]["fewshot_seed"] == 5
    assert "lm_eval_version" not in document


def test_averages_over_items_and_groups_are_distinguished(result: SuiteResult) -> None:
    (own,) = [t for t in results_document(result, "x")["pa_lite"]["tasks"] if t["task"] == "pick"]
    metric = own["metrics"]["acc_norm,none"]
    groups = [g["metrics"]["acc_norm,none"]["value"] for g in own["groups"]]
    assert metric["average"] == "micro"
    assert metric["macro"]["value"] == pytest.approx(sum(groups) / 2)
    assert metric["value"] == pytest.approx((4 * groups[0] + 3 * groups[1]) / 7)
    assert own["accuracy"] == metric["value"]
    assert metric["low"] <= metric["value"] <= metric["high"]
    assert own["metrics"]["f1_weighted,none"]["stderr"] >= 0


def test_errors_are_by_clusters(model: Model, tmp_path: Path) -> None:
    """Every number has the clustered standard error; the document says how many clusters there are."""
    suite = """
[defaults]
data = "rows.jsonl"
template = "- {{ q }} ->"
[tasks.pick]
cluster = "part"
metrics = ["acc", "f1_weighted"]
[tasks.grouped]
cluster = "part"
group_by = "topic"
[tasks.plain]
[tasks.alone]
cluster = "q"
"""
    entries = [{**row, "part": i // 2} for i, row in enumerate(rows())]
    result = score_tasks(model, write_suite(tmp_path, suite, entries))
    pick, grouped, plain, alone = result.tasks
    values = [i.value for i in pick.items]
    assert pick.clusters == (0, 0, 1, 1, 2, 2, 3)
    by_cluster = [[v for v, c in zip(values, pick.clusters, strict=True) if c == k] for k in range(4)]
    assert pick.stderr == pytest.approx(clustered_error(by_cluster))
    assert grouped.stderr == pytest.approx(clustered_error(by_cluster))
    assert plain.stderr == alone.stderr == pytest.approx(standard_error(values))
    document = results_document(result, "x")
    assert [t["clusters"] for t in document["pa_lite"]["tasks"]] == [4, 4, None, None]
    assert document["results"]["pick"]["acc_stderr,none"] == pick.stderr
    assert document["config"]["bootstrap_iters"] == DRAWS
    errors = [clustered_error(by_cluster), clustered_error(by_cluster), *[standard_error(values)] * 2]
    assert result.accuracy.stderr == pytest.approx(math.sqrt(sum(e**2 for e in errors)) / 4)
    without = replace(result, tasks=(plain,))
    assert results_document(without, "x")["config"]["bootstrap_iters"] is None


def test_values_come_from_the_items(result: SuiteResult) -> None:
    for task in result.tasks:
        assert task.accuracy == pytest.approx(sum(i.value for i in task.items) / task.n)
        for metric in task.metrics:
            key = metric.name if metric.filter == "none" else f"{metric.name},{metric.filter}"
            if metric.name != "f1_weighted":
                assert metric.measured.value == pytest.approx(sum(i.metrics[key] for i in task.items) / task.n)
    pick, letter, say = result.tasks
    assert all(i.picked == max((0, 1), key=lambda k: i.logprobs[k] / (3, 6)[k]) for i in pick.items)
    assert letter.single_token_labels is not None
    assert say.metric == "exact_match,word"
    assert (say.items[0].picked, say.items[0].answer) == (-1, -1)


def test_samples_contain_requests_and_answers(result: SuiteResult, tmp_path: Path) -> None:
    pick, _, say = (list(sample_records(t)) for t in result.tasks)
    assert len(pick) == 7
    assert len(say) == 14  # one for each pattern
    first = pick[0]
    assert first["doc"]["q"] == "test 0"
    assert first["doc_id"] == 0
    asked = first["arguments"]["gen_args_1"]
    assert asked["arg_0"].endswith("\n- test 0 ->")
    assert asked["arg_1"] == " hammer"
    assert first["prompt_hash"] == hashlib.sha256(asked["arg_0"].encode()).hexdigest()
    assert [float(r[0][0]) for r in first["resps"]] == list(result.tasks[0].items[0].logprobs)
    assert first["acc_norm"] in (0.0, 1.0)
    assert first["pa_lite"]["where"].endswith("rows.jsonl:7")
    assert {s["filter"] for s in say} == {"word", "number"}
    assert say[0]["target"] == ["cat", "0"]
    assert say[0]["arguments"]["gen_args_0"]["arg_1"]["max_gen_toks"] == 4
    assert say[0]["filtered_resps"][0] in ("[invalid]", *say[0]["resps"][0][0].split())
    assert set(say[0]["metrics"]) == {"exact_match", "numeric"}
    (path,) = write_samples(result, tmp_path / "all.jsonl")
    lines = path.read_text("utf-8").splitlines()
    assert [json.loads(line)["task"] for line in lines] == ["pick"] * 7 + ["letter"] * 7 + ["say"] * 14
    (tmp_path / "logs").mkdir()
    files = write_samples(result, tmp_path / "logs")
    assert [f.name.split("_")[:2] for f in files] == [["samples", n] for n in ("pick", "letter", "say")]
    assert sorted(files) == sorted((tmp_path / "logs").iterdir())


def test_several_draws_are_recorded_by_seed(model: Model, suite: list[TaskSpec], tmp_path: Path) -> None:
    result = score_tasks(model, suite, ScoreOptions(seed=5, seeds=2))
    document = results_document(result, "x")
    assert json.loads(json.dumps(document)) == document
    assert document["pa_lite"]["options"]["seeds"] == 2
    for own, task in zip(document["pa_lite"]["tasks"], result.tasks, strict=True):
        assert own["seeds"] == [5, 6]
        assert own["accuracy_by_seed"] == [draw.accuracy for draw in task.draws]
        assert own["accuracy"] == pytest.approx(sum(own["accuracy_by_seed"]) / 2)
        assert document["n-samples"][task.task] == {"original": 7, "effective": 7}
    pick = result.tasks[0]
    for number, metric in enumerate(pick.metrics):  # with class metrics, groups, and averages over groups
        each = [draw.metrics[number] for draw in pick.draws]
        assert metric.measured.value == pytest.approx(sum(m.measured.value for m in each) / 2)
        assert metric.macro is None or metric.macro.value == pytest.approx(
            sum(m.macro.value for m in each if m.macro is not None) / 2
        )
        assert metric.measured.low <= metric.measured.value <= metric.measured.high
    assert [g.n for g in pick.groups] == [4, 3]
    lines = write_samples(result, tmp_path / "all.jsonl")[0].read_text("utf-8").splitlines()
    picked = [r for r in map(json.loads, lines) if r["task"] == "pick"]
    assert [r["pa_lite"]["seed"] for r in picked] == [5] * 7 + [6] * 7
    assert [r["doc_id"] for r in picked] == [*range(7)] * 2
    assert picked[0]["prompt_hash"] != picked[7]["prompt_hash"]


def test_portions_change_only_rounding(
    model: Model, suite: list[TaskSpec], result: SuiteResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int, int, str]] = []
    monkeypatch.setattr("pa_lite.tasks.scoring._PORTION", 300)
    again = score_tasks(model, suite, ScoreOptions(seed=5, mutual_info=True), lambda *n: seen.append(n))
    for whole, task in zip(result.tasks, again.tasks, strict=True):
        for left, right in zip(whole.items, task.items, strict=True):
            assert (left.index, left.output, left.found) == (right.index, right.output, right.found)
            assert left.logprobs == pytest.approx(right.logprobs, abs=0.01)
    total = 7 * 2 + 2 + 7 * 2 + 2 + 7  # two distinct choices are also scored on an empty context
    assert seen[-1] == ("score say", total, total, "requests")
    done = [n for _, n, _, unit in seen if unit == "requests"]
    assert done == sorted(done)
    assert len(done) >= 8


def test_bad_sample_targets_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("old", "utf-8")
    with pytest.raises(OutputError, match="exists already"):
        check_samples_target(str(tmp_path / "x.jsonl"))
    check_samples_target(str(tmp_path / "x.jsonl"), force=True)
    check_samples_target(str(tmp_path))
    with pytest.raises(OutputError, match=r"the folder to write x.jsonl to does not exist"):
        check_samples_target(str(tmp_path / "no" / "x.jsonl"))
    with pytest.raises(OutputError, match="the folder for samples does not exist"):
        check_samples_target(f"{tmp_path}/no/")


def test_long_prompts_are_cut_and_counted(model: Model, tmp_path: Path) -> None:
    long = [{**r, "q": "stone " * 700 if i % 2 else r["q"]} for i, r in enumerate(rows())]
    pick, letter, say = score_tasks(model, write_suite(tmp_path, entries=long), ScoreOptions(shots=0)).tasks
    assert pick.n_truncated == letter.n_truncated == say.n_truncated == 3
    assert [i.truncated for i in say.items] == [i % 2 == 1 for i in range(6, 13)]
    assert (
        results_document(SuiteResult(model="m", options=ScoreOptions(), tasks=(say,)), "x")["pa_lite"]["tasks"][0][
            "n_truncated"
        ]
        == 3
    )


def test_more_tokens_than_the_context_are_refused(model: Model, tmp_path: Path) -> None:
    specs = write_suite(tmp_path, SUITE.replace("max_tokens = 4", "max_tokens = 600"))
    seen: list[tuple[int, int]] = []
    with pytest.raises(InputError, match=r"task say: max_tokens is 600, but the context of .* is 512 tokens"):
        score_tasks(model, specs, None, lambda *n: seen.append(n))
    assert seen == []


def test_generation_does_not_depend_on_parallel(model: Model, suite: list[TaskSpec]) -> None:
    outputs = []
    for parallel in (1, 5):
        (say,) = score_tasks(model, suite[2:], ScoreOptions(parallel=parallel)).tasks
        outputs.append([i.output for i in say.items])
    assert outputs[0] == outputs[1]
    with pytest.raises(InputError, match="parallel is 0"):
        score_tasks(model, suite, ScoreOptions(parallel=0))
