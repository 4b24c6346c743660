"""The table of families: configuration keys, tensor names, row order and tokenizer rules of each architecture.

The stored names are transformers', the rules follow llama.cpp's convert_hf_to_gguf.py. A family is one entry of
FAMILIES; facts that llama.cpp fixes for its architecture are one entry of ARCHITECTURES. tests/parity has a case for
each family. No other module names families.
"""

from __future__ import annotations

import re
from dataclasses import replace

from pa_lite.checkpoints.families import llama_constraints
from pa_lite.checkpoints.families.family import KEYS, RMS, Architecture, Family, Key, NameRule, TokenizerRules
from pa_lite.checkpoints.families.llama_constraints import must_be
from pa_lite.ggml.gguf_tables import Keys
from pa_lite.ggml.metadata import boolean, uint32

# stored names; # is the layer, @ the expert
_LAYER = "model.layers.#."
_EMBEDDINGS = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
_NORMS = tuple(f"{_LAYER}{x}_layernorm.weight" for x in ("input", "post_attention"))
_POST_NORMS = tuple(f"{_LAYER}{x}_layernorm.weight" for x in ("post_attention", "post_feedforward"))
_GEMMA_NORMS = (*_POST_NORMS, *(f"{_LAYER}{x}_layernorm.weight" for x in ("input", "pre_feedforward")))
_QK_NORMS = tuple(f"{_LAYER}self_attn.{x}_norm.weight" for x in "qk")
_ATTENTION = tuple(f"{_LAYER}self_attn.{x}_proj.weight" for x in "qkvo")
_QKV_BIASES = tuple(f"{_LAYER}self_attn.{x}_proj.bias" for x in "qkv")
_FFN = tuple(f"{_LAYER}mlp.{x}_proj.weight" for x in ("gate", "up", "down"))
_BIASES = (
    *_QKV_BIASES,
    f"{_LAYER}self_attn.o_proj.bias",
    *(f"{_LAYER}mlp.{x}_proj.bias" for x in ("gate", "up", "down")),
)
_PLAIN = (*_EMBEDDINGS, *_NORMS, *_ATTENTION, *_FFN)
_EXPERTS = tuple(f"{_LAYER}mlp.experts.@.{x}_proj.weight" for x in ("gate", "up", "down"))
# transformers 5 may store all experts of a layer in one tensor, with up after gate in each expert
_FUSED = {f"{_LAYER}mlp.experts.gate_up_proj": _EXPERTS[:2], f"{_LAYER}mlp.experts.down_proj": _EXPERTS[2:]}

_VOCABULARY = Key(name=Keys.LLM.VOCAB_SIZE, setting="vocab_size")
_WINDOW = Key(name=Keys.Attention.SLIDING_WINDOW, setting="sliding_window")
_SOFTCAP = Key(name=Keys.LLM.FINAL_LOGIT_SOFTCAPPING, setting="final_logit_softcapping", is_count=False)
_EXPERT_COUNTS = (
    Key(name=Keys.LLM.EXPERT_COUNT, setting="num_local_experts"),
    Key(name=Keys.LLM.EXPERT_USED_COUNT, setting="num_experts_per_tok"),
)

# the converter's rules for Llama, which other classes inherit: 49152 is Granite's first vocabulary, without BOS; 32016
# is Code Llama's, with infill tokens
_LIKE_LLAMA = TokenizerRules(
    copies_space_prefix=True,
    keys_by_size={
        49152: {Keys.Tokenizer.ADD_BOS: boolean(False)},
        32016: {
            Keys.Tokenizer.PREFIX_ID: uint32(32007), Keys.Tokenizer.SUFFIX_ID: uint32(32008),
            Keys.Tokenizer.MIDDLE_ID: uint32(32009), Keys.Tokenizer.EOT_ID: uint32(32010),
        },
    },
)  # fmt: skip
_LIKE_MISTRAL = replace(_LIKE_LLAMA, is_read_as_written=True)
_LIKE_GEMMA = TokenizerRules(never_prefixes=True)
_AS_WRITTEN = TokenizerRules(is_read_as_written=True)

