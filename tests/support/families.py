"""Tiny checkpoints of every family without torch: random weights under the table's names and shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pa_lite.checkpoints.config import read_config
from pa_lite.checkpoints.families.table import FAMILIES
from pa_lite.checkpoints.hf_to_gguf import describe
from tests.parity.cases import CASES, SIZES, Case
from tests.support import tiny

# one case of each class
FIRST: dict[str, Case] = {case.architecture: case for case in reversed(CASES.values())}


def config_of(architecture: str, **changes: Any) -> dict[str, Any]:
    """Return a tiny config.json of a class; a key changed to `...` is omitted."""
    config = {"architectures": [architecture], **SIZES, **FIRST[architecture].settings, "vocab_size": 320, **changes}
    return {key: value for key, value in config.items() if value is not ...}


def weights_of(config: dict[str, Any], seed: int) -> tiny.Arrays:
    """Return random float32 weights under the names that transformers stores."""
    (architecture,) = config["architectures"]
    family = FAMILIES[architecture]
    settings = read_config(config, family.defaults, "config")
    model = describe(family, settings)
    rng = np.random.default_rng(seed)
    out: tiny.Arrays = {}
    for stored, name in family.required(settings):
        shape = model.shape_of(family, name)
        for expert in range(shape[0]) if ".experts.0." in stored else [0]:
            size = shape[1:] if ".experts.0." in stored else shape
            out[stored.replace(".experts.0.", f".experts.{expert}.")] = rng.standard_normal(size, np.float32)
    return out


def write_checkpoint(
    folder: Path, architecture: str, seed: int = 1, shards: int = 1, dtype: str = "BF16", **changes: Any
) -> tuple[Path, tiny.Arrays]:
    """Write a complete tiny checkpoint; return its folder and its weights."""
    config = config_of(architecture, **changes)
    arrays = weights_of(config, seed)
    return tiny.write_checkpoint(folder, arrays, dtype, shards, config), arrays
