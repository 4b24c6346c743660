"""A base with a LoRA adapter has the tensors of peft's merge_and_unload, for every family and form of adapter."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import pa_lite
from pa_lite.errors import CheckpointError
from tests.parity.cases import CASES, DEMO, Case, build

pytestmark = pytest.mark.parity
LIMIT = 1e-6  # relative to a tensor's largest value
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.gate.weight"]
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def load(folder: Path, **settings: Any) -> Any:
    """Return the float32 model of a checkpoint folder."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    names = json.loads((folder / "config.json").read_text("utf-8"))["architectures"]
    return getattr(transformers, names[0]).from_pretrained(folder, dtype=torch.float32, **settings)


def train(base: Path, folder: Path, change: Callable[[Any], None] = lambda model: None, **settings: Any) -> Any:
    """Save an adapter of a base with random weights; return peft's model. `change` is applied to the base first."""
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    model = load(base)
    change(model)
    wrapped = peft.get_peft_model(
        model, peft.LoraConfig(task_type="CAUSAL_LM", **{"r": 4, "lora_alpha": 6, **settings})
    )
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, values in wrapped.named_parameters():
            noise = 0.1 * torch.randn(values.shape, generator=random)
            if "lora_" in name:
                values.copy_(noise)
            elif values.requires_grad:
                values.add_(noise)
    wrapped.save_pretrained(folder)
    return wrapped


def merged_by_peft(base: Path, adapter: Path, folder: Path, change: Callable[[Any], None] = lambda model: None) -> Any:
    """Save and return peft's merge of a base and an adapter, float32."""
    peft = pytest.importorskip("peft")
    model = load(base)
    change(model)
    out = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
    out.save_pretrained(folder)
    for name in TOKENIZER:
        shutil.copy((adapter if (adapter / name).exists() else base) / name, folder)
    return out


def values_of(path: Path) -> dict[str, Any]:
    return {t.name: t.data.copy() for t in gguf.GGUFReader(path).tensors}


def assert_same(base: Path, adapter: Path, merged: Path, folder: Path) -> dict[str, Any]:
    """Compare pa-lite's lam 1 of an adapter with that of peft's merge, and return pa-lite's tensors."""
    ours = values_of(pa_lite.merge(base, adapter, 1.0, type="F32", output=folder / "ours.gguf"))
    peers = values_of(pa_lite.merge(base, merged, 1.0, type="F32", output=folder / "peer.gguf"))
    before = values_of(pa_lite.merge(base, adapter, 0.0, type="F32", output=folder / "base.gguf"))
    assert ours.keys() == peers.keys()
    for name, values in peers.items():
        assert np.abs(ours[name] - values).max() <= LIMIT * np.abs(values).max(), name
    assert any(name not in before or not np.array_equal(ours[name], before[name]) for name in ours)
    return ours


@pytest.mark.parametrize("name", CASES)
def test_linear_layers_and_experts_of_every_family(name: str, tmp_path: Path) -> None:
    base, _ = build(CASES[name], tmp_path)
    settings: dict[str, Any] = {"target_modules": "all-linear"}
    if "num_experts_per_tok" in CASES[name].settings:
        settings = {"target_modules": ATTENTION, "target_parameters": EXPERTS}
    train(base, tmp_path / "adapter", **settings)
    merged_by_peft(base, tmp_path / "adapter", tmp_path / "merged")
    assert_same(base, tmp_path / "adapter", tmp_path / "merged", tmp_path)


UNTIED = Case("LlamaForCausalLM", "llama", {"attention_bias": True, "mlp_bias": True})
FEATURES: dict[str, dict[str, Any]] = {
    "rank-stabilised": {"target_modules": ATTENTION, "use_rslora": True, "r": 7},
    "patterns": {
        "target_modules": [*ATTENTION, "down_proj"], "use_rslora": True,
        "rank_pattern": {"layers.1.self_attn.k_proj": 3, r".*\.0\.self_attn\.(q|k)_proj": 5, "down_proj": 9},
        "alpha_pattern": {"model.layers.0.self_attn.v_proj": 1, "^model.layers.1.*o_proj": 40, "k_proj": 2.5},
    },
    "fan-in-fan-out": {"target_modules": ATTENTION, "fan_in_fan_out": True},
    "some-layers": {"target_modules": ATTENTION, "layers_to_transform": [1]},
    "excluded": {"target_modules": ATTENTION, "exclude_modules": ["layers.0.self_attn.q_proj"]},
    "pattern-targets": {"target_modules": r".*\.1\.(self_attn|mlp)\..*_proj"},
    "parameters": {"target_modules": ["q_proj"], "target_parameters": ["mlp.down_proj.weight", "k_proj.weight"],
                   "rank_pattern": {"down_proj.weight": 2}},
    "rank-above-a-dimension": {"target_modules": ["k_proj"], "r": 50},
    "embeddings": {"target_modules": ["embed_tokens", "lm_head", "q_proj"]},
    "saved-modules": {
        "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head", "norm", "layers.1.mlp"],
    },
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [7, 3, 2000]},
    "tokens-of-both": {
        "target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [1], "lm_head": [9, 4]},
    },
    "trained-biases": {"target_modules": ["q_proj", "k_proj", "up_proj"], "bias": "all"},
    "biases-of-B": {"target_modules": ["q_proj", "k_proj", "up_proj"], "lora_bias": True},
    "gaussian": {"target_modules": ATTENTION, "init_lora_weights": "gaussian"},
    "orthogonal": {"target_modules": ATTENTION, "init_lora_weights": "orthogonal"},
    "mica": {"target_modules": ATTENTION, "init_lora_weights": "mica"},
}  # fmt: skip


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(UNTIED, tmp_path_factory.mktemp("untied"))[0]


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(CASES["llama"], tmp_path_factory.mktemp("tied"))[0]