_LLAMA = Family(
    title="Llama 2, 3, 3.1, 3.2, SmolLM2",
    architecture="llama",
    stored=(*_PLAIN, *_BIASES),
    optional=frozenset({"lm_head.weight", *_BIASES}),
    keys=(*KEYS, RMS, _VOCABULARY),
    defaults={"max_position_embeddings": 2048, "rms_norm_eps": 1e-6},
    head_size="always",
    interleave_qk=True,
    rope_types=("default", "linear", "yarn", "dynamic", "llama3"),
    writes_rotary_size=True,
    tokenizer=_LIKE_LLAMA,
)
_MISTRAL = Family(
    title="Mistral",
    architecture="llama",
    stored=_PLAIN,
    keys=(*KEYS, RMS, _VOCABULARY),
    defaults={"max_position_embeddings": 131_072, "rms_norm_eps": 1e-6},
    head_size="always",
    interleave_qk=True,
    writes_rotary_size=True,
    checks=(llama_constraints.window_is_lost,),
    tokenizer=_LIKE_MISTRAL,
)
_GEMMA_DEFAULTS = {"head_dim": 256, "rms_norm_eps": 1e-6, "query_pre_attn_scalar": 256, "sliding_window": 4096}
_GEMMA3 = Family(
    title="Gemma-3 (text)",
    architecture="gemma3",
    stored=(*_EMBEDDINGS, *_GEMMA_NORMS, *_QK_NORMS, *_ATTENTION, *_FFN),
    keys=(*KEYS, RMS, _WINDOW, replace(_SOFTCAP, optional=True)),
    defaults={
        **_GEMMA_DEFAULTS, "max_position_embeddings": 131_072, "num_attention_heads": 8, "num_key_value_heads": 4,
        "vocab_size": 262_208,
    },
    activation="gelu_pytorch_tanh",
    head_size="always",
    norm_shift=1.0,
    rope_theta=1_000_000.0,
    local_theta=10_000.0,
    rope_types=("default", "linear"),
    cuts_vocabulary=True,
    checks=(
        llama_constraints.attention_scale(layers_27b=62), llama_constraints.every_nth_layer_full(6),
        must_be("attn_logit_softcapping"), must_be("use_bidirectional_attention", False),
    ),
    tokenizer=_LIKE_GEMMA,
)  # fmt: skip
_QWEN3 = (*_EMBEDDINGS, *_NORMS, *_ATTENTION, *_QK_NORMS)
_QWEN_DEFAULTS = {"max_position_embeddings": 32_768, "rms_norm_eps": 1e-6}

FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _MISTRAL,
    "MixtralForCausalLM": Family(
        title="Mixtral",
        architecture="llama",
        stored=(
            *_EMBEDDINGS, *_NORMS, *_ATTENTION, f"{_LAYER}block_sparse_moe.gate.weight",
            *(f"{_LAYER}block_sparse_moe.experts.@.{w}.weight" for w in ("w1", "w2", "w3")),
        ),
        fused=_FUSED,
        aliases={f"{_LAYER}mlp.gate.weight": f"{_LAYER}block_sparse_moe.gate.weight"},
        keys=(*KEYS, RMS, _VOCABULARY, *_EXPERT_COUNTS),
        defaults={"max_position_embeddings": 131_072, "rms_norm_eps": 1e-5},
        interleave_qk=True,
        rope_theta=1_000_000.0,
        writes_rotary_size=True,
        checks=(llama_constraints.window_is_lost,),
        tokenizer=_LIKE_MISTRAL,
    ),
    "Gemma2ForCausalLM": Family(
        title="Gemma-2",
        architecture="gemma2",
        stored=(*_EMBEDDINGS[:2], *_GEMMA_NORMS, *_ATTENTION, *_FFN),
        ignored=("lm_head.weight",),
        keys=(
            *KEYS, RMS, _WINDOW,
            Key(name=Keys.LLM.ATTN_LOGIT_SOFTCAPPING, setting="attn_logit_softcapping", is_count=False), _SOFTCAP,
        ),
        defaults={
            **_GEMMA_DEFAULTS, "max_position_embeddings": 8192, "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        activation="gelu_pytorch_tanh",
        head_size="always",
        norm_shift=1.0,
        rope_types=("default",),
        writes_rope=False,
        checks=(
            llama_constraints.attention_scale(layers_27b=46), llama_constraints.every_nth_layer_full(2),
            must_be("use_bidirectional_attention", False),
        ),
        tokenizer=_LIKE_GEMMA,
    ),
    "Gemma3ForCausalLM": _GEMMA3,
    "Gemma3ForConditionalGeneration": replace(_GEMMA3, is_wrapper=True),
    "OlmoForCausalLM": Family(
        title="OLMo",
        architecture="olmo",
        stored=(*_EMBEDDINGS[::2], *_ATTENTION, *_FFN),
        keys=(
            *KEYS, Key(name=Keys.Attention.LAYERNORM_EPS, setting="layer_norm_eps", is_count=False),
            Key(name=Keys.Attention.CLAMP_KQV, setting="clip_qkv", is_count=False, optional=True),
        ),
        defaults={"max_position_embeddings": 2048, "layer_norm_eps": 1e-5},
        interleave_qk=True,
        checks=(llama_constraints.whole_heads, must_be("layer_norm_eps", 1e-5)),
        tokenizer=TokenizerRules(byte_level_name="olmo"),
    ),
    "Olmo2ForCausalLM": Family(
        title="OLMo-2",
        architecture="olmo2",
        stored=(*_EMBEDDINGS, *_POST_NORMS, *_ATTENTION, *_QK_NORMS, *_FFN),
        shapes={"attn_q_norm.weight": ("q",), "attn_k_norm.weight": ("kv",)},
        defaults={"max_position_embeddings": 2048, "rms_norm_eps": 1e-5},
        needs_output=True,
        checks=(llama_constraints.whole_heads, llama_constraints.only_full_layers, must_be("sliding_window")),
    ),
    "OlmoeForCausalLM": Family(
        title="OLMoE",
        architecture="olmoe",
        stored=(*_EMBEDDINGS, *_NORMS, *_ATTENTION, *_QK_NORMS, f"{_LAYER}mlp.gate.weight", *_EXPERTS),
        fused=_FUSED,
        shapes={"attn_q_norm.weight": ("q",), "attn_k_norm.weight": ("kv",)},
        keys=(*KEYS, RMS, *_EXPERT_COUNTS),
        defaults={"max_position_embeddings": 4096, "rms_norm_eps": 1e-5},
        needs_output=True,
        checks=(
            llama_constraints.whole_heads, llama_constraints.no_grouped_heads, must_be("clip_qkv"),
            must_be("rms_norm_eps", 1e-5), must_be("norm_topk_prob", False),
        ),
        tokenizer=TokenizerRules(byte_level_name="olmo"),
    ),
    "ArceeForCausalLM": Family(
        title="Arcee (AFM)",
        architecture="arcee",
        stored=(*_EMBEDDINGS, *_NORMS, *_ATTENTION, *_FFN[1:]),
        keys=(*KEYS, RMS, _VOCABULARY),
        defaults={"max_position_embeddings": 4096, "rms_norm_eps": 1e-5},
        activation="relu2",
        head_size="always",
        interleave_qk=True,
        rope_types=("default", "linear", "yarn", "dynamic", "llama3"),
        writes_rotary_size=True,
        tokenizer=_LIKE_LLAMA,
    ),
    "Qwen2ForCausalLM": Family(
        title="Qwen2, Qwen2.5",
        architecture="qwen2",
        stored=(*_PLAIN, *_QKV_BIASES),
        defaults=_QWEN_DEFAULTS,
        checks=(llama_constraints.whole_heads, llama_constraints.only_full_layers),
        tokenizer=_AS_WRITTEN,
    ),
    "Qwen3ForCausalLM": Family(
        title="Qwen3",
        architecture="qwen3",
        stored=(*_QWEN3, *_FFN),
        defaults={**_QWEN_DEFAULTS, "head_dim": 128},
        head_size="always",
        checks=(llama_constraints.only_full_layers,),
    ),
    "Qwen3MoeForCausalLM": Family(
        title="Qwen3 mixture of experts",
        architecture="qwen3moe",
        stored=(*_QWEN3, f"{_LAYER}mlp.gate.weight", *_EXPERTS),
        fused=_FUSED,
        keys=(
            *KEYS, RMS, *_EXPERT_COUNTS,
            Key(name=Keys.LLM.EXPERT_FEED_FORWARD_LENGTH, setting="moe_intermediate_size"),
        ),
        defaults=_QWEN_DEFAULTS,
        checks=(
            llama_constraints.only_full_layers, must_be("decoder_sparse_step", 1), must_be("mlp_only_layers", []),
            must_be("norm_topk_prob", True, given=True),
        ),
    ),
    "Phi3ForCausalLM": Family(
        title="Phi-3, Phi-3.5, Phi-4-mini",
        architecture="phi3",
        stored=(
            *_EMBEDDINGS, *_NORMS,
            *(f"{_LAYER}{x}_proj.weight" for x in ("self_attn.qkv", "self_attn.o", "mlp.gate_up", "mlp.down")),
        ),
        shapes={"ffn_up.weight": ("gate and up", "embedding")},
        keys=(
            *KEYS, RMS, Key(name=Keys.Rope.SCALING_ORIG_CTX_LEN, setting="original_max_position_embeddings"),
            replace(_WINDOW, absent=0),
        ),
        defaults={
            "max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
        },
        head_size="never",
        rope_types=("default", "longrope"),
        writes_rotary_size=True,
        rotates_part=True,
        checks=(llama_constraints.whole_heads, llama_constraints.window_is_lost),
        tokenizer=TokenizerRules(is_read_as_written=True, adds_both_lists=True, trusts_flags=True),
    ),
    "SmolLM3ForCausalLM": Family(
        title="SmolLM3",
        architecture="smollm3",
        stored=_PLAIN,
        keys=(*KEYS, RMS, _VOCABULARY),
        defaults={"max_position_embeddings": 32_768, "rms_norm_eps": 1e-6},
        interleave_qk=True,
        rope_theta=2_000_000.0,
        writes_rotary_size=True,
        checks=(llama_constraints.only_full_layers, llama_constraints.every_fourth_without_rope),
        tokenizer=_LIKE_LLAMA,
    ),
    "GraniteForCausalLM": Family(
        title="Granite-3",
        architecture="granite",
        stored=_PLAIN,
        keys=(
            *KEYS, RMS, _VOCABULARY, Key(name=Keys.Attention.SCALE, setting="attention_multiplier", is_count=False),
            Key(name=Keys.LLM.EMBEDDING_SCALE, setting="embedding_multiplier", is_count=False),
            Key(name=Keys.LLM.RESIDUAL_SCALE, setting="residual_multiplier", is_count=False),
            Key(name=Keys.LLM.LOGIT_SCALE, setting="logits_scaling", is_count=False),
        ),
        defaults={
            "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "attention_multiplier": 1.0,
            "embedding_multiplier": 1.0, "residual_multiplier": 1.0, "logits_scaling": 1.0,
        },
        head_size="never",
        interleave_qk=True,
        writes_rotary_size=True,
        checks=(llama_constraints.whole_heads,),
        tokenizer=replace(_LIKE_MISTRAL, digits_name="refact"),
    ),
}  # fmt: skip

