"""Convert rotary position settings, in both forms of transformers, to GGUF.

transformers 5 has one table, `rope_parameters`; earlier versions have `rope_theta`, `rope_scaling` and more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pa_lite.checkpoints.config import Config
from pa_lite.errors import CheckpointError
from pa_lite.ggml.gguf_tables import Keys, tensor_name
from pa_lite.ggml.metadata import Metadata, float32, string, uint32

Tensors = dict[str, npt.NDArray[np.float32]]
FACTORS, LONG, SHORT = (
    f"{tensor_name(name)}.weight" for name in ("ROPE_FREQS", "ROPE_FACTORS_LONG", "ROPE_FACTORS_SHORT")
)
# llama.cpp's keys of YaRN beyond the factor -> the converter's spellings of each setting
_YARN = {
    Keys.Rope.SCALING_YARN_EXT_FACTOR: ("extrapolation_factor",),
    Keys.Rope.SCALING_YARN_ATTN_FACTOR: ("attention_factor", "attn_factor"),
    Keys.Rope.SCALING_YARN_BETA_FAST: ("beta_fast",),
    Keys.Rope.SCALING_YARN_BETA_SLOW: ("beta_slow",),
}
_YARN_UNKNOWN = ("mscale", "mscale_all_dim")  # change the attention, and llama.cpp has no key for them


@dataclass(frozen=True, kw_only=True)
class Rope:
    """A model's rotary settings: the scaling `rope_type` and its table, the frequency bases, the rotated share."""

    rope_type: str
    scaling: Config
    theta: float
    local_theta: float | None
    rotated: float


def read_rope(config: Config, theta: float, local_theta: float | None, rope_types: tuple[str, ...]) -> Rope:
    """Read the settings of either form, or of both mixed; `theta` and `local_theta` are the family's defaults.

    With `local_theta` None the family has one base for all layers. Raises CheckpointError for a scaling that is not in
    `rope_types`, which are those that llama.cpp supports for the family.
    """
    new = config.table("rope_parameters")
    parts = Config(new, f"{config.where}: rope_parameters")
    local = parts.table("sliding_attention")
    if "full_attention" in new:
        new = parts.table("full_attention")
    settings = {**config.table("rope_scaling"), **new}
    for key in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings"):
        if settings.get(key) is None and config.get(key) is not None:
            settings[key] = config.get(key)
    settings = {"rope_theta": theta, "partial_rotary_factor": 1.0, **settings}
    scaling = Config(settings, config.where)
    rope_type = settings.get("rope_type") or settings.get("type") or "default"
    rope_type = "longrope" if rope_type == "su" else rope_type  # its name in early configurations
    if rope_type not in rope_types:
        raise CheckpointError(
            f"{config.where}: rope_type {rope_type!r} is not supported for this family, only {', '.join(rope_types)}."
        )
    found = None
    if local_theta is not None:
        if Config(local, config.where).get("rope_type") not in (None, "default"):
            raise CheckpointError(
                f"{config.where}: sliding layers have a different rope_type, which GGUF cannot store."
            )
        base = local.get("rope_theta") or config.get("rope_local_base_freq") or local_theta
        found = Config({"rope_local_base_freq": base}, config.where).number("rope_local_base_freq")
    rotated = scaling.number("partial_rotary_factor")
    if rotated > 1:
        raise scaling.refuse("partial_rotary_factor", "must be at most 1")
    return Rope(
        rope_type=rope_type, scaling=scaling, theta=scaling.number("rope_theta"), local_theta=found, rotated=rotated
    )


def rope_metadata(architecture: str, rope: Rope) -> Metadata:
    """Return the frequency bases, and the keys of linear and YaRN scaling."""
    out: Metadata = {Keys.Rope.FREQ_BASE: float32(rope.theta)}
    if rope.local_theta is not None:
        out[Keys.Rope.FREQ_BASE_SWA] = float32(rope.local_theta)
    if rope.rope_type in ("linear", "yarn"):
        out[Keys.Rope.SCALING_TYPE] = string(rope.rope_type)
        out[Keys.Rope.SCALING_FACTOR] = float32(rope.scaling.number("factor"))
    if rope.rope_type == "yarn":
        out[Keys.Rope.SCALING_ORIG_CTX_LEN] = uint32(rope.scaling.count("original_max_position_embeddings"))
        for key, names in _YARN.items():
            given = next((n for n in names if rope.scaling.get(n) is not None), None)
            if given is not None:
                out[key] = float32(rope.scaling.number(given))
        for key in _YARN_UNKNOWN:
            if rope.scaling.get(key) is not None:
                raise rope.scaling.refuse(key, "GGUF has no key for it")
        if rope.scaling.get("truncate") is False:
            raise rope.scaling.refuse("truncate", "llama.cpp rounds YaRN's bounds")
    return {key.format(arch=architecture): value for key, value in out.items()}


def llama3_divisors(rope: Rope, size: int) -> Tensors:
    """Return Llama-3's divisors of the rotary frequencies, float32 [size / 2], for heads of `size`.

    Source: `_compute_llama3_parameters` of transformers; all in float32, to be bit-identical with the converter.
    """
    factor, low, high, context = (
        np.float32(rope.scaling.number(key))
        for key in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    )
    if high <= low:
        raise rope.scaling.refuse("high_freq_factor", "must be larger than low_freq_factor")
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    frequencies = np.float32(1) / np.float32(rope.theta) ** exponents
    wavelengths = np.float32(2 * math.pi) / frequencies
    smooth = (context / wavelengths - low) / (high - low)
    between = np.float32(1) / ((np.float32(1) - smooth) / factor + smooth)
    divisors = np.where(wavelengths > context / low, factor, between)
    divisors = np.where(wavelengths < context / high, np.float32(1), divisors)
    return {FACTORS: divisors.astype(np.float32)}


def longrope(rope: Rope, size: int, context: int) -> tuple[float, Tensors]:
    """Return LongRoPE's attention factor and two lists of divisors, float32 [size / 2], for heads that rotate `size`.

    Source: Ding et al. 2024 (arXiv 2402.13753); the factor is as in transformers' `_compute_longrope_parameters`.
    """
    original = rope.scaling.count("original_max_position_embeddings")
    if original < 2:
        raise rope.scaling.refuse("original_max_position_embeddings", "must be at least 2")
    scale = context / original
    factor = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
    if rope.scaling.get("attention_factor") is not None:
        factor = rope.scaling.number("attention_factor")
    return factor, {
        LONG: _divisors(rope.scaling, "long_factor", size // 2),
        SHORT: _divisors(rope.scaling, "short_factor", size // 2),
    }


def _divisors(scaling: Config, key: str, n: int) -> npt.NDArray[np.float32]:
    values: Any = scaling.get(key)
    if not isinstance(values, list) or len(values) != n:
        raise CheckpointError(f"{scaling.where}: {key} must be a list of {n} numbers.")
    checked = [Config({key: value}, scaling.where).number(key) for value in values]
    return np.array(checked, np.float32)
