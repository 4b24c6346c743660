"""Small LoRA adapters of tiny models, in peft's form and in llama.cpp's, and their products in numpy."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pa_lite.ggml.kernels import from_float32, tensor_type
from pa_lite.ggml.metadata import Metadata, float32, string
from tests.support import tiny
from tests.support.ggufs import write_gguf_header

SETTINGS: dict[str, Any] = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 6, "base_model_name_or_path": "org/base",
    "target_modules": ["q_proj"],
}  # fmt: skip
PREFIX = "base_model.model."


def factors(weights: tiny.Arrays, modules: Sequence[str], rank: int = 4, seed: int = 7) -> tiny.Arrays:
    """Return random factors under peft's names for the linear layers `modules` of a model."""
    rng = np.random.default_rng(seed)
    out: tiny.Arrays = {}
    for module in modules:
        rows, columns = weights[f"{module}.weight"].shape
        out[f"{PREFIX}{module}.lora_A.weight"] = 0.3 * rng.standard_normal((rank, columns), np.float32)
        out[f"{PREFIX}{module}.lora_B.weight"] = 0.3 * rng.standard_normal((rows, rank), np.float32)
    return out


def modules_of(weights: tiny.Arrays, *names: str) -> list[str]:
    """Return the modules of a model whose names end in one of `names`."""
    return [n.removesuffix(".weight") for n in weights if n.removesuffix(".weight").endswith(names)]


def write_peft(folder: Path, arrays: tiny.Arrays, dtype: str = "F32", **settings: Any) -> Path:
    """Write an adapter's folder; settings changed to `...` are left out of adapter_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {key: value for key, value in {**SETTINGS, **settings}.items() if value is not ...}
    (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    tiny.save_safetensors(folder / "adapter_model.safetensors", arrays, dtype)
    return folder


def adapted(weights: tiny.Arrays, arrays: tiny.Arrays, scale: float) -> tiny.Arrays:
    """Return the weights with the product of each pair of factors added, as peft merges them, in float32."""
    out = dict(weights)
    for name, b in arrays.items():
        if name.endswith(".lora_B.weight"):
            module = name.removeprefix(PREFIX).removesuffix(".lora_B.weight")
            a = arrays[f"{PREFIX}{module}.lora_A.weight"]
            out[f"{module}.weight"] = weights[f"{module}.weight"] + (b @ a) * np.float32(scale)
    return out


def write_gguf(
    path: Path, pairs: Mapping[str, tuple[Any, Any]], alpha: float = 6.0, kind: str = "F32",
    architecture: str = "llama", **metadata: Any,
) -> Path:  # fmt: skip
    """Write a GGUF adapter: GGUF name -> (lora_a, lora_b).

    Metadata given as None are left out; `__` in a keyword stands for a dot.
    """
    keys: Metadata = {
        "general.type": string("adapter"), "adapter.type": string("lora"), "adapter.lora.alpha": float32(alpha),
        **{key.replace("__", "."): value for key, value in metadata.items()},
    }  # fmt: skip
    keys = {key: value for key, value in keys.items() if value is not None}
    held = tensor_type(kind)
    named = {
        f"{name}.{end}": a for name, pair in pairs.items() for end, a in zip(("lora_a", "lora_b"), pair, strict=True)
    }
    named = {name.removesuffix(".lora_a") if a.ndim == 1 else name: a for name, a in named.items()}
    placed = write_gguf_header(path, architecture, keys, {name: (held, a.shape) for name, a in named.items()})
    with path.open("r+b") as file:
        for name, values in named.items():
            rows = np.ascontiguousarray(values, np.float32).reshape(-1, values.shape[-1])
            encoded = np.empty(held.nbytes(math.prod(values.shape)), np.uint8)
            from_float32(held, rows, encoded)
            file.seek(placed[name].offset)
            file.write(encoded.tobytes())
    return path
