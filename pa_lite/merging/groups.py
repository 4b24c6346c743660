"""The group and the layer that a tensor belongs to, derived from its GGUF name."""

from __future__ import annotations

import re

GROUPS = ("embeddings", "attention", "ffn", "norms", "output", "other")
_LAYER = re.compile(r"blk\.(\d+)\.")


def layer_of(name: str) -> int | None:
    """Return the layer N of a tensor `blk.N...`, None for a tensor outside the layers."""
    found = _LAYER.match(name)
    return int(found[1]) if found else None


def group_of(name: str) -> str:
    """Return the tensor's group, one of GROUPS. All norms are `norms`, those inside attention included."""
    role = _LAYER.sub("", name)
    if "norm" in role:
        return "norms"
    for start, group in (("token_embd", "embeddings"), ("attn_", "attention"), ("ffn_", "ffn"), ("output", "output")):
        if role.startswith(start):
            return group
    return "other"
