"""What is settled before a model loads: whether llama.cpp would survive the file, and how many layers a GPU takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pa_lite.checkpoints.gguf_file import GgufHeader, architecture_of
from pa_lite.errors import CheckpointError

_MAX_LAYERS, _MAX_EXPERTS = 512, 1024  # LLAMA_MAX_LAYERS, LLAMA_MAX_EXPERTS
_MIN_ALIGNMENT = 32  # of a CPU buffer's tensors; those of a mapped file lie as they lie in the file
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
_NO_WEIGHTS = ("I8", "I16", "I32", "I64", "F64")


def check_loadable(header: GgufHeader) -> None:
    """Refuse what makes llama.cpp end the process instead of answering.

    Raises CheckpointError that names the key or the tensor. Source: the assertions that llama.cpp's model loader,
    vocabulary and CPU kernels make of a file.
    """
    architecture = architecture_of(header)
    for check in (_check_sizes, _check_numbers, _check_vocabulary, _check_tensors):
        told = check(header, architecture)
        if told is not None:
            raise CheckpointError(f"{header.path}: {told}. llama.cpp cannot run it: fetch or convert the model again.")


def _number(header: GgufHeader, key: str) -> Any:
    """A number of the metadata; 0 where there is none, or a list, as hybrid models have."""
    value = header.metadata[key].value if key in header.metadata else 0
    return value if isinstance(value, (int, float)) else 0


def _check_sizes(header: GgufHeader, architecture: str) -> str | None:
    layers = _number(header, f"{architecture}.block_count")
    if not 0 < layers <= _MAX_LAYERS:
        return f"{architecture}.block_count is missing or not from 1 to {_MAX_LAYERS}"
    experts, used = (_number(header, f"{architecture}.expert_{what}") for what in ("count", "used_count"))
    if not 0 <= experts <= _MAX_EXPERTS:
        return f"{architecture}.expert_count is {experts}, more than {_MAX_EXPERTS}"
    if not min(1, experts) <= used <= experts:
        return f"{architecture}.expert_used_count is {used}, expert_count {experts}"
    return None


def _check_numbers(header: GgufHeader, architecture: str) -> str | None:
    for name in ("layer_norm_epsilon", "layer_norm_rms_epsilon", "group_norm_epsilon"):
        value = _number(header, f"{architecture}.attention.{name}")
        if not 0 <= value < math.inf:
            return f"{architecture}.attention.{name} is {value}"
    scaling = header.metadata.get(f"{architecture}.rope.scaling.type")
    if scaling is not None and scaling.value not in _ROPE_SCALINGS:
        return f"{architecture}.rope.scaling.type is {scaling.value!r}, none of {', '.join(_ROPE_SCALINGS)}"
    alignment = _number(header, "general.alignment")
    if 0 < alignment < _MIN_ALIGNMENT:
        return f"general.alignment is {alignment}, less than {_MIN_ALIGNMENT}"
    return None


def _check_vocabulary(header: GgufHeader, _architecture: str) -> str | None:
    entry, model = header.metadata.get("tokenizer.ggml.tokens"), header.metadata.get("tokenizer.ggml.model")
    if entry is None or entry.item != "STRING":
        return "it has no vocabulary (tokenizer.ggml.tokens)"
    texts = set(entry.value)
    if len(texts) != len(entry.value):
        seen: set[str] = set()
        doubled = next(t for t in entry.value if t in seen or seen.add(t))  # type: ignore[func-returns-value]
        return f"its vocabulary has two equal tokens, {doubled!r} (tokenizer.ggml.tokens)"
    if model is not None and model.value == "llama":
        missing = [b for b in range(256) if f"<0x{b:02X}>" not in texts and not (b < 128 and chr(b) in texts)]
        if missing:
            return f"its vocabulary has no token for the byte <0x{missing[0]:02X}> (tokenizer.ggml.tokens)"
    return None


def _check_tensors(header: GgufHeader, _architecture: str) -> str | None:
    for tensor in header.tensors.values():
        if tensor.type.name in _NO_WEIGHTS and tensor.name.endswith(".weight"):
            return f"tensor {tensor.name} is of type {tensor.type.name}, which holds no weights"
        if len(tensor.shape) == 1 and tensor.type.name != "F32" and tensor.name.endswith("norm.weight"):
            return f"tensor {tensor.name} is of type {tensor.type.name}; norms must be F32"
    return None


def most_that_fit(most: int, fits: Callable[[int], bool]) -> int | None:
    """The largest n of 0..most for which fits(n) says yes, None when none does; most itself is tried first.

    What fits with n is taken to fit with fewer; about log2(most) tries.
    """
    if fits(most):
        return most
    low, high = -1, most  # low fits (or nothing is known to), high does not
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low if low >= 0 else None
