"""The tensors of a base that the names in an adapter mean, by the families' table."""

from __future__ import annotations

from collections.abc import Sequence

from pa_lite.checkpoints.checkpoint import Checkpoint
from pa_lite.checkpoints.families.family import Family
from pa_lite.checkpoints.families.table import FAMILIES
from pa_lite.checkpoints.hf_to_gguf import Destination, destinations_of

EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
_HEAD = "lm_head.weight"


def families_of(base: Checkpoint) -> list[Family]:
    """Return the table's families that a checkpoint is or may be of, none for an architecture outside the table."""
    return [family for family in FAMILIES.values() if family.title in base.families]


def destinations(family: Family, stored_name: str) -> list[Destination]:
    """Return the GGUF tensors that a stored name means, as `destinations_of` does; an output matrix always counts.

    Families whose output is always tied skip it in a model's files, but an adapter may change it. Raises KeyError.
    """
    found = destinations_of(family, stored_name)
    is_head = stored_name == _HEAD or stored_name.endswith(f".{_HEAD}")
    return [Destination(name=OUTPUT)] if is_head and not found else found


def knows(family: Family, stored_name: str) -> bool:
    """Return whether a family has a tensor of that name, even if it is not one of the language model."""
    try:
        destinations_of(family, stored_name)
    except KeyError:
        return False
    return True


def parameters_of(family: Family, module: str) -> list[str]:
    """Return the stored names of the matrices of a module that LoRA can change: its weight, or those of all experts."""
    if knows(family, f"{module}.weight"):
        return [f"{module}.weight"]
    names = (f"{module}.{pattern.rpartition('.')[2]}" for pattern in family.fused)
    return [name for name in names if knows(family, name)]


def best_family(base: Checkpoint, modules: Sequence[str], stored_names: Sequence[str]) -> Family | None:
    """Return the family of a base, the one that knows the most of these names where it may be of several; else None."""

    def known(family: Family) -> int:
        return sum(bool(parameters_of(family, m)) for m in modules) + sum(knows(family, n) for n in stored_names)

    return max(families_of(base), key=known, default=None)
