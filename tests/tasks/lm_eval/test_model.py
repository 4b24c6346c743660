"""lm-eval on this engine: local tasks end to end, compared with the slow path; own results in lm-eval's format."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")
pytest.importorskip("datasets")

from pa_lite.engine.generation import GenerationOptions, generate
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.engine.model_reference import open_model
from pa_lite.engine.requests import Request, make_requests, rolling_requests
from pa_lite.engine.scoring import Score
from pa_lite.errors import InputError, PaLiteError
from pa_lite.ggml.metadata import Field, boolean, float32, string, uint32
from pa_lite.merging.plan import MergePlan
from pa_lite.tasks.draws import score_tasks
from pa_lite.tasks.lm_eval import model as harness
from pa_lite.tasks.lm_eval.model import PaLiteLM
from pa_lite.tasks.lm_eval.options import HarnessOptions
from pa_lite.tasks.lm_eval.run import HarnessResult, run_harness
from pa_lite.tasks.results import results_document, sample_records
from pa_lite.tasks.scoring import ScoreOptions
from tests.cli.test_cli import run
from tests.engine.test_scoring import alone
from tests.support.lm_eval_tasks import PICK, ROLL, SAY, write_tasks
from tests.support.reports import Reports
from tests.tasks.test_results import write_suite

ONE = EngineOptions(threads=1)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
)


@dataclass(frozen=True)
class Asked:
    """The attributes of lm-eval's Instance that a model reads."""

    args: tuple[Any, ...]


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with open_model("demo@0.7", ONE, "F32") as opened:
        yield opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the folder of the tasks, with the data library's cache in the same temporary folder."""
    import datasets

    kept, datasets.config.HF_DATASETS_CACHE = datasets.config.HF_DATASETS_CACHE, tmp_path_factory.mktemp("cache")
    yield write_tasks(tmp_path_factory.mktemp("tasks"))
    datasets.config.HF_DATASETS_CACHE = kept


def options(folder: Path, *tasks: str, **more: Any) -> HarnessOptions:
    return HarnessOptions(tasks=tasks, include_path=(folder,), bootstrap_iters=100, **more)