_WITH_RMS = Architecture(epsilon=Keys.Attention.LAYERNORM_RMS_EPS, rotates_whole_heads=True)
# GGUF architecture -> what llama.cpp fixes for it, also for some without a family
ARCHITECTURES: dict[str, Architecture] = {
    "llama": replace(_WITH_RMS, layers_70b=80, grouped_70b=True),
    **dict.fromkeys(("olmo2", "olmoe", "arcee", "qwen3", "qwen3moe", "smollm3", "granite"), _WITH_RMS),
    **dict.fromkeys(("gemma2", "gemma3"), replace(_WITH_RMS, rotates_whole_heads=False)),
    "qwen2": replace(_WITH_RMS, layers_70b=80),
    "olmo": Architecture(epsilon=Keys.Attention.LAYERNORM_EPS, rotates_whole_heads=True, layers_70b=80),
    "phi3": Architecture(
        epsilon=Keys.Attention.LAYERNORM_RMS_EPS,
        name_rule=NameRule(
            pattern=re.compile(r"(phi)-?(3)", re.IGNORECASE),
            tokens=frozenset(("</s>", "<unk>", "<s>", "<|endoftext|>")),
            mark="phi-3",
            meaning="is a Phi-3's",
        ),
    ),
    "gpt2": Architecture(epsilon=Keys.Attention.LAYERNORM_EPS),
    "deci": Architecture(layers_70b=80),
    "jais2": Architecture(layers_70b=68),
}
