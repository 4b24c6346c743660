"""Parity cases of the families: for each a tiny random transformers model, saved as a pair of base and instruct.

base has a configuration as transformers 5 writes it, instruct as earlier versions did.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support import tiny

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo" / "instruct"
SIZES: dict[str, Any] = {
    "vocab_size": 2048, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}


@dataclass(frozen=True)
class Case:
    """One tiny model: its class in `architectures`, transformers' model_type, and settings on top of SIZES.

    `norm` is the mean of its norms' weights; `fused` stores the experts of a layer in one tensor.
    """

    architecture: str
    model_type: str
    settings: dict[str, Any] = field(default_factory=dict)
    norm: float = 1.0
    fused: bool = False


GEMMA3: dict[str, Any] = {
    "num_hidden_layers": 7, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16,
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0},
        "sliding_attention": DEFAULT_ROPE,
    },
}  # fmt: skip
QWEN3_MOE: dict[str, Any] = {
    "head_dim": 32, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "norm_topk_prob": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
}  # fmt: skip
CASES: dict[str, Case] = {
    "llama": Case("LlamaForCausalLM", "llama", {
        "head_dim": 32, "tie_word_embeddings": True, "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0,
                            "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
    }),
    "llama-biases": Case("LlamaForCausalLM", "llama", {
        "attention_bias": True, "mlp_bias": True,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0},
    }),
    "mistral": Case("MistralForCausalLM", "mistral", {"head_dim": 24, "sliding_window": None}),
    "mixtral": Case("MixtralForCausalLM", "mixtral", {"num_local_experts": 8, "num_experts_per_tok": 2}),
    "gemma2": Case("Gemma2ForCausalLM", "gemma2", {
        "num_hidden_layers": 3, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16,
    }, norm=0.0),
    "gemma3": Case("Gemma3ForCausalLM", "gemma3_text", GEMMA3, norm=0.0),
    "gemma3-wrapper": Case("Gemma3ForConditionalGeneration", "gemma3", GEMMA3, norm=0.0),
    "olmo": Case("OlmoForCausalLM", "olmo", {"clip_qkv": 1.5}),
    "olmo2": Case("Olmo2ForCausalLM", "olmo2", {"rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}}),
    "olmo2-tied": Case("Olmo2ForCausalLM", "olmo2", {"tie_word_embeddings": True}),
    "olmoe": Case("OlmoeForCausalLM", "olmoe", {
        "num_key_value_heads": 4, "num_experts": 8, "num_experts_per_tok": 2, "rms_norm_eps": 1e-5,
    }),
    "arcee": Case("ArceeForCausalLM", "arcee", {
        "head_dim": 32, "rope_parameters": {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0,
                                            "original_max_position_embeddings": 128},
    }),
    "arcee-llama3": Case("ArceeForCausalLM", "arcee", {
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0,
                            "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
    }),
    "qwen2": Case("Qwen2ForCausalLM", "qwen2", {
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    }),
    "qwen2-yarn": Case("Qwen2ForCausalLM", "qwen2", {
        "rope_parameters": {"rope_type": "yarn", "rope_theta": 1_000_000.0, "factor": 4.0,
                            "original_max_position_embeddings": 128},
    }),
    "qwen3": Case("Qwen3ForCausalLM", "qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
    "qwen3moe": Case("Qwen3MoeForCausalLM", "qwen3_moe", QWEN3_MOE),
    "qwen3moe-fused": Case("Qwen3MoeForCausalLM", "qwen3_moe", QWEN3_MOE, fused=True),
    "phi3": Case("Phi3ForCausalLM", "phi3", {"num_key_value_heads": 4, "original_max_position_embeddings": 512}),
    "phi4-mini": Case("Phi3ForCausalLM", "phi3", {
        "tie_word_embeddings": True, "original_max_position_embeddings": 32, "sliding_window": 512,
        "rope_parameters": {"rope_type": "longrope", "rope_theta": 10_000.0, "partial_rotary_factor": 0.75,
                            "original_max_position_embeddings": 32,
                            "short_factor": [1.0 + 0.1 * i for i in range(6)],
                            "long_factor": [1.5 + 2.5 * i for i in range(6)]},
    }),
    "smollm3": Case("SmolLM3ForCausalLM", "smollm3", {"num_hidden_layers": 5}),
    "granite": Case("GraniteForCausalLM", "granite", {
        "attention_multiplier": 0.0625, "embedding_multiplier": 12.0, "residual_multiplier": 0.22,
        "logits_scaling": 8.0,
    }),
}  # fmt: skip


def old_form(config: dict[str, Any]) -> dict[str, Any]:
    """Return config.json as transformers 4 wrote it."""
    out = {key: value for key, value in config.items() if key not in ("rope_parameters", "layer_types", "dtype")}
    if "text_config" in out:
        return {**out, "text_config": old_form(out["text_config"]), "torch_dtype": "bfloat16"}
    out["torch_dtype"] = "bfloat16"
    rope = dict(config["rope_parameters"])
    if "full_attention" in rope:
        out["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        out["sliding_window_pattern"] = out.pop("_sliding_window_pattern", 6)
        rope = dict(rope["full_attention"])
    out["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        out["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    if rope["rope_type"] == "longrope":
        rope.pop("original_max_position_embeddings")
    kind = rope.pop("rope_type")
    rope["rope_type" if "rope_local_base_freq" in out else "type"] = kind
    out["rope_scaling"] = None if kind == "default" else rope
    if "num_local_experts" in out and config["model_type"] == "qwen3_moe":
        out["num_experts"] = out.pop("num_local_experts")
    return out


def build(case: Case, folder: Path) -> tuple[Path, Path]:
    """Write the case's pair, bfloat16, with the embedded pair's tokenizer; return (base, instruct)."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    settings = {**SIZES, **case.settings}
    if case.model_type == "gemma3":
        vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        vision |= {"image_size": 28, "patch_size": 14}
        config = transformers.Gemma3Config(text_config=settings, vision_config=vision)
    else:
        config = transformers.AutoConfig.for_model(case.model_type, **settings)
    torch.manual_seed(1)
    model = getattr(transformers, case.architecture)(config)
    noise = torch.Generator().manual_seed(2)
    out = []
    for side in ("base", "instruct"):
        with torch.no_grad():
            for name, values in model.named_parameters():
                random = torch.randn(values.shape, generator=noise)
                if side == "instruct":
                    values += 0.05 * random
                elif name.endswith("norm.weight"):
                    values.copy_(case.norm + 0.1 * random)
                else:
                    values.copy_((0.1 if values.ndim == 1 else 0.2) * random)
        path = folder / side
        model.to(torch.bfloat16).save_pretrained(path)
        model.float()
        if case.fused:
            _store_fused(path, model)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(DEMO / name, path)
        out.append(path)
    written = out[1] / "config.json"
    written.write_text(json.dumps(old_form(json.loads(written.read_text("utf-8")))), "utf-8")
    return out[0], out[1]


def _store_fused(path: Path, model: Any) -> None:
    """Store the weights under their names in memory, where transformers 5 has a layer's experts in one tensor."""
    arrays = {name: values.detach().float().numpy() for name, values in model.state_dict().items()}
    assert any(name.endswith("experts.gate_up_proj") for name in arrays)
    tiny.save_safetensors(path / "model.safetensors", arrays, "BF16")
