"""Fuzzing targets of the package `checkpoints`: safetensors, folders, configurations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from pa_lite.checkpoints.config import read_config
from pa_lite.checkpoints.families.table import FAMILIES
from pa_lite.checkpoints.hf import open_hf
from pa_lite.checkpoints.hf_to_gguf import describe, family_of
from pa_lite.checkpoints.safetensors_file import check_by_safetensors, read_json, read_strictly
from pa_lite.checkpoints.weight_files import read_folder
from pa_lite.errors import CheckpointError
from pa_lite.ggml.container import gguf_header_bytes
from pa_lite.ggml.kernels import tensor_type
from tools.fuzz.binary import BundleMutator, json_bytes, mutate_safetensors, pack, pack_safetensors, unpack
from tools.fuzz.json import JsonMutator, Words
from tools.fuzz.oracle import Target, whole

_INDEX = "model.safetensors.index.json"
_SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
_SIZES: dict[str, Any] = {
    "vocab_size": 16, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 1e4, "bos_token_id": 0,
    "eos_token_id": [1, 2], "hidden_act": "silu", "tie_word_embeddings": True,
}  # fmt: skip
_SCALINGS: tuple[Any, ...] = (
    {"type": "linear", "factor": 2.0},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 64},
    {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 32, "attention_factor": 1.1},
    {"type": "dynamic", "factor": 2.0},
    {"type": "su", "long_factor": [1.0, 2.0], "short_factor": [1.0, 1.0]},
)  # fmt: skip
_CONFIG = Words(
    (*_SIZES, "architectures", "text_config", "quantization_config", "rope_scaling", "rope_parameters", "rope_type",
     "type", "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings", "long_factor",
     "short_factor", "attention_factor", "beta_fast", "mscale", "truncate", "partial_rotary_factor", "head_dim",
     "full_attention", "sliding_attention", "rope_local_base_freq", "sliding_window", "sliding_window_pattern",
     "layer_types", "no_rope_layers", "use_sliding_window", "query_pre_attn_scalar", "attn_logit_softcapping",
     "final_logit_softcapping", "num_local_experts", "num_experts", "num_experts_per_tok", "moe_intermediate_size",
     "norm_topk_prob", "clip_qkv", "attention_bias", "mlp_bias", "attention_multiplier", "embedding_multiplier",
     "residual_multiplier", "logits_scaling", "hidden_activation"),
    (*([name] for name in FAMILIES), *_SCALINGS, {"full_attention": _SCALINGS[0], "sliding_attention": _SCALINGS[0]},
     2**31 - 1, 2**31, 4, 65536, 1e-45, 3.3e38, 1e38, 1.2e-38, "full_attention", ["full_attention"],
     ["sliding_attention"] * 5, "gelu_pytorch_tanh", "llama3", "longrope", "yarn"),
)  # fmt: skip


# --- safetensors: one header; and folders with an index, shards and a configuration ---


def _tensors(names: dict[str, tuple[int, ...]], dtype: str = "F16") -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in names.items():
        n = 2 * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + n]}
        at += n
    return pack_safetensors(json_bytes(header), bytes(at))


_LAYER = {
    "input_layernorm.weight": (8,), "post_attention_layernorm.weight": (8,), "self_attn.q_proj.weight": (8, 8),
    "self_attn.k_proj.weight": (4, 8), "self_attn.v_proj.weight": (4, 8), "self_attn.o_proj.weight": (8, 8),
    "mlp.gate_proj.weight": (12, 8), "mlp.up_proj.weight": (12, 8), "mlp.down_proj.weight": (8, 12),
}  # fmt: skip
_NAMES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (16, 8), "model.norm.weight": (8,),
    **{f"model.layers.0.{name}": shape for name, shape in _LAYER.items()},
}  # fmt: skip
_EXPERTS: dict[str, tuple[int, ...]] = {
    **{name: shape for name, shape in _NAMES.items() if ".mlp." not in name},
    "model.layers.0.block_sparse_moe.gate.weight": (2, 8),
    **{f"model.layers.0.block_sparse_moe.experts.{e}.{w}.weight": (8, 12) if w == "w2" else (12, 8)
       for e in range(2) for w in ("w1", "w2", "w3")},
}  # fmt: skip
_FILES = ("config.json", _INDEX, "model.safetensors", *_SHARDS)


def _folder_seeds() -> list[bytes]:
    llama = json_bytes({**_SIZES, "architectures": ["LlamaForCausalLM"]})
    mixtral = {**_SIZES, "architectures": ["MixtralForCausalLM"], "num_local_experts": 2, "num_experts_per_tok": 1}
    halves = [dict(list(_NAMES.items())[i::2]) for i in range(2)]
    weight_map = {name: shard for shard, half in zip(_SHARDS, halves, strict=True) for name in half}
    sharded = {"config.json": llama, _INDEX: json_bytes({"metadata": {}, "weight_map": weight_map})}
    sharded |= {shard: _tensors(half) for shard, half in zip(_SHARDS, halves, strict=True)}
    return [
        pack({"config.json": llama, "model.safetensors": _tensors(_NAMES)}, _FILES),
        pack({"config.json": json_bytes(mixtral), "model.safetensors": _tensors(_EXPERTS)}, _FILES),
        pack(sharded, _FILES),
    ]


def _open_folder(folder: Path) -> None:
    stored = read_folder(folder).tensors
    assert all(t.offset <= folder.joinpath(t.path.name).stat().st_size for t in stored.values())
    checkpoint = open_hf(folder)
    shapes = {name: (tensor_type("F16"), t.shape) for name, t in checkpoint.tensors.items()}
    gguf_header_bytes(checkpoint.architecture, checkpoint.metadata, shapes)


_FOLDERS = BundleMutator({
    "config.json": JsonMutator(_CONFIG),
    _INDEX: JsonMutator(Words(("weight_map", "metadata", *_NAMES), (*_SHARDS, "../x.safetensors", "a.safetensors",
    {}))),
    **dict.fromkeys(("model.safetensors", *_SHARDS), mutate_safetensors),
})  # fmt: skip


# --- configurations ---


def _config_seeds() -> list[bytes]:
    gemma = {"head_dim": 4, "query_pre_attn_scalar": 4, "sliding_window": 16, "hidden_activation": "gelu_pytorch_tanh"}
    extra: dict[str, dict[str, Any]] = {
        "Gemma2ForCausalLM": gemma, "Gemma3ForCausalLM": gemma, "Gemma3ForConditionalGeneration": gemma,
        "Qwen3MoeForCausalLM": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 6, "head_dim": 4,
                                "norm_topk_prob": True},
        "MixtralForCausalLM": {"num_local_experts": 8, "num_experts_per_tok": 2}, "OlmoForCausalLM": {"clip_qkv": 1.5},
        "GraniteForCausalLM": {"attention_multiplier": 0.1, "embedding_multiplier": 12.0, "residual_multiplier": 0.2,
                               "logits_scaling": 8.0},
    }  # fmt: skip
    found = []
    for name in FAMILIES:
        config = {**_SIZES, "architectures": [name], **extra.get(name, {})}
        if name.startswith("Gemma"):
            del config["hidden_act"]
        found.append(json_bytes(config))
        found += [json_bytes({**config, "rope_scaling": scaling}) for scaling in _SCALINGS]
    wrapped = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": {**_SIZES, **gemma}}
    del wrapped["text_config"]["hidden_act"]  # type: ignore[attr-defined]
    return [*found, json_bytes(wrapped)]


def _describe(folder: Path) -> None:
    path = folder / "config.json"
    raw = read_json(path)
    family = family_of(raw, str(path))
    config = read_config(raw, family.defaults, str(path))
    model = describe(family, config)
    next(iter(family.required(config)), None)
    assert all(np.isfinite(values).all() for values in model.constants.values()), "a rotary divisor is not finite"
    assert all(math.isfinite(e.value) for e in model.metadata.values() if e.type == "FLOAT32"), "infinite setting"
    assert all(e.value >= 0 for e in model.metadata.values() if e.type == "UINT32"), "negative setting"
    gguf_header_bytes(family.architecture, model.metadata, {})
    for name in family.names.values():
        if name and not name.startswith("blk.#.ffn_gate_inp") and "_exps" not in name:
            assert min(model.shape_of(family, name.replace("#", "0"))) > 0


def _read_safetensors(folder: Path) -> None:
    """Read a header with both readers: what ours accepts, the package safetensors must read identically."""
    path = folder / "model.safetensors"
    tensors = read_strictly(path)
    try:
        check_by_safetensors(path, tensors)
    except CheckpointError as e:
        raise AssertionError(f"only the second reader refuses it: {e}") from e


TARGETS = (
    Target("safetensors", "headers of safetensors files", whole("model.safetensors"),
           _read_safetensors, mutate_safetensors,
           lambda: [_tensors(_NAMES), _tensors({"a": (2, 2)}, "BF16"), _tensors({})]),
    Target("folder", "folders: shard index, shards, configuration", lambda d: unpack(d, _FILES), _open_folder, _FOLDERS,
           _folder_seeds),
    Target("config", "config.json of every family", whole("config.json"), _describe, JsonMutator(_CONFIG),
    _config_seeds),
)  # fmt: skip