@pytest.mark.parametrize("name", FEATURES)
def test_forms_of_adapters(name: str, untied: Path, tmp_path: Path) -> None:
    train(untied, tmp_path / "adapter", **FEATURES[name])
    merged_by_peft(untied, tmp_path / "adapter", tmp_path / "merged")
    assert_same(untied, tmp_path / "adapter", tmp_path / "merged", tmp_path)


@pytest.mark.parametrize("targets", [["q_proj"], ["q_proj", "embed_tokens", "lm_head"]])
@pytest.mark.parametrize("is_tied", [False, True])
def test_resized_embeddings(targets: list[str], is_tied: bool, untied: Path, tied: Path, tmp_path: Path) -> None:
    """Tokens were added, and the adapter's folder has the larger tokenizer."""
    peft = pytest.importorskip("peft")
    base, adapter = tied if is_tied else untied, tmp_path / "adapter"

    def resize(model: Any) -> None:
        model.resize_token_embeddings(2051)

    if is_tied and len(targets) > 1:
        targets = targets[:1]  # LoRA on tied matrices: see below
    model = train(base, adapter, resize, target_modules=targets)
    shutil.rmtree(adapter)
    model.save_pretrained(adapter, save_embedding_layers=True)
    for name in TOKENIZER:
        shutil.copy(DEMO / name, adapter)
    path = adapter / "tokenizer.json"
    definition = json.loads(path.read_text("utf-8"))
    for i in range(2048, 2051):
        entry = {**definition["added_tokens"][0], "id": i, "content": f"<|new{i}|>"}
        definition["added_tokens"].append(entry)
    path.write_text(json.dumps(definition), "utf-8")
    out = peft.PeftModel.from_pretrained(_resized(base, resize), adapter).merge_and_unload()
    out.save_pretrained(tmp_path / "merged")
    for name in TOKENIZER:
        shutil.copy(adapter / name, tmp_path / "merged")
    ours = assert_same(base, adapter, tmp_path / "merged", tmp_path)
    assert ours["token_embd.weight"].shape == (2051, 64)


def _resized(base: Path, resize: Callable[[Any], None]) -> Any:
    model = load(base)
    resize(model)
    return model


TIED: dict[str, tuple[dict[str, Any], bool]] = {
    # settings, and whether the output matrix stays tied to the embedding
    "embedding": ({"target_modules": ["embed_tokens"]}, False),
    "output": ({"target_modules": ["lm_head", "q_proj"]}, False),
    "both": ({"target_modules": ["embed_tokens", "lm_head"]}, False),
    "saved-embedding": ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, False),
    "saved-output": ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, False),
    "saved-both": ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}, False),
    "kept-tied": ({"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True}, True),
    "saved-and-tied": (
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, True,
    ),
    "tokens": ({"target_modules": ["q_proj"], "trainable_token_indices": [3, 5]}, True),
    "same-tokens": (
        {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [3, 5], "lm_head": [3, 5]}}, True,
    ),
    "other-tokens": (
        {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [3, 5], "lm_head": [6, 3]}}, False,
    ),
    "output-tokens": ({"target_modules": ["q_proj"], "trainable_token_indices": {"lm_head": [6, 3]}}, False),
}  # fmt: skip


