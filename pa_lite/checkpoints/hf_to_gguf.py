"""Apply the families' table to a model: find its family and convert names, shapes and settings to GGUF."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pa_lite.checkpoints.config import Config
from pa_lite.checkpoints.families.family import SHAPES, Family, Key
from pa_lite.checkpoints.families.llama_constraints import must_be
from pa_lite.checkpoints.families.rope import Rope, Tensors, llama3_divisors, longrope, read_rope, rope_metadata
from pa_lite.checkpoints.families.table import FAMILIES
from pa_lite.errors import CheckpointError
from pa_lite.ggml.gguf_tables import Keys
from pa_lite.ggml.metadata import Field, Metadata, float32, uint32

_SKIPPED = re.compile(r".*\.rotary_emb\.inv_freq|.*\.attention\.(bias|masked_bias)")
_OTHER_MODALITIES = re.compile(r"(model\.)?(vision_tower|multi_modal_projector)\..*")
_NUMBER = r"(0|[1-9][0-9]{0,8})"
_VECTOR = ("embedding",)  # norms, and the biases of attention's and feed-forward's outputs
_LIMITS = {"num_hidden_layers": 512, "num_local_experts": 1024}  # LLAMA_MAX_LAYERS, LLAMA_MAX_EXPERTS
_LARGEST_HEAD = 1 << 16  # values, far above any real one; it bounds the size of tables


def family_of(raw: Mapping[str, Any], where: str) -> Family:
    """Return the family of the first class name in `architectures`. Raises CheckpointError that lists known ones."""
    names = raw.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if not isinstance(name, str) or name not in FAMILIES:
        raise CheckpointError(
            f"{where}: architecture {name!r} cannot be read from safetensors. Supported: {', '.join(FAMILIES)}. GGUF "
            "files of any architecture can be merged: convert both with llama.cpp's convert_hf_to_gguf.py."
        )
    if raw.get("quantization_config"):
        raise CheckpointError(f"{where}: the weights are quantised. Use the original checkpoint instead.")
    return FAMILIES[name]


def titles_of(architecture: str) -> list[str]:
    """Return the families of a GGUF architecture, none for one outside the table."""
    return list(dict.fromkeys(f.title for f in FAMILIES.values() if f.architecture == architecture))


@dataclass(frozen=True, kw_only=True)
class Destination:
    """The GGUF tensor that a stored tensor belongs to, and its expert, or None.

    A stored tensor with all experts of a layer contains `parts` GGUF tensors: this is part `part` of each expert's
    rows.
    """

    name: str
    expert: int | None = None
    part: int = 0
    parts: int = 0


def destinations_of(family: Family, stored_name: str) -> list[Destination]:
    """Return the GGUF tensors that a stored tensor belongs to, none if it is not a weight of the language model.

    Raises KeyError for an unknown name.
    """
    if _SKIPPED.fullmatch(stored_name):
        return []
    if family.is_wrapper:
        if _OTHER_MODALITIES.fullmatch(stored_name):
            return []
        stored_name = stored_name.replace("language_model.", "", 1)
    layer, expert = (re.search(rf"\.{word}\.{_NUMBER}\.", stored_name) for word in ("layers", "experts"))
    number = layer[1] if layer else ""
    pattern = stored_name
    if layer:
        pattern = pattern.replace(layer[0], ".layers.#.", 1)
    if expert:
        pattern = pattern.replace(expert[0], ".experts.@.", 1)
    if pattern in family.fused_names:
        names = family.fused_names[pattern]
        return [Destination(name=name.replace("#", number), part=i, parts=len(names)) for i, name in enumerate(names)]
    name = family.names[family.aliases.get(pattern, pattern)]
    return [Destination(name=name.replace("#", number), expert=int(expert[1]) if expert else None)] if name else []


def rotary_heads(family: Family, heads: tuple[int, int], name: str) -> int:
    """Return the number of heads of a GGUF tensor whose rows are reordered, 0 for none.

    `heads` are the model's numbers of query heads and of key-value heads.
    """
    role = name.rpartition(".attn_")[2]
    if not family.interleave_qk or not role.startswith(("q.", "k.")):
        return 0
    return heads[0] if role.startswith("q") else heads[1]


class ModelShapes(Protocol):
    """What is known of a model's tensors before they are read; `heads` are query heads and key-value heads."""

    @property
    def heads(self) -> tuple[int, int]: ...

    @property
    def n_layers(self) -> int: ...

    def shape_of(self, family: Family, name: str) -> tuple[int, ...]:
        """Return the numpy shape that a GGUF tensor must have."""
        ...


