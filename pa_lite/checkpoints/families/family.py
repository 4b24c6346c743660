"""The types of the families' table: facts of a model class, of its tokenizer and of its GGUF architecture."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pa_lite.checkpoints.config import Config
from pa_lite.checkpoints.families.llama_constraints import Check
from pa_lite.ggml.gguf_tables import Keys, gguf_name
from pa_lite.ggml.metadata import Metadata

# GGUF name within a layer -> names of its dimensions, as in `Description.dimensions`
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


@dataclass(frozen=True, kw_only=True)
class Key:
    """One GGUF key of an architecture, with `{arch}` in its name, and the setting of config.json that it comes from."""

    name: str
    setting: str
    is_count: bool = True
    optional: bool = False
    absent: int | None = None  # the value when the setting is not given


KEYS = (
    Key(name=Keys.LLM.BLOCK_COUNT, setting="num_hidden_layers"),
    Key(name=Keys.LLM.CONTEXT_LENGTH, setting="max_position_embeddings"),
    Key(name=Keys.LLM.EMBEDDING_LENGTH, setting="hidden_size"),
    Key(name=Keys.LLM.FEED_FORWARD_LENGTH, setting="intermediate_size"),
    Key(name=Keys.Attention.HEAD_COUNT, setting="num_attention_heads"),
    Key(name=Keys.Attention.HEAD_COUNT_KV, setting="num_key_value_heads"),
)
RMS = Key(name=Keys.Attention.LAYERNORM_RMS_EPS, setting="rms_norm_eps", is_count=False)


@dataclass(frozen=True, kw_only=True)
class TokenizerRules:
    """Rules for reading a family's tokenizer where its files do not say how.

    `copies_space_prefix`: add_prefix_space of tokenizer_config.json is copied to the GGUF file. `never_prefixes`: no
    space is added before a string. `is_read_as_written`: transformers 5 reads the files whatever class they name.
    `adds_both_lists`: the added tokens of tokenizer.json and of tokenizer_config.json both count. `trusts_flags`: only
    the files' flags mark control tokens, not the strings of added tokens. `byte_level_name` and `digits_name` are
    llama.cpp's names of two pre-tokenizers, which depend on the family. `keys_by_size` are extra GGUF keys for
    vocabularies of a certain size.
    """

    copies_space_prefix: bool = False
    never_prefixes: bool = False
    is_read_as_written: bool = False
    adds_both_lists: bool = False
    trusts_flags: bool = False
    byte_level_name: str = "gpt-2"
    digits_name: str = "smollm"
    keys_by_size: Mapping[int, Metadata] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class NameRule:
    """A rule of llama.cpp about a model's name (`general.name`), for all architectures.

    If `pattern`, which has two groups, matches, control tokens consume the white space after them, and a vocabulary
    without `tokens` cannot be loaded. `mark` is a name that matches, `meaning` what a match means.
    """

    pattern: re.Pattern[str]
    tokens: frozenset[str]
    mark: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Facts that llama.cpp fixes for an architecture, whatever class a model has in transformers.

    `epsilon` is the key that its norms require, empty where that is not known. `rotates_whole_heads`: rotary positions
    apply to all values of a head. `layers_70b` is the number of layers by which llama-quantize recognises a 70B model;
    `grouped_70b`: that model has fewer key-value heads than query heads. `name_rule` is the
    rule about names of this architecture's models.
    """

    epsilon: str = ""
    rotates_whole_heads: bool = False
    layers_70b: int = 0
    grouped_70b: bool = False
    name_rule: NameRule | None = None


@dataclass(frozen=True, kw_only=True)
class Family:
    """One entry of the table: a model class, llama.cpp's name of its architecture, its tensors and its settings.

    Tensors: `stored` are transformers' names, with # for the layer and @ for the expert; the package gguf maps them to
    GGUF names. `fused` maps tensors with all experts of a layer to the stored names of their parts, which follow each
    other in each expert. `ignored` tensors are skipped, `optional` ones may be missing. `aliases` maps names that
    transformers 5 uses in memory, and so in adapters, to stored names. `shapes` overrides SHAPES, by GGUF name within a
    layer. `interleave_qk` reorders the rows of q and k as llama.cpp needs them; `norm_shift` is
    added to every norm; `needs_output` writes a tied output too; `cuts_vocabulary` drops rows of the embedding beyond
    the vocabulary; `is_wrapper` models have other modalities besides the language model.

    Settings: `keys` with the `defaults` of transformers' class; the keys of the head's size are written "always", when
    "given", or "never". `rope_theta` and `local_theta` (where local layers have a separate base) are defaults too;
    `rope_types` are the scalings that llama.cpp supports; `rotates_part`: only part of a head may rotate; `writes_rope`
    and `writes_rotary_size` select the rotary keys. `checks` test settings that llama.cpp fixes.
    """

    title: str
    architecture: str
    stored: tuple[str, ...]
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset({"lm_head.weight"})
    aliases: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    keys: tuple[Key, ...] = (*KEYS, RMS)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    activation: str = "silu"
    head_size: str = "given"
    interleave_qk: bool = False
    norm_shift: float = 0.0
    rope_theta: float = 10_000.0
    local_theta: float | None = None
    rope_types: tuple[str, ...] = ("default", "linear", "yarn", "dynamic")
    writes_rope: bool = True
    writes_rotary_size: bool = False
    rotates_part: bool = False
    needs_output: bool = False
    cuts_vocabulary: bool = False
    is_wrapper: bool = False
    checks: tuple[Check, ...] = ()
    tokenizer: TokenizerRules = field(default_factory=TokenizerRules)

    @functools.cached_property
    def names(self) -> Mapping[str, str]:
        """Stored name -> GGUF name, both with `#` for the layer; an empty name means that the tensor is skipped."""
        return {**{name: self._gguf_name(name) for name in self.stored}, **dict.fromkeys(self.ignored, "")}

    @functools.cached_property
    def fused_names(self) -> Mapping[str, tuple[str, ...]]:
        """Stored name of a tensor of all experts -> the GGUF names of its parts."""
        return {name: tuple(map(self._gguf_name, parts)) for name, parts in self.fused.items()}

    def _gguf_name(self, stored_name: str) -> str:
        name = gguf_name(self.architecture, stored_name)
        assert name is not None, f"gguf does not know {stored_name} of {self.architecture}"
        return name

    def required(self, config: Config) -> Iterator[tuple[str, str]]:
        """Yield (stored name, GGUF name) of the tensors that a model must have; of experts only the first."""
        flagged = {flag for flag in ("attention_bias", "mlp_bias") if config.get(flag) is True}
        for stored, name in self.names.items():
            flag = "mlp_bias" if name.startswith("blk.#.ffn") else "attention_bias"
            if not name or (stored in self.optional and not (stored.endswith(".bias") and flag in flagged)):
                continue
            for layer in range(config.count("num_hidden_layers")) if "#" in name else [0]:
                yield stored.replace("#", str(layer)).replace("@", "0"), name.replace("#", str(layer))
