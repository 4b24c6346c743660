"""What each Hugging Face architecture becomes in GGUF: configuration keys, tensor names, row order.

The names on both sides are transformers' and llama.cpp's; the rules follow llama.cpp's convert_hf_to_gguf.py. A family
is one entry of FAMILIES; tests/parity has a case for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pa_lite.checkpoints.config import Config
from pa_lite.checkpoints.families import llama_constraints
from pa_lite.checkpoints.families.llama_constraints import Check, must_be, must_be_absent, must_be_given

# stored name -> GGUF name; # is the layer, @ the expert: a GGUF tensor holds all experts one behind the other
Names = Mapping[str, str]
_EMBEDDINGS: Names = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_NORMS: Names = {
    "model.layers.#.input_layernorm.weight": "blk.#.attn_norm.weight",
    "model.layers.#.post_attention_layernorm.weight": "blk.#.ffn_norm.weight",
}
_POST_NORMS: Names = {
    "model.layers.#.post_attention_layernorm.weight": "blk.#.post_attention_norm.weight",
    "model.layers.#.post_feedforward_layernorm.weight": "blk.#.post_ffw_norm.weight",
}
_GEMMA_NORMS: Names = {
    **_POST_NORMS,
    "model.layers.#.input_layernorm.weight": "blk.#.attn_norm.weight",
    "model.layers.#.pre_feedforward_layernorm.weight": "blk.#.ffn_norm.weight",
}
_QK_NORMS: Names = {f"model.layers.#.self_attn.{x}_norm.weight": f"blk.#.attn_{x}_norm.weight" for x in "qk"}
_ATTENTION: Names = {
    **{f"model.layers.#.self_attn.{x}_proj.weight": f"blk.#.attn_{x}.weight" for x in "qkv"},
    "model.layers.#.self_attn.o_proj.weight": "blk.#.attn_output.weight",
}
_QKV_BIASES: Names = {f"model.layers.#.self_attn.{x}_proj.bias": f"blk.#.attn_{x}.bias" for x in "qkv"}
_FFN: Names = {f"model.layers.#.mlp.{x}_proj.weight": f"blk.#.ffn_{x}.weight" for x in ("gate", "up", "down")}
_OTHER_BIASES: Names = {
    "model.layers.#.self_attn.o_proj.bias": "blk.#.attn_output.bias",
    **{f"model.layers.#.mlp.{x}_proj.bias": f"blk.#.ffn_{x}.bias" for x in ("gate", "up", "down")},
}
_PLAIN: Names = {**_EMBEDDINGS, **_NORMS, **_ATTENTION, **_FFN}

# transformers 5 may store all experts of a layer in one tensor, gate and up one behind the other in each expert
_FUSED: Mapping[str, tuple[str, ...]] = {
    "model.layers.#.mlp.experts.gate_up_proj": ("blk.#.ffn_gate_exps.weight", "blk.#.ffn_up_exps.weight"),
    "model.layers.#.mlp.experts.down_proj": ("blk.#.ffn_down_exps.weight",),
}
# GGUF name within a layer -> rows and columns, in the words of `dimensions`
SHAPES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("token_embd.weight", "output.weight"), ("vocabulary", "embedding")),
    **dict.fromkeys(("attn_q.weight",), ("q", "embedding")),
    **dict.fromkeys(("attn_k.weight", "attn_v.weight"), ("kv", "embedding")),
    **dict.fromkeys(("attn_q_norm.weight", "attn_k_norm.weight"), ("head",)),
    **dict.fromkeys(("attn_k.bias", "attn_v.bias"), ("kv",)),
    **dict.fromkeys(("ffn_gate.weight", "ffn_up.weight"), ("ffn", "embedding")),
    **dict.fromkeys(("ffn_gate.bias", "ffn_up.bias"), ("ffn",)),
    **dict.fromkeys(("ffn_gate_exps.weight", "ffn_up_exps.weight"), ("experts", "expert_ffn", "embedding")),
    "attn_q.bias": ("q",),
    "attn_qkv.weight": ("qkv", "embedding"),
    "attn_output.weight": ("embedding", "q"),
    "ffn_down.weight": ("embedding", "ffn"),
    "ffn_gate_inp.weight": ("experts", "embedding"),
    "ffn_down_exps.weight": ("experts", "embedding", "expert_ffn"),
}  # fmt: skip


@dataclass(frozen=True)
class Key:
    """One GGUF key of an architecture and the setting of config.json that it comes from."""

    name: str
    setting: str
    is_count: bool = True
    optional: bool = False
    absent: int | None = None  # what stands for a setting that is not given


_KEYS = (
    Key("block_count", "num_hidden_layers"),
    Key("context_length", "max_position_embeddings"),
    Key("embedding_length", "hidden_size"),
    Key("feed_forward_length", "intermediate_size"),
    Key("attention.head_count", "num_attention_heads"),
    Key("attention.head_count_kv", "num_key_value_heads"),
)
_RMS = Key("attention.layer_norm_rms_epsilon", "rms_norm_eps", is_count=False)
_VOCABULARY = Key("vocab_size", "vocab_size")
_WINDOW = Key("attention.sliding_window", "sliding_window")
_EXPERTS = (Key("expert_count", "num_local_experts"), Key("expert_used_count", "num_experts_per_tok"))


@dataclass(frozen=True)
class Family:
    """One row of the table: what llama.cpp calls the architecture, and how its models are stored and described.

    Tensors: `names` and `fused` as above, where an empty name is left out; `optional` are GGUF names within a layer
    that a model may lack, `shapes` those that differ from SHAPES. `interleave_qk` turns the rows of q and k into
    llama.cpp's order; `norm_shift` is added to every norm; `needs_output` has a tied output written all the same;
    `cuts_vocabulary` drops what rows the embedding has beyond the vocabulary; `is_wrapper` has other modalities beside
    the language model.

    Settings: `keys` with the `defaults` of transformers' class; the keys of the head's size are written "always", when
    "given", or "never". `rope_theta` and, where local layers have one of their own, `local_theta` are defaults too;
    `rope_kinds` are the scalings that llama.cpp carries out; `rotates_part` of a head is possible; `writes_rope` and
    `writes_rotary_size` tell which rotary keys there are. `checks` are made of all that is fixed in llama.cpp.
    """

    title: str
    architecture: str
    names: Names = field(default_factory=lambda: _PLAIN)
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    optional: frozenset[str] = frozenset({"output.weight"})
    shapes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    keys: tuple[Key, ...] = (*_KEYS, _RMS)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    activation: str = "silu"
    head_size: str = "given"
    interleave_qk: bool = False
    norm_shift: float = 0.0
    rope_theta: float = 10_000.0
    local_theta: float | None = None
    rope_kinds: tuple[str, ...] = ("default", "linear", "yarn", "dynamic")
    writes_rope: bool = True
    writes_rotary_size: bool = False
    rotates_part: bool = False
    needs_output: bool = False
    cuts_vocabulary: bool = False
    is_wrapper: bool = False
    checks: tuple[Check, ...] = ()

    def required(self, config: Config) -> Iterator[tuple[str, str]]:
        """The tensors that a model must have: (stored name, GGUF name), of experts the first."""
        flagged = {flag for flag in ("attention_bias", "mlp_bias") if config.get(flag) is True}
        for stored, name in self.names.items():
            kind = name.removeprefix("blk.#.")
            flag = "mlp_bias" if kind.startswith("ffn") else "attention_bias"
            if not name or (kind in self.optional and not (kind.endswith(".bias") and flag in flagged)):
                continue
            for layer in range(config.count("num_hidden_layers")) if "#" in name else [0]:
                yield stored.replace("#", str(layer)).replace("@", "0"), name.replace("#", str(layer))


_LLAMA = Family(
    "Llama 2, 3, 3.1, 3.2, SmolLM2",
    "llama",
    names={**_PLAIN, **_QKV_BIASES, **_OTHER_BIASES},
    optional=frozenset(
        {"output.weight", *(n.removeprefix("blk.#.") for n in (*_QKV_BIASES.values(), *_OTHER_BIASES.values()))}
    ),
    keys=(*_KEYS, _RMS, _VOCABULARY),
    defaults={"max_position_embeddings": 2048, "rms_norm_eps": 1e-6},
    head_size="always",
    interleave_qk=True,
    rope_kinds=("default", "linear", "yarn", "dynamic", "llama3"),
    writes_rotary_size=True,
)
_MISTRAL = Family(
    "Mistral",
    "llama",
    keys=(*_KEYS, _RMS, _VOCABULARY),
    defaults={"max_position_embeddings": 131_072, "rms_norm_eps": 1e-6},
    head_size="always",
    interleave_qk=True,
    writes_rotary_size=True,
    checks=(llama_constraints.window_is_lost,),
)
_GEMMA_DEFAULTS = {"head_dim": 256, "rms_norm_eps": 1e-6, "query_pre_attn_scalar": 256, "sliding_window": 4096}
_GEMMA3 = Family(
    "Gemma-3 (text)",
    "gemma3",
    names={**_EMBEDDINGS, **_GEMMA_NORMS, **_QK_NORMS, **_ATTENTION, **_FFN},
    keys=(*_KEYS, _RMS, _WINDOW, Key("final_logit_softcapping", "final_logit_softcapping", False, optional=True)),
    defaults={
        **_GEMMA_DEFAULTS, "max_position_embeddings": 131_072, "num_attention_heads": 8, "num_key_value_heads": 4,
        "vocab_size": 262_208,
    },
    activation="gelu_pytorch_tanh",
    head_size="always",
    norm_shift=1.0,
    rope_theta=1_000_000.0,
    local_theta=10_000.0,
    rope_kinds=("default", "linear"),
    cuts_vocabulary=True,
    checks=(
        llama_constraints.attention_scale(layers_27b=62), llama_constraints.every_nth_layer_full(6),
        must_be_absent("attn_logit_softcapping"),
        must_be("use_bidirectional_attention", False),
    ),
)  # fmt: skip
_QWEN3_NAMES: Names = {**_EMBEDDINGS, **_NORMS, **_ATTENTION, **_QK_NORMS}
_QWEN_DEFAULTS = {"max_position_embeddings": 32_768, "rms_norm_eps": 1e-6}

FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _MISTRAL,
    "MixtralForCausalLM": Family(
        "Mixtral",
        "llama",
        names={
            **_EMBEDDINGS, **_NORMS, **_ATTENTION,
            "model.layers.#.block_sparse_moe.gate.weight": "blk.#.ffn_gate_inp.weight",
            **{f"model.layers.#.block_sparse_moe.experts.@.{w}.weight": f"blk.#.ffn_{x}_exps.weight"
               for w, x in (("w1", "gate"), ("w2", "down"), ("w3", "up"))},
        },
        fused=_FUSED,
        keys=(*_KEYS, _RMS, _VOCABULARY, *_EXPERTS),
        defaults={"max_position_embeddings": 131_072, "rms_norm_eps": 1e-5},
        interleave_qk=True,
        rope_theta=1_000_000.0,
        writes_rotary_size=True,
        checks=(llama_constraints.window_is_lost,),
    ),
    "Gemma2ForCausalLM": Family(
        "Gemma-2",
        "gemma2",
        names={**_EMBEDDINGS, **_GEMMA_NORMS, **_ATTENTION, **_FFN, "lm_head.weight": ""},
        keys=(
            *_KEYS, _RMS, _WINDOW, Key("attn_logit_softcapping", "attn_logit_softcapping", False),
            Key("final_logit_softcapping", "final_logit_softcapping", False),
        ),
        defaults={
            **_GEMMA_DEFAULTS, "max_position_embeddings": 8192, "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        activation="gelu_pytorch_tanh",
        head_size="always",
        norm_shift=1.0,
        rope_kinds=("default",),
        writes_rope=False,
        checks=(
            llama_constraints.attention_scale(layers_27b=46), llama_constraints.every_nth_layer_full(2),
            must_be("use_bidirectional_attention", False),
        ),
    ),
    "Gemma3ForCausalLM": _GEMMA3,
    "Gemma3ForConditionalGeneration": replace(_GEMMA3, is_wrapper=True),
    "OlmoForCausalLM": Family(
        "OLMo",
        "olmo",
        names={
            **{stored: name for stored, name in _EMBEDDINGS.items() if name != "output_norm.weight"},
            **_ATTENTION, **_FFN,
        },
        keys=(
            *_KEYS, Key("attention.layer_norm_epsilon", "layer_norm_eps", False),
            Key("attention.clamp_kqv", "clip_qkv", False, optional=True),
        ),
        defaults={"max_position_embeddings": 2048, "layer_norm_eps": 1e-5},
        interleave_qk=True,
        checks=(llama_constraints.whole_heads, must_be("layer_norm_eps", 1e-5)),
    ),
    "Olmo2ForCausalLM": Family(
        "OLMo-2",
        "olmo2",
        names={**_EMBEDDINGS, **_POST_NORMS, **_ATTENTION, **_QK_NORMS, **_FFN},
        shapes={"attn_q_norm.weight": ("q",), "attn_k_norm.weight": ("kv",)},
        defaults={"max_position_embeddings": 2048, "rms_norm_eps": 1e-5},
        needs_output=True,
        checks=(llama_constraints.whole_heads, llama_constraints.only_full_layers, must_be_absent("sliding_window")),
    ),
    "Qwen2ForCausalLM": Family(
        "Qwen2, Qwen2.5",
        "qwen2",
        names={**_PLAIN, **_QKV_BIASES},
        defaults=_QWEN_DEFAULTS,
        checks=(llama_constraints.whole_heads, llama_constraints.only_full_layers),
    ),
    "Qwen3ForCausalLM": Family(
        "Qwen3",
        "qwen3",
        names={**_QWEN3_NAMES, **_FFN},
        defaults={**_QWEN_DEFAULTS, "head_dim": 128},
        head_size="always",
        checks=(llama_constraints.only_full_layers,),
    ),
    "Qwen3MoeForCausalLM": Family(
        "Qwen3 mixture of experts",
        "qwen3moe",
        names={
            **_QWEN3_NAMES,
            "model.layers.#.mlp.gate.weight": "blk.#.ffn_gate_inp.weight",
            **{f"model.layers.#.mlp.experts.@.{x}_proj.weight": f"blk.#.ffn_{x}_exps.weight"
               for x in ("gate", "up", "down")},
        },
        fused=_FUSED,
        keys=(*_KEYS, _RMS, *_EXPERTS, Key("expert_feed_forward_length", "moe_intermediate_size")),
        defaults=_QWEN_DEFAULTS,
        checks=(
            llama_constraints.only_full_layers, must_be("decoder_sparse_step", 1), must_be("mlp_only_layers", []),
            must_be_given("norm_topk_prob", True),
        ),
    ),
    "Phi3ForCausalLM": Family(
        "Phi-3, Phi-3.5, Phi-4-mini",
        "phi3",
        names={
            **_EMBEDDINGS, **_NORMS,
            "model.layers.#.self_attn.qkv_proj.weight": "blk.#.attn_qkv.weight",
            "model.layers.#.self_attn.o_proj.weight": "blk.#.attn_output.weight",
            "model.layers.#.mlp.gate_up_proj.weight": "blk.#.ffn_up.weight",
            "model.layers.#.mlp.down_proj.weight": "blk.#.ffn_down.weight",
        },
        shapes={"ffn_up.weight": ("gate and up", "embedding")},
        keys=(
            *_KEYS, _RMS, Key("rope.scaling.original_context_length", "original_max_position_embeddings"),
            replace(_WINDOW, absent=0),
        ),
        defaults={
            "max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
        },
        head_size="never",
        rope_kinds=("default", "longrope"),
        writes_rotary_size=True,
        rotates_part=True,
        checks=(llama_constraints.whole_heads, llama_constraints.window_is_lost),
    ),
    "SmolLM3ForCausalLM": Family(
        "SmolLM3",
        "smollm3",
        keys=(*_KEYS, _RMS, _VOCABULARY),
        defaults={"max_position_embeddings": 32_768, "rms_norm_eps": 1e-6},
        interleave_qk=True,
        rope_theta=2_000_000.0,
        writes_rotary_size=True,
        checks=(llama_constraints.only_full_layers, llama_constraints.every_fourth_without_rope),
    ),
    "GraniteForCausalLM": Family(
        "Granite-3",
        "granite",
        keys=(
            *_KEYS, _RMS, _VOCABULARY, Key("attention.scale", "attention_multiplier", False),
            Key("embedding_scale", "embedding_multiplier", False),
            Key("residual_scale", "residual_multiplier", False), Key("logit_scale", "logits_scaling", False),
        ),
        defaults={
            "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "attention_multiplier": 1.0,
            "embedding_multiplier": 1.0, "residual_multiplier": 1.0, "logits_scaling": 1.0,
        },
        head_size="never",
        interleave_qk=True,
        writes_rotary_size=True,
        checks=(llama_constraints.whole_heads,),
    ),
}  # fmt: skip
