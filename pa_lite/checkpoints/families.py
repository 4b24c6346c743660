"""What each Hugging Face architecture becomes in GGUF: configuration keys, tensor names, row order. Reads nothing.

The names on both sides are transformers' and llama.cpp's; the rules follow llama.cpp's convert_hf_to_gguf.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pa_lite.checkpoints.source import Metadata, float32, string, uint32
from pa_lite.errors import CheckpointError, nearest

Config = Mapping[str, Any]

_COMMON_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "model.layers.#.input_layernorm.weight": "blk.#.attn_norm.weight",
    "model.layers.#.post_attention_layernorm.weight": "blk.#.ffn_norm.weight",
    **{f"model.layers.#.self_attn.{x}_proj.{kind}": f"blk.#.attn_{x}.{kind}"
       for x in "qkv" for kind in ("weight", "bias")},
    **{f"model.layers.#.self_attn.o_proj.{kind}": f"blk.#.attn_output.{kind}" for kind in ("weight", "bias")},
    **{f"model.layers.#.mlp.{x}_proj.{kind}": f"blk.#.ffn_{x}.{kind}"
       for x in ("gate", "up", "down") for kind in ("weight", "bias")},
}  # fmt: skip
_SKIPPED = re.compile(r".*\.rotary_emb\.inv_freq|.*\.attention\.(bias|masked_bias)")


@dataclass(frozen=True)
class Family:
    """One row of the table: llama.cpp's architecture, tensor names with `#` for the layer, and its habits."""

    architecture: str
    names: Mapping[str, str]
    interleave_qk: bool = False
    rope_theta: float = 10_000.0

    def required(self, n_layers: int) -> Iterator[tuple[str, str]]:
        """The tensors that a model of n_layers must have: (stored name, GGUF name)."""
        for stored, name in self.names.items():
            if not name.endswith(".weight") or name == "output.weight":
                continue
            for layer in range(n_layers) if "#" in name else [0]:
                yield stored.replace("#", str(layer)), name.replace("#", str(layer))


FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": Family("llama", _COMMON_NAMES, interleave_qk=True),
}


def family_of(config: Config, where: str) -> tuple[str, Family]:
    """The architecture's class name and its row. Raises CheckpointError that lists what is known."""
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if not isinstance(name, str) or name not in FAMILIES:
        raise CheckpointError(
            f"{where}: architecture {name!r} cannot be read from safetensors.{nearest(str(name), FAMILIES)}"
        )
    if config.get("quantization_config"):
        raise CheckpointError(f"{where}: the weights are quantised. Take the original checkpoint instead.")
    return name, FAMILIES[name]


def gguf_name(family: Family, stored_name: str) -> str | None:
    """llama.cpp's name of a stored tensor; None for one that holds no weights. Raises KeyError for an unknown name."""
    if _SKIPPED.fullmatch(stored_name):
        return None
    layer = re.search(r"\.layers\.(\d+)\.", stored_name)
    if layer is None:
        return family.names[stored_name]
    return family.names[stored_name.replace(layer[0], ".layers.#.")].replace("#", layer[1])


def _number(config: Config, key: str, where: str, default: float | None = None) -> float:
    value = config.get(key)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise CheckpointError(f"{where}: {key} is {value!r}, but must be a positive number.")
    return value


@dataclass(frozen=True)
class Heads:
    """Attention's shape: query heads, key-value heads, and values in one head."""

    query: int
    key_value: int
    size: int


def heads(config: Config, where: str) -> Heads:
    """Raises CheckpointError for numbers that do not divide."""
    query = int(_number(config, "num_attention_heads", where))
    key_value = int(_number(config, "num_key_value_heads", where, query))
    hidden = int(_number(config, "hidden_size", where))
    size = int(_number(config, "head_dim", where, hidden // query))
    if query % key_value or size % 2:
        raise CheckpointError(f"{where}: {query} heads of {size} with {key_value} key-value heads do not fit together.")
    return Heads(query, key_value, size)


def rope(config: Config, family: Family) -> dict[str, Any]:
    """Rotary settings in transformers 5's form (`rope_theta`, `rope_type`, `factor`, ...), from either form."""
    new = dict(config.get("rope_parameters") or {})
    old = dict(config.get("rope_scaling") or {})
    settings = {**old, **new}
    settings.setdefault("rope_theta", config.get("rope_theta") or family.rope_theta)
    settings.setdefault("rope_type", settings.get("type", "default"))
    return settings


def metadata(family: Family, config: Config, where: str) -> Metadata:
    """The architecture's GGUF keys. Raises CheckpointError, naming the key, for a missing or impossible value."""
    a, attention = family.architecture, heads(config, where)

    def number(key: str, default: float | None = None) -> float:
        return _number(config, key, where, default)

    if config.get("hidden_act", "silu") != "silu":
        raise CheckpointError(f"{where}: hidden_act {config['hidden_act']!r} is not llama.cpp's for this architecture.")
    rotary = rope(config, family)
    out: Metadata = {
        f"{a}.block_count": uint32(int(number("num_hidden_layers"))),
        f"{a}.context_length": uint32(int(number("max_position_embeddings", 2048))),
        f"{a}.embedding_length": uint32(int(number("hidden_size"))),
        f"{a}.feed_forward_length": uint32(int(number("intermediate_size"))),
        f"{a}.attention.head_count": uint32(attention.query),
        f"{a}.attention.head_count_kv": uint32(attention.key_value),
        f"{a}.rope.freq_base": float32(_number(rotary, "rope_theta", where)),
        f"{a}.attention.layer_norm_rms_epsilon": float32(number("rms_norm_eps", 1e-6)),
        f"{a}.vocab_size": uint32(int(number("vocab_size"))),
        f"{a}.rope.dimension_count": uint32(attention.size),
        f"{a}.attention.key_length": uint32(attention.size),
        f"{a}.attention.value_length": uint32(attention.size),
    }
    if rotary["rope_type"] == "linear":
        out[f"{a}.rope.scaling.type"] = string("linear")
        out[f"{a}.rope.scaling.factor"] = float32(_number(rotary, "factor", where))
    elif rotary["rope_type"] not in ("default", "llama3"):
        raise CheckpointError(
            f"{where}: rope_type {rotary['rope_type']!r} is not known. Known: default, linear, llama3."
        )
    return out


def constants(family: Family, config: Config, where: str) -> dict[str, npt.NDArray[np.float32]]:
    """Tensors that the configuration alone determines: Llama-3's rotary frequency divisors, float32 [head size / 2].

    Source: `_compute_llama3_parameters` of transformers; float32 throughout, which gives the converter's very bits.
    """
    rotary = rope(config, family)
    if rotary["rope_type"] != "llama3":
        return {}
    size = heads(config, where).size
    factor, low, high, context = (
        np.float32(_number(rotary, key, where))
        for key in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    )
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    frequencies = np.float32(1) / np.float32(rotary["rope_theta"]) ** exponents
    wavelengths = np.float32(2 * math.pi) / frequencies
    smooth = (context / wavelengths - low) / (high - low)
    between = np.float32(1) / ((np.float32(1) - smooth) / factor + smooth)
    divisors = np.where(wavelengths > context / low, factor, between)
    divisors = np.where(wavelengths < context / high, np.float32(1), divisors)
    return {"rope_freqs.weight": divisors.astype(np.float32)}