@pytest.mark.parametrize("name", TIED)
def test_tied_matrices_compute_what_the_adapter_computes(name: str, tied: Path, tmp_path: Path) -> None:
    """peft's merge adds changes of either matrix to the one that both share; its model before the merge does not."""
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    settings, stays_tied = TIED[name]
    train(tied, tmp_path / "adapter", **settings)
    ours = values_of(pa_lite.merge(tied, tmp_path / "adapter", 1.0, type="F32", output=tmp_path / "ours.gguf"))
    assert ("output.weight" in ours) is not stays_tied
    model = peft.PeftModel.from_pretrained(load(tied), tmp_path / "adapter")
    ids = torch.arange(12)[None]
    with torch.no_grad():
        expected = model(ids).logits
        net = peft.PeftModel.from_pretrained(load(tied), tmp_path / "adapter").merge_and_unload()
        embedding = ours["token_embd.weight"]
        net.model.embed_tokens.weight = torch.nn.Parameter(torch.from_numpy(embedding))
        net.lm_head.weight = torch.nn.Parameter(torch.from_numpy(ours.get("output.weight", embedding)))
        got = net(ids).logits
    assert torch.allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_adapter_in_bfloat16_is_computed_in_float32(untied: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    model = train(untied, tmp_path / "first", target_modules=ATTENTION)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "adapter")
    merged_by_peft(untied, tmp_path / "adapter", tmp_path / "merged")
    assert_same(untied, tmp_path / "adapter", tmp_path / "merged", tmp_path)


def test_pa_lite_gives_the_logits_of_the_adapter(untied: Path, tmp_path: Path) -> None:
    from pa_lite.engine.model import EngineOptions, Model
    from tests.parity.test_transformers import logits

    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    train(untied, tmp_path / "adapter", target_modules=[*ATTENTION, "gate_proj", "up_proj", "down_proj"])
    path = pa_lite.merge(untied, tmp_path / "adapter", 1.0, type="F32", output=tmp_path / "ours.gguf")
    tokens = list(range(1, 30))
    with Model(path, EngineOptions(threads=1, flash_attention=False, cache_type="F32")) as model:
        ours = logits(model, tokens)
    with torch.no_grad():
        theirs = peft.PeftModel.from_pretrained(load(untied), tmp_path / "adapter")(torch.tensor([tokens])).logits
    assert np.abs(ours - theirs[0].double().numpy()).max() < 1e-3


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "DoRA": ("LoraConfig", {"target_modules": ["q_proj"], "use_dora": True}, "is DoRA"),
    "PiSSA": ("LoraConfig", {"target_modules": ["q_proj"], "init_lora_weights": "pissa"}, "initialised with PiSSA"),
    "fast PiSSA": (
        "LoraConfig", {"target_modules": ["q_proj"], "init_lora_weights": "pissa_niter_2"}, "initialised with PiSSA",
    ),
    "OLoRA": ("LoraConfig", {"target_modules": ["q_proj"], "init_lora_weights": "olora"}, "initialised with OLoRA"),
    "aLoRA": ("LoraConfig", {"target_modules": ["q_proj"], "alora_invocation_tokens": [5, 6]}, "is activated LoRA"),
    "replicated": (
        "LoraConfig", {"target_modules": ["q_proj"], "layer_replication": [[0, 2], [1, 2]]}, "replicated layers",
    ),
    "IA3": ("IA3Config", {"target_modules": ["q_proj"], "feedforward_modules": []}, "the adapter is IA3"),
    "LoHa": ("LoHaConfig", {"target_modules": ["q_proj"]}, "the adapter is LOHA"),
    "VeRA": ("VeraConfig", {"target_modules": ["q_proj"]}, "the adapter is VERA"),
    "prompt": ("PromptTuningConfig", {"num_virtual_tokens": 3}, "the adapter is PROMPT_TUNING"),
    "prefix": ("PrefixTuningConfig", {"num_virtual_tokens": 3}, "the adapter is PREFIX_TUNING"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_other_adapters_are_refused_by_name(name: str, untied: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    kind, settings, expected = REFUSED[name]
    model = peft.get_peft_model(load(untied), getattr(peft, kind)(task_type="CAUSAL_LM", **settings))
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(CheckpointError, match=expected):
        pa_lite.merge(untied, tmp_path / "adapter", 0.5, output=tmp_path / "out.gguf")


def test_pissa_converted_to_plain_lora_works(untied: Path, tmp_path: Path) -> None:
    """peft can write an adapter of the original base, of twice the rank."""
    peft = pytest.importorskip("peft")
    wrapped = peft.get_peft_model(
        load(untied), peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], init_lora_weights="pissa")
    )
    wrapped.peft_config["default"].init_lora_weights = True
    wrapped.save_pretrained(tmp_path / "start")
    wrapped.peft_config["default"].init_lora_weights = "pissa"
    for name, values in wrapped.named_parameters():
        if "lora_A" in name:
            values.data.mul_(1.01)
    wrapped.save_pretrained(tmp_path / "adapter", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    merged_by_peft(untied, tmp_path / "adapter", tmp_path / "merged")
    assert_same(untied, tmp_path / "adapter", tmp_path / "merged", tmp_path)