@pytest.fixture(scope="module")
def result(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> HarnessResult:
    out = tmp_path_factory.mktemp("out")
    asked = options(folder, PICK, SAY, ROLL, output_path=out, log_samples=True, use_cache=folder / "kept" / "answers")
    return run_harness("demo@0.7", asked, ONE, "F32")


def samples(result: HarnessResult, task: str) -> list[dict[str, Any]]:
    (path,) = [p for p in result.files if p.name.startswith(f"samples_{task}_")]
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_files_are_where_lm_eval_puts_them(result: HarnessResult) -> None:
    *logs, results = result.files
    root = results.parents[1]
    assert {p.parent for p in result.files} == {root / "demo@0.7"}
    assert sorted(p.name.rsplit("_", 1)[0] for p in logs) == sorted(f"samples_{t}" for t in (PICK, SAY, ROLL))
    assert results.name.startswith("results_")
    assert os.listdir(root) == ["demo@0.7"]
    assert len(os.listdir(root / "demo@0.7")) == 4


def check_schema(document: Mapping[str, Any]) -> None:
    """Check a results file against lm-eval's own schema."""
    from lm_eval import result_schema

    known = result_schema.EvalResults.__annotations__
    assert set(document) - set(known) <= {"pa_lite"}
    assert {"results", "configs", "versions", "n-shot", "higher_is_better", "n-samples", "config", "date"} <= set(
        document
    )
    for entries in (document["results"], document.get("groups", {})):
        for name, entry in entries.items():
            assert result_schema._TaskMetrics.__required_keys__ <= set(entry)
            assert all("," in key for key in set(entry) - set(result_schema._TaskMetrics.__annotations__))
            assert set(document["n-samples"][name]) == set(result_schema._SampleCount.__required_keys__)
            assert entry["sample_len"] == document["n-samples"][name]["effective"]
    assert {"model", "model_args", "limit", "fewshot_seed", "bootstrap_iters"} <= set(document["config"])


def test_the_results_file(result: HarnessResult) -> None:
    document = json.loads(result.files[-1].read_text("utf-8"))
    check_schema(document)
    assert document["results"][PICK]["acc,none"] == result.document["results"][PICK]["acc,none"]
    assert (document["model_source"], document["model_name"]) == ("pa-lite", "demo@0.7")
    assert document["config"]["model"] == "pa-lite"
    assert (document["config"]["model_dtype"], document["config"]["random_seed"]) == ("F32", 0)
    assert document["n-shot"] == {PICK: 2, SAY: 2, ROLL: 0}
    assert set(document["task_hashes"]) == {PICK, SAY, ROLL}
    assert len(document["pa_lite"]["fingerprint"]) == 64
    assert document["pa_lite"]["n_truncated"] == 0
    assert PICK in result.tables[0]
    assert "word_perplexity" in result.tables[0]


def test_loglikelihoods_equal_each_request_alone(result: HarnessResult, model: Model) -> None:
    records = samples(result, PICK)
    assert [r["doc_id"] for r in records] == list(range(6))
    for record in records:
        sums = []
        for place, response in enumerate(record["resps"]):
            words = record["arguments"][f"gen_args_{place}"]
            slow = alone(model, make_requests(model, words["arg_0"], [words["arg_1"]])[0])
            ((logprob, greedy),) = response
            assert float(logprob) == pytest.approx(slow.logprob, abs=1e-3)
            assert greedy == str(slow.is_greedy)
            sums.append(slow.logprob)
        assert record["acc"] == float(max(range(3), key=lambda i: sums[i]) == record["doc"]["gold"])


def test_rolling_equals_each_window_alone(result: HarnessResult, model: Model) -> None:
    for record in samples(result, ROLL):
        windows = rolling_requests(model, record["doc"]["text"])
        assert float(record["resps"][0][0]) == pytest.approx(sum(alone(model, w).logprob for w in windows), abs=1e-3)


def test_texts_equal_each_prompt_alone(result: HarnessResult, model: Model) -> None:
    for record in samples(result, SAY):
        prompt = model.tokenize(record["arguments"]["gen_args_0"]["arg_0"])
        settings = GenerationOptions(max_tokens=6, stop=("\n", "-", model.special_text("eos")))
        assert record["resps"] == [[generate(model, [prompt], settings)[0].text]]
        assert record["arguments"]["gen_args_0"]["arg_1"]["until"] == ["\n", "-"]


def refuse(*_args: object) -> list[Score]:
    raise InputError("the engine was used")


def test_answers_are_kept_for_one_model(result: HarnessResult, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run does not use the engine; another model's run does not reuse the first one's answers."""
    monkeypatch.setattr(harness, "score_requests", refuse)
    monkeypatch.setattr(harness, "generate", refuse)
    asked = options(folder, PICK, SAY, ROLL, use_cache=folder / "kept" / "answers")
    again = run_harness("demo@0.7", asked, ONE, "F32")
    assert again.files == ()
    assert again.document["results"] == result.document["results"]
    with pytest.raises(InputError, match="the engine was used"):
        run_harness("demo@0.3", asked, ONE, "F32")
    with pytest.raises(InputError, match="the engine was used"):  # sampled texts depend on the seed
        run_harness("demo@0.7", replace(asked, seeds=(0, 1234, 99, 1234)), ONE, "F32")


def test_kept_answers_depend_on_model_and_settings(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval's own keys cover only the request."""
    assert model.merged is not None
    layout = model.merged
    with PaLiteLM(model) as lm, PaLiteLM(model, seed=1) as seeded:
        known = [lm.answers_key(), seeded.answers_key()]
        for key, value in (("tokenizer.ggml.eos_token_id", uint32(5)), ("llama.rope.freq_base", float32(500))):
            monkeypatch.setattr(model, "merged", with_key(layout.plan, key, value).at(layout.lam))
            known.append(lm.answers_key())
        assert len(set(known)) == 4
        monkeypatch.setattr(model, "merged", layout)
        assert lm.answers_key() == known[0]


def with_key(plan: MergePlan, key: str, value: Field) -> MergePlan:
    return replace(plan, vocabulary=replace(plan.vocabulary, metadata={**plan.vocabulary.metadata, key: value}))


def test_kept_requests_depend_on_the_rendered_template(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with PaLiteLM(model) as lm:
        before = lm.tokenizer_name
        assert lm.tokenizer_name == before
        monkeypatch.setattr(model, "special_text", lambda name: f"<{name}>")
        assert lm.tokenizer_name != before
    monkeypatch.undo()
    monkeypatch.setitem(model.header.metadata, "tokenizer.chat_template", string(NO_SYSTEM))
    with PaLiteLM(model) as lm:
        assert lm.tokenizer_name != before


def test_answers_survive_an_interruption(model: Model, tmp_path: Path) -> None:
    from lm_eval.api.model import CachingLM

    def stop(_phase: str, _done: int, total: int, _unit: str) -> None:
        if total:  # not the progress of tokens
            raise KeyboardInterrupt

    lm = PaLiteLM(model, batch_size=1, progress=stop)
    kept = CachingLM(lm, str(tmp_path / "kept.db"))
    asked = [Asked((f"- Kani {i} ->", {"until": ["\n"], "max_gen_toks": 3})) for i in range(4)]
    with pytest.raises(KeyboardInterrupt):
        kept.generate_until(asked)
    lm.close()
    with PaLiteLM(model) as fresh:
        again = CachingLM(fresh, str(tmp_path / "kept.db"))
        assert len(again.dbdict) == 1
        assert again.generate_until(asked) == PaLiteLM(model).generate_until(asked)


def test_results_are_in_the_order_of_requests(model: Model) -> None:
    rng = random.Random(3)
    pairs = [
        (rng.choice(("", "- Kani ->", "A robin is a ")), rng.choice((" Rome", " Oslo", "bird"))) for _ in range(30)
    ]
    seen = Reports()
    lm = PaLiteLM(model, progress=seen)
    got = lm.loglikelihood([Asked(p) for p in pairs])
    for pair, (logprob, greedy) in zip(pairs, got, strict=True):
        slow = alone(model, make_requests(model, pair[0], [pair[1]])[0])
        assert logprob == pytest.approx(slow.logprob, abs=1e-3)
        assert greedy == slow.is_greedy
    assert len({round(x, 3) for x, _ in got}) > 3
    assert seen[-1] == ("loglikelihood", 30, 30, "requests")
    prompts = [f"- {pair[0]}{pair[1]} ->" for pair in pairs]
    kwargs = [{"max_gen_toks": 1 + i % 3, "until": "x" if i % 2 else ["\n"]} for i in range(30)]
    texts = lm.generate_until([Asked(p) for p in zip(prompts, kwargs, strict=True)])
    for prompt, own, text in zip(prompts, kwargs, texts, strict=True):
        assert lm.generate_until([Asked((prompt, own))]) == [text]
    assert kwargs[0] == {"max_gen_toks": 1, "until": ["\n"]}


def test_sampled_repeats_differ_and_a_seed_repeats_them(model: Model) -> None:
    asked = [Asked(("- Kani ->", {"max_gen_toks": 8, "do_sample": True, "temperature": 2.0}))] * 6
    texts = PaLiteLM(model, seed=4).generate_until(asked)
    assert len(set(texts)) > 1
    assert PaLiteLM(model, seed=4).generate_until(asked) == texts
    assert PaLiteLM(model, seed=5).generate_until(asked) != texts


def test_requests_that_are_too_long_are_cut_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    with PaLiteLM("demo@0.7", n_ctx=24, threads=1, type="F32") as lm, caplog.at_level(logging.WARNING):
        context = "A robin is a bird. " * 20
        ((logprob, _), _) = lm.loglikelihood([Asked((context, " Rome")), Asked(("A", " b"))])
        (whole,) = make_requests(lm.model, context, [" Rome"])
        cut = type(whole)(whole.tokens[-25:], 25 - (len(whole.tokens) - whole.n_context))
        assert logprob == pytest.approx(alone(lm.model, cut).logprob, abs=1e-3)
        assert lm.generate_until([Asked((context, {"max_gen_toks": 4}))]) != [""]
        assert lm.n_truncated == 2
        assert caplog.messages == [f"1 of {n} requests were cut on the left to 24 tokens." for n in (2, 1)]
        with pytest.raises(PaLiteError, match=r"a continuation of \d+ tokens exceeds the context of 24"):
            lm.loglikelihood([Asked(("A", context))])
        with pytest.raises(InputError, match=r"max_gen_toks is 24, but the context of .* is 24 tokens"):
            lm.generate_until([Asked(("A", {"max_gen_toks": 24}))])


def test_control_tokens_and_bos_in_texts(model: Model) -> None:
    """They are parsed as by transformers: a template's own BOS is the only one."""
    bos = model.special_text("bos")
    lm = PaLiteLM(model)
    (plain, spelled) = lm.loglikelihood([Asked(("- Kani ->", " Rome")), Asked((f"{bos}- Kani ->", " Rome"))])
    tokens = model.tokenize(f"{bos}- Kani -> Rome", add_special=False, parse_special=True)
    n = len(tokens) - len(model.tokenize(" Rome", add_special=False))
    slow = alone(model, Request(tuple(tokens), n))
    assert spelled[0] == pytest.approx(slow.logprob, abs=1e-3)
    if model.tokenize("a")[0] == model.prefix_token:
        assert spelled[0] == pytest.approx(plain[0], abs=1e-3)
    assert lm.loglikelihood([Asked(("", f"{bos}- Kani"))])[0] == lm.loglikelihood([Asked(("", "- Kani"))])[0]


def test_the_space_added_by_sentencepiece_is_removed(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' decoder removes the space that a vocabulary adds before every text."""
    asked = [Asked(("A robin is a", {"max_gen_toks": 4}))]
    (text,) = PaLiteLM(model).generate_until(asked)
    assert text.startswith(" ")
    monkeypatch.setitem(model.header.metadata, "tokenizer.ggml.model", string("llama"))
    assert PaLiteLM(model).generate_until(asked) == [text[1:]]
    monkeypatch.setitem(model.header.metadata, "tokenizer.ggml.add_space_prefix", boolean(False))
    assert PaLiteLM(model).generate_until(asked) == [text]


def test_chat_templates(model: Model, folder: Path) -> None:
    with PaLiteLM(model) as lm:
        history = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
        text = lm.apply_chat_template(history)
        assert text.endswith(
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        )
        begun = [*history, {"role": "assistant", "content": "The answer is "}]
        assert lm.apply_chat_template(begun, add_generation_prompt=False) == f"{text}The answer is "
        assert lm.chat_template(True) == model.header.metadata["tokenizer.chat_template"].value
        assert lm.chat_template(False) is None
        assert lm.tokenizer_name.startswith(f"{model.name}-")
        with pytest.raises(InputError, match=r"has no chat template 'rag'. Known: default."):
            lm.chat_template("rag")
    asked = options(
        folder, PICK, apply_chat_template=True, system_instruction="Be brief.", output_path=folder / "chat.json",
        log_samples=True, limit=2, num_fewshot=1,
    )  # fmt: skip
    done = run_harness("demo@0.7", asked, ONE, "F32")
    assert done.files[-1].parent == folder
    assert done.files[-1].name.startswith("chat_")
    assert done.document["fewshot_as_multiturn"] is True
    for record in samples(done, PICK):
        prompt = record["arguments"]["gen_args_0"]["arg_0"]
        assert prompt.count("<|im_start|>") == 5
        assert "system\nBe brief.<|im_end|>" in prompt
        assert prompt.endswith("<|im_start|>assistant\n")


def test_a_template_that_refuses_system_messages_gets_none(
    model: Model, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(model.header.metadata, "tokenizer.chat_template", string(NO_SYSTEM))
    history = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    with PaLiteLM(model) as lm:
        assert lm.apply_chat_template(history) == "<|im_start|>Hi<|im_end|>"
        assert caplog.messages[-1].endswith("no system here. Retrying without the system message.")
        monkeypatch.delitem(model.header.metadata, "tokenizer.chat_template")
        with pytest.raises(InputError, match=r"has no chat template\. Use plain prompts"):
            lm.chat_template(True)


def test_the_model_is_registered() -> None:
    from lm_eval.api.registry import get_model

    lm_class = get_model("pa-lite")
    assert lm_class is PaLiteLM
    lm_evals = {"batch_size": 1, "max_batch_size": None, "device": "cpu"}
    with lm_class.create_from_arg_string("model=demo@0.7,threads=1,n_ctx=64,kind=Q8_0", lm_evals) as lm:
        assert (lm.max_length, lm.parallel, lm.rank, lm.world_size) == (64, 1, 0, 1)
        assert lm.get_model_info()["model_dtype"] == "Q8_0"
    with lm_class.create_from_arg_obj(
        {"model": "demo@0.7", "type": "F32", "batch_size": "auto:4", "max_batch_size": 8}
    ) as lm:
        assert lm.parallel == 8
        assert lm.get_model_info()["model_dtype"] == "F32"
    for words, message in (
        ({"model": "demo@0.7", "n_ctxx": 1}, "model_args: unknown argument 'n_ctxx'. Did you mean n_ctx"),
        ({}, "model_args: the model is missing"),
        ({"model": "demo@0.7", "batch_size": "x"}, "batch_size is 'x'"),
    ):
        with pytest.raises(InputError, match=message):
            lm_class.create_from_arg_obj(words)


def test_options_reach_lm_eval(folder: Path, tmp_path: Path) -> None:
    asked = options(
        folder, SAY, samples={SAY: [1, 4]}, seeds=(1, None, 3, 4), num_fewshot=0, predict_only=True,
        output_path=tmp_path, gen_kwargs={"max_tokens": 2, "until": ["~"]},
    )  # fmt: skip
    done = run_harness("demo@0.7", asked, ONE)
    records = samples(done, SAY)
    assert [r["doc_id"] for r in records] == [1, 4]
    assert [r["arguments"]["gen_args_0"]["arg_0"] for r in records] == ["- Kani 1 ->", "- Kani 4 ->"]
    assert records[0]["arguments"]["gen_args_0"]["arg_1"]["max_gen_toks"] == 2
    assert "exact_match,none" not in done.document["results"][SAY]
    config = done.document["config"]
    assert (config["random_seed"], config["numpy_seed"], config["torch_seed"], config["fewshot_seed"]) == (
        1,
        None,
        3,
        4,
    )


def test_the_command_writes_results(capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path) -> None:
    words = ["harness", "demo@0.7", "--include_path", folder, "--threads", 1, "--tasks", PICK]
    status, out, _ = run(capsys, *words, SAY, "--gen_kwargs", "max_gen_toks=2", "until=['~']", "-L", 2, "--json")
    assert status == 0
    document = json.loads(out)
    check_schema(document)
    assert document["config"]["gen_kwargs"] == {"max_gen_toks": 2, "until": ["~"]}
    assert set(document["results"]) == {PICK, SAY}
    status, out, _ = run(capsys, *words, "--limit", "0.5", "--seed", 7, "-o", tmp_path)
    assert status == 0
    assert f"|{PICK}|" in out
    (path,) = tmp_path.rglob("*.json")
    assert out.splitlines()[-1] == str(path)
    assert json.loads(path.read_text("utf-8"))["n-samples"][PICK] == {"original": 6, "effective": 3}
    assert len(list(tmp_path.rglob("*"))) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--tasks", PICK, "--include_path", "/nowhere"],
            "/nowhere: the folder of tasks does not exist (--include_path).",
        ),
        (
            ["--tasks", SAY, "--gen_kwargs", "max_gen_toks=9999"],
            f"task {SAY}: max_gen_toks is 9999, but the context of demo-instruct",
        ),
        (["--tasks", SAY, "--gen_kwargs", "depth=1"], "gen_kwargs: unknown key 'depth'."),
        (["--tasks", "missing.yaml"], "missing.yaml: the task file does not exist."),
        (["--tasks", PICK, "-s"], "Specify --output_path if providing --log_samples"),
        (["--tasks", PICK, "--apply_chat_template", "rag"], "has no chat template 'rag'"),
        (["--tasks", PICK, "--samples", f'{{"{PICK}": [99]}}'], "lm-eval cannot run the tasks: "),
        (["--tasks", "pa_test_gone"], "lm-eval cannot load the task pa_test_gone: FileNotFoundError: "),
        (
            ["--tasks", "pa_test_wrong"],
            "lm-eval cannot load the task pa_test_wrong: UndefinedError: 'quesion' is undefined",
        ),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    task = json.loads((folder / f"{PICK}.yaml").read_text("utf-8"))
    for name, change in (
        ("pa_test_gone", {"dataset_kwargs": {"data_files": {"test": str(folder / "gone.jsonl")}}}),
        ("pa_test_wrong", {"doc_to_text": "{{quesion + q}}"}),
    ):
        (folder / f"{name}.yaml").write_text(json.dumps({**task, "task": name, **change}), "utf-8")
    out = [] if "-s" in words else ["-o", tmp_path]
    status, _, err = run(capsys, "harness", "demo@0.7", "--include_path", folder, "--threads", 1, *out, *words)
    assert status == 1
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_unknown_tasks_and_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, _, err = run(capsys, "harness", "demo@0.7", "--tasks", "arc_esy")
    assert status == 1
    assert "error: lm-eval has no task 'arc_esy'. Did you mean " in err
    assert "arc_easy" in err
    assert run(capsys, "harness", "demo@0.7", "--tasks", PICK, "--wandb_args", "x=1")[0] == 2
    assert run(capsys, "harness", "demo@0.7", "--tasks", PICK, "--samples", "[1]")[0] == 2


def test_a_task_on_the_hub_while_offline(folder: Path) -> None:
    (folder / "pa_test_far.yaml").write_text(
        json.dumps({**json.loads((folder / f"{PICK}.yaml").read_text("utf-8")), "task": "pa_test_far",
                    "dataset_path": "allenai/ai2_arc", "dataset_name": "ARC-Easy", "dataset_kwargs": None}), "utf-8"
    )  # fmt: skip
    words = [sys.executable, "-m", "pa_lite", "harness", "demo@0.7", "--include_path", str(folder), "-t", "pa_test_far"]
    cache = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, **cache})
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "cannot load the task pa_test_far: ConnectionError: Couldn't reach 'allenai/ai2_arc'" in line
    assert line.endswith("Data from the Hub require a connection or the cache; tasks on local files do not.")
    assert "Traceback" not in done.stderr


def test_it_needs_no_torch_and_stops_on_interrupt(folder: Path, tmp_path: Path) -> None:
    """When interrupted while scoring, it exits with status 130 and writes no results."""
    code = (
        "import sys; from importlib.machinery import PathFinder\n"
        "class Finder(PathFinder):\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, *more):\n"
        "        return None if name in ('torch', 'transformers') else super().find_spec(name, *more)\n"
        "sys.meta_path[sys.meta_path.index(PathFinder)] = Finder\n"
        "from pa_lite.tasks.lm_eval import model as harness\n"
        "def score(*args): print('scoring', flush=True); import time; time.sleep(30)\n"
        "harness.score_requests = score\n"
        "from pa_lite.cli import main; main(sys.argv[1:])"
    )
    words = ["harness", "demo@0.7", "--include_path", str(folder), "-t", PICK, "-o", str(tmp_path), "--use_cache"]
    command = [sys.executable, "-c", code, *words, str(tmp_path / "kept")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "HF_HOME": str(folder)}
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "scoring\n"
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    assert "%|" not in err  # no progress bar without a terminal
    assert time.monotonic() - begin < 10
    assert list(tmp_path.iterdir()) == []  # there was no answer


def test_own_results_have_lm_evals_format(model: Model, tmp_path: Path) -> None:
    from lm_eval.result_schema import SampleResult
    from lm_eval.utils import make_table

    scored = score_tasks(model, write_suite(tmp_path), ScoreOptions())
    document = json.loads(json.dumps(results_document(scored, "demo@0.7")))
    check_schema(document)
    tables = make_table(document), make_table(document, "groups")
    for task in scored.tasks:
        assert f"|{task.task}" in tables[0]
        assert f"{task.accuracy:.4f}" in tables[0]
        for record in sample_records(task):
            assert set(SampleResult.__required_keys__) <= set(record)
            assert set(record["metrics"]) <= set(record)
    assert "|pick" in tables[1]