@dataclass(frozen=True, kw_only=True)
class Description:
    """A model's configuration in GGUF's terms: keys, tensors that depend only on settings, and dimensions by name.

    `heads` are the numbers of query heads and of key-value heads.
    """

    metadata: Metadata
    constants: Tensors
    dimensions: Mapping[str, int]
    heads: tuple[int, int]
    n_layers: int
    warnings: tuple[str, ...]

    def shape_of(self, family: Family, name: str) -> tuple[int, ...]:
        """Return the numpy shape that a GGUF tensor must have."""
        role = re.sub(r"^blk\.\d+\.", "", name)
        names = family.shapes.get(role) or SHAPES.get(role) or _VECTOR
        return tuple(self.dimensions[dimension] for dimension in names)


def describe(family: Family, config: Config) -> Description:
    """Convert a model's settings. Raises CheckpointError for a key that is missing, invalid or not supported."""
    for key, limit in _LIMITS.items():
        if config.get(key) is not None and config.count(key) > limit:
            raise config.refuse(key, f"llama.cpp supports at most {limit}")
    size = _head_size(family, config)
    for key in ("hidden_act", "hidden_activation"):
        must_be(key, family.activation)(config)
    rope = read_rope(config, family.rope_theta, family.local_theta, family.rope_types)
    if rope.rotated != 1 and not family.rotates_part:
        raise rope.scaling.refuse("partial_rotary_factor", "llama.cpp rotates all of a head in this architecture")
    if rope.theta != family.rope_theta and not family.writes_rope:
        raise rope.scaling.refuse("rope_theta", f"llama.cpp computes this architecture only with {family.rope_theta:g}")
    original = "original_max_position_embeddings"
    config = Config({**config.values, original: rope.scaling.get(original)}, config.where)
    warnings = [line for check in family.checks if (line := check(config))]
    rotated = int(rope.rotated * config.count("hidden_size")) // config.count("num_attention_heads")
    rotated = rotated if family.rotates_part else size
    metadata = _metadata(family, config, rope, size, rotated)
    constants: Tensors = {}
    if rope.rope_type == "llama3":
        constants = llama3_divisors(rope, rotated)
    elif rope.rope_type == "longrope":
        factor, constants = longrope(rope, rotated, config.count("max_position_embeddings"))
        metadata[Keys.Rope.SCALING_ATTN_FACTOR.format(arch=family.architecture)] = float32(factor)
    elif rope.rope_type == "dynamic":
        warnings.append(
            f"{config.where}: dynamic rotary scaling cannot be stored in GGUF: beyond "
            f"{config.count('max_position_embeddings')} tokens llama.cpp's results differ from transformers'"
        )
    heads = config.count("num_attention_heads"), config.count("num_key_value_heads")
    return Description(
        metadata=metadata,
        constants=constants,
        dimensions=_dimensions(config, size),
        heads=heads,
        n_layers=config.count("num_hidden_layers"),
        warnings=tuple(warnings),
    )


def _head_size(family: Family, config: Config) -> int:
    query, key_value = config.count("num_attention_heads"), config.count("num_key_value_heads")
    size = config.count("head_dim") if config.get("head_dim") else config.count("hidden_size") // query
    if query % key_value or size % 2 or not 0 < size <= _LARGEST_HEAD:
        raise CheckpointError(f"{config.where}: {query} heads of {size} and {key_value} key-value heads do not match.")
    return size


def _dimensions(config: Config, size: int) -> dict[str, int]:
    """Return the dimensions of tensors, by the names that SHAPES uses."""
    q, kv = config.count("num_attention_heads") * size, config.count("num_key_value_heads") * size
    ffn = config.count("intermediate_size")
    out = {
        "vocabulary": config.count("vocab_size"), "embedding": config.count("hidden_size"), "head": size, "q": q,
        "kv": kv, "qkv": q + 2 * kv, "ffn": ffn, "gate and up": 2 * ffn, "expert_ffn": ffn,
    }  # fmt: skip
    if config.get("num_local_experts") is not None:
        out["experts"] = config.count("num_local_experts")
    if config.get("moe_intermediate_size") is not None:
        out["expert_ffn"] = config.count("moe_intermediate_size")
    return out


def _metadata(family: Family, config: Config, rope: Rope, size: int, rotated: int) -> Metadata:
    a = family.architecture
    out: Metadata = {}
    for key in family.keys:
        name = key.name.format(arch=a)
        if config.get(key.setting) is not None:
            out[name] = _value(key, config)
        elif key.absent is not None:
            out[name] = uint32(key.absent)
        elif not key.optional:
            config.count(key.setting)  # raises: the setting is missing
    if family.writes_rope:
        out |= rope_metadata(a, rope)
    if family.writes_rotary_size:
        out[Keys.Rope.DIMENSION_COUNT.format(arch=a)] = uint32(rotated)
    if family.head_size == "always" or (family.head_size == "given" and config.get("head_dim") is not None):
        lengths = (Keys.Attention.KEY_LENGTH, Keys.Attention.VALUE_LENGTH)
        out |= {name.format(arch=a): uint32(size) for name in lengths}
    return out


def _value(key: Key, config: Config) -> Field:
    return uint32(config.count(key.setting)) if key.is_count else float32(config.number(key.setting))
