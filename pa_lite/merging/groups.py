"""Which part of a model a tensor belongs to, told from its GGUF name: its group and its layer."""

from __future__ import annotations

import re

GROUPS = ("embeddings", "attention", "ffn", "norms", "output", "other")
_LAYER = re.compile(r"blk\.(\d+)\.")


def layer_of(name: str) -> int | None:
    """The layer (`blk.N`) that a tensor belongs to, None for one outside the layers."""
    found = _LAYER.match(name)
    return int(found[1]) if found else None


def group_of(name: str) -> str:
    """One of GROUPS; a norm is a norm wherever it stands."""
    role = _LAYER.sub("", name)
    if "norm" in role:
        return "norms"
    for start, group in (("token_embd", "embeddings"), ("attn_", "attention"), ("ffn_", "ffn"), ("output", "output")):
        if role.startswith(start):
            return group
    return "other"
