"""Refuse GGUF files whose header would crash llama.cpp, before it loads them.

What llama.cpp itself refuses with a clear error is mostly left to it. Nothing here calls llama.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from pa_lite.checkpoints.families.table import ARCHITECTURES
from pa_lite.engine.value_refusals import value_faults
from pa_lite.engine.vocabulary_refusals import vocabulary_faults
from pa_lite.errors import CheckpointError
from pa_lite.ggml.container import GgufHeader, architecture_of
from pa_lite.ggml.metadata import Field

_MAX_LAYERS, _MAX_EXPERTS = 512, 1024  # LLAMA_MAX_LAYERS, LLAMA_MAX_EXPERTS
_MIN_ALIGNMENT = 32  # of tensors in a CPU buffer; in a mapped file they keep the file's alignment
_MAX_WINDOW = 1 << 24  # llama.cpp multiplies it by the number of sequences, up to 256, in 32 bits
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
# tensors of recurrent states and short convolutions
_STATE = (".ssm_a", ".ssm_d", ".ssm_conv1d.weight", ".shortconv.conv.weight")
_WEIGHTS, _TABLE = (".weight", ".bias", *_STATE), "tid2eid"  # the latter has the experts of each token, as integers
_NO_WEIGHTS = ("I8", "I16", "I32", "I64", "F64")
_EPSILONS = ("layer_norm_epsilon", "layer_norm_rms_epsilon", "group_norm_epsilon")
_KNOWN = {name: facts for name, facts in ARCHITECTURES.items() if facts.epsilon}


def check_loadable(header: GgufHeader) -> None:
    """Refuse a file that would crash llama.cpp, or that lacks what every model of its architecture has.

    Raises CheckpointError that names the key or tensor. Source: assertions in llama.cpp's model loader, vocabulary,
    graphs and CPU kernels.
    """
    architecture = architecture_of(header)
    for faults in (value_faults, _sizes, _numbers, _rope, _shape_of_known, vocabulary_faults, _tensors):
        for fault in faults(header, architecture):
            raise CheckpointError(f"{header.path}: {fault}. llama.cpp cannot run it: fetch or convert the model again.")


def _number(header: GgufHeader, key: str) -> Any:
    """Return a number in the metadata; 0 if it is missing, or a list as in hybrid models."""
    value = header.metadata[key].value if key in header.metadata else 0
    return value if isinstance(value, (int, float)) else 0


def _each(header: GgufHeader, key: str) -> list[Any]:
    """Return the numbers under a key, one for all layers or one for each; an empty list if it is missing."""
    entry = header.metadata.get(key, Field("ARRAY", [], "UINT32"))
    return entry.value if isinstance(entry.value, list) else [entry.value]


def _sizes(header: GgufHeader, architecture: str) -> Iterator[str]:
    if "" in header.metadata:
        yield "it has a key without a name"
    layers = _number(header, f"{architecture}.block_count")
    if not isinstance(layers, int) or not 0 < layers <= _MAX_LAYERS:
        yield f"{architecture}.block_count is missing or not from 1 to {_MAX_LAYERS}"
    for name in ("context_length", "embedding_length"):
        key = f"{architecture}.{name}"
        entry = header.metadata.get(key)
        if entry is None or entry.type != "UINT32" or not 0 < entry.value < 1 << 31:
            found = "missing" if entry is None else f"{str(entry.value)[:40]} of type {entry.type}"
            yield f"{key} is {found}, but must be a UINT32 from 1 to 2147483647"
    if _number(header, f"{architecture}.nextn_predict_layers") > layers:
        yield f"{architecture}.nextn_predict_layers is more than {architecture}.block_count"
    yield from _experts(header, architecture)


def _experts(header: GgufHeader, architecture: str) -> Iterator[str]:
    count, groups, chosen = (
        _number(header, f"{architecture}.{name}")
        for name in ("expert_count", "expert_group_count", "expert_group_used_count")
    )
    each = _each(header, f"{architecture}.expert_used_count")
    used = max((n for n in each if isinstance(n, (int, float))), default=0)
    if not 0 <= count <= _MAX_EXPERTS:
        yield f"{architecture}.expert_count is {count}, more than {_MAX_EXPERTS}"
    if not min(1, count) <= used <= count:
        yield f"{architecture}.expert_used_count is {used}, but expert_count is {count}"
    if (groups and groups >= count) or (groups > 1 and (count % groups or not 0 < chosen < groups)):
        yield (
            f"{architecture}.expert_group_count {groups}, expert_group_used_count {chosen} and expert_count {count} "
            "contradict each other"
        )


def _numbers(header: GgufHeader, architecture: str) -> Iterator[str]:
    for name in _EPSILONS:
        value = _number(header, f"{architecture}.attention.{name}")
        if not 0 <= value < math.inf:
            yield f"{architecture}.attention.{name} is {value}"
    scaling = header.metadata.get(f"{architecture}.rope.scaling.type")
    if scaling is not None and scaling.value not in _ROPE_SCALINGS:
        yield f"{architecture}.rope.scaling.type is {scaling.value!r}, not one of {', '.join(_ROPE_SCALINGS)}"
    window = _number(header, f"{architecture}.attention.sliding_window")
    if window > _MAX_WINDOW:
        yield f"{architecture}.attention.sliding_window is {window}, more than {_MAX_WINDOW}"
    alignment = _number(header, "general.alignment")
    if 0 < alignment < _MIN_ALIGNMENT:
        yield f"general.alignment is {alignment}, less than {_MIN_ALIGNMENT}"


def _rope(header: GgufHeader, architecture: str) -> Iterator[str]:
    """Yield a wrong rope dimension: rope rotates pairs of a key's numbers, at most all of them."""
    rope = header.metadata.get(key := f"{architecture}.rope.dimension_count")
    heads = _number(header, f"{architecture}.attention.head_count")
    width = _number(header, f"{architecture}.attention.key_length")
    width = width or (heads and _number(header, f"{architecture}.embedding_length") // heads)
    if rope is not None and width and (not 0 < _number(header, key) <= width or rope.value % 2):
        yield f"{key} is {str(rope.value)[:40]}, but must be an even number up to the head's width, {width}"


def _shape_of_known(header: GgufHeader, architecture: str) -> Iterator[str]:
    """Yield missing or contradictory keys of the architectures that pa-lite knows."""
    if architecture not in _KNOWN:
        return
    if (
        header.metadata.get(key := _KNOWN[architecture].epsilon.format(arch=architecture), Field("", 0)).type
        != "FLOAT32"
    ):
        yield f"{key} is missing or not a FLOAT32"
    layers = header.metadata[f"{architecture}.block_count"].value
    for name in ("attention.head_count", "attention.head_count_kv", "feed_forward_length"):
        values = _each(header, key := f"{architecture}.{name}")
        if not values and not name.endswith("_kv"):
            yield f"{key} is missing"
        if not all(isinstance(v, int) and 0 < v < 1 << 31 for v in values):
            yield f"{key} is {str(values[0] if len(values) == 1 else values)[:40]}, but must be from 1 to 2147483647"
        if isinstance(header.metadata.get(key, Field("", 0)).value, list) and len(values) != layers:
            yield f"{key} has {len(values)} numbers for {layers} layers"
    yield from _heads(header, architecture)


def _heads(header: GgufHeader, architecture: str) -> Iterator[str]:
    own = f"{architecture}.attention"
    heads = _each(header, f"{own}.head_count")
    shared = _each(header, f"{own}.head_count_kv") or heads
    layers = max(len(heads), len(shared))
    for n, n_kv in zip(*(v * layers if len(v) == 1 else v for v in (heads, shared)), strict=True):
        if n % n_kv:
            yield f"{own}.head_count is {n}, not a multiple of head_count_kv, {n_kv}"
    width = _number(header, f"{architecture}.embedding_length") // heads[0]
    key = _number(header, f"{own}.key_length") if f"{own}.key_length" in header.metadata else width
    value = _number(header, f"{own}.value_length") if f"{own}.value_length" in header.metadata else width
    if key != value or not 0 < key < 1 << 20:
        yield f"{own}.key_length is {key} and value_length {value}: they must be equal and more than 0"
    rope = header.metadata.get(f"{architecture}.rope.dimension_count")
    if rope is not None and _KNOWN[architecture].rotates_whole_heads and rope.value != key:
        yield f"{architecture}.rope.dimension_count is {rope.value}, but key_length is {key}"


def _tensors(header: GgufHeader, architecture: str) -> Iterator[str]:
    for tensor in header.tensors.values():
        if tensor.type.name in _NO_WEIGHTS and (_TABLE in tensor.name or not tensor.name.endswith(_WEIGHTS)):
            continue
        if tensor.type.name in _NO_WEIGHTS:
            yield f"tensor {tensor.name} is of type {tensor.type.name}, which is not a type of weights"
        if tensor.type.name != "F32" and tensor.name.endswith("norm.weight"):
            yield f"tensor {tensor.name} is of type {tensor.type.name}; norms must be F32"
        if tensor.type.name != "F32" and tensor.name.endswith(_STATE):
            yield f"tensor {tensor.name} is of type {tensor.type.name}, but must be F32"
        if tensor.type.name != "F32" and len(tensor.shape) == 1:  # llama.cpp only adds and multiplies F32
            yield f"tensor {tensor.name} is of type {tensor.type.name}; tensors of one dimension must be F32"
    if architecture not in _KNOWN:
        return
    yield from _attention(header, architecture)
    embedding = header.tensors.get("token_embd.weight")
    n_tokens = len(header.metadata["tokenizer.ggml.tokens"].value)
    expected = (n_tokens, _number(header, f"{architecture}.embedding_length"))
    if embedding is not None and embedding.shape != expected:
        yield (
            f"tensor token_embd.weight has the shape {list(embedding.shape)}; the vocabulary of {n_tokens} tokens and "
            f"{architecture}.embedding_length require {list(expected)}"
        )


def _attention(header: GgufHeader, architecture: str) -> Iterator[str]:
    """Yield layers without queries, keys and values, which may be one tensor or three."""
    for i in range(header.metadata[f"{architecture}.block_count"].value):
        has = {part for part in ("qkv", "q", "k", "v", "output") if f"blk.{i}.attn_{part}.weight" in header.tensors}
        if "output" in has and "qkv" not in has and not has >= {"q", "k", "v"}:
            yield f"it has neither blk.{i}.attn_qkv.weight nor the three of attn_q, attn_k and attn_v"
