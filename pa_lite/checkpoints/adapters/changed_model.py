"""The tensors of a base with an adapter's changes, and its output matrix, which may be tied to the embedding."""

from __future__ import annotations

import re
from dataclasses import replace

from pa_lite.checkpoints.adapters.names import EMBEDDING, OUTPUT, families_of
from pa_lite.checkpoints.checkpoint import Change, Checkpoint, TensorSource
from pa_lite.checkpoints.families.family import Family
from pa_lite.errors import CheckpointError


class ChangedModel:
    """A base's tensors, which can be changed or replaced by name. It is a `ModelShapes`.

    Where the base ties its output matrix to the embedding, both can be changed separately; `finish` ties them again if
    they are still the same. `where` is the adapter, in errors.
    """

    def __init__(self, base: Checkpoint, where: object) -> None:
        self.base, self.where = base, where
        if EMBEDDING not in base.tensors:
            raise CheckpointError(f"{base.path}: there is no token embedding ({EMBEDDING}).")
        self.tensors: dict[str, TensorSource] = dict(base.tensors)
        embedding, output = base.tensors[EMBEDDING], base.tensors.get(OUTPUT)
        self.is_tied = output is None or output.is_stored_as(embedding)
        if output is None:
            self.tensors[OUTPUT] = replace(embedding, name=OUTPUT)

    @property
    def n_layers(self) -> int:
        """The number of layers of the base."""
        layers = (re.match(r"blk\.(\d+)\.", name) for name in self.base.tensors)
        return 1 + max((int(found[1]) for found in layers if found), default=-1)

    @property
    def heads(self) -> tuple[int, int]:
        """The numbers of query heads and of key-value heads; (0, 0) where they differ between layers."""
        keys = (f"{self.base.architecture}.attention.head_count{end}" for end in ("", "_kv"))
        found = [self.base.metadata.get(key) for key in keys]
        query, key_value = (e.value if e is not None and isinstance(e.value, int) else 0 for e in found)
        return query, key_value or query

    def shape_of(self, family: Family, name: str) -> tuple[int, ...]:
        """Return the numpy shape of a tensor. Raises CheckpointError for one that the base does not have."""
        return self.tensor(name).shape

    def tensor(self, name: str, stored_name: str = "") -> TensorSource:
        """Return a tensor as changed so far. Raises CheckpointError for one that the base does not have."""
        if name not in self.tensors:
            raise self.error(f"changes {stored_name or name}, which the base {self.base.path} does not have")
        return self.tensors[name]

    def error(self, fault: str) -> CheckpointError:
        """Return an error about the adapter, which may be for another base."""
        return CheckpointError(f"{self.where}: {fault}. Give the base that the adapter was trained on.")

    def replace(self, *sources: TensorSource) -> None:
        """Replace tensors by others of the same shape; of the token rows, their number may differ."""
        for source in sources:
            self.tensor(source.name, source.stored_name)
            self.tensors[source.name] = source

    def change(self, name: str, change: Change) -> None:
        """Add a change to a tensor."""
        source = self.tensor(name)
        self.tensors[name] = replace(source, changes=(*source.changes, change))

    def finish(self) -> dict[str, TensorSource]:
        """Return the tensors. Raises CheckpointError for an output that llama.cpp can only tie to the embedding."""
        embedding, output = self.tensors[EMBEDDING], self.tensors[OUTPUT]
        if embedding.rows != output.rows:
            raise self.error(
                f"has {embedding.rows} rows in the embedding and {output.rows} in the output matrix, which must agree"
            )
        if not self.is_tied or OUTPUT in self.base.tensors:
            return self.tensors
        if replace(output, name=EMBEDDING) == embedding:
            return {name: source for name, source in self.tensors.items() if name != OUTPUT}
        if not any(family.names.get("lm_head.weight") for family in families_of(self.base)):
            raise CheckpointError(
                f"{self.where}: changes the embedding and the output matrix differently, but the base ties them, and "
                f"llama.cpp cannot separate them in this architecture ({self.base.architecture}). Train the adapter "
                "without these, or with peft's ensure_weight_tying."
            )
        return self.tensors
