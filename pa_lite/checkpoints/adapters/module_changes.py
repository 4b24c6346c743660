"""Turn the LoRA factors of modules into changes of a base's tensors.

Shapes and products are those of the package peft (0.21): `lora.Linear`, `lora.Embedding` and, for the stacked matrices
of all experts, `lora.ParamWrapper`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pa_lite.checkpoints.adapters.changed_model import ChangedModel
from pa_lite.checkpoints.adapters.lora_settings import LoraSettings
from pa_lite.checkpoints.adapters.names import EMBEDDING, OUTPUT, destinations, parameters_of
from pa_lite.checkpoints.checkpoint import Addend, Factor, LowRank, Piece, TensorSource
from pa_lite.checkpoints.families.family import Family
from pa_lite.checkpoints.hf_to_gguf import Destination, rotary_heads
from pa_lite.checkpoints.safetensors_file import StoredTensor
from pa_lite.errors import CheckpointError
from pa_lite.ggml.kernels import tensor_type


@dataclass
class StoredModule:
    """The factors of one module: `a` and `b` of a linear layer, or `embedding_a` and `embedding_b`, and a `bias`."""

    name: str
    parts: dict[str, StoredTensor] = field(default_factory=dict)

    @property
    def is_embedding(self) -> bool:
        return "embedding_a" in self.parts or "embedding_b" in self.parts

    def factors(self, folder: Path) -> tuple[StoredTensor, StoredTensor]:
        """Return A and B. Raises CheckpointError if one is missing or not a matrix."""
        start = "embedding_" if self.is_embedding else ""
        found = [self.parts.get(f"{start}{letter}") for letter in "ab"]
        for tensor, letter in zip(found, "AB", strict=True):
            if tensor is None:
                raise CheckpointError(f"{folder}: {self.name} has no LoRA factor {letter}. Fetch the adapter again.")
            if len(tensor.shape) != 2 or min(tensor.shape) < 1:
                raise CheckpointError(
                    f"{tensor.path}: {tensor.name} has shape {list(tensor.shape)}, but must be a matrix. Save the "
                    "adapter again (with ZeRO-3 or FSDP, gather its weights first)."
                )
        a, b = found
        assert a is not None
        assert b is not None
        return a, b


def stored_source(
    tensor: StoredTensor, name: str, shape: tuple[int, ...] | None = None, first_row: int = 0, heads: int = 0
) -> TensorSource:
    """Return a stored tensor, or `shape` of it from row `first_row` on, as a source."""
    stored = tensor_type(tensor.dtype)
    offset = tensor.offset + stored.nbytes(first_row * tensor.shape[-1])
    return TensorSource(
        name=name,
        stored_name=tensor.name,
        pieces=(Piece(tensor.path, offset, tensor.stamp),),
        type=stored,
        shape=tensor.shape if shape is None else shape,
        heads=heads,
    )


@dataclass(frozen=True, kw_only=True)
class ModuleChanges:
    """The LoRA factors of an adapter, applied to a model."""

    model: ChangedModel
    family: Family
    settings: LoraSettings
    folder: Path

    def apply(self, modules: Sequence[StoredModule]) -> set[str]:
        """Change the model's tensors; return the names of those changed.

        Modules of other modalities are skipped. Raises CheckpointError for modules and shapes that the base does not
        have, and for ranks that differ from the settings.
        """
        targets = [self._parameter(module) for module in modules]
        keys = [self._key(module, name) for module, name in zip(modules, targets, strict=True)]
        is_tied = self.model.is_tied and self.settings.ties_weights
        names = set()
        for module, stored_name, (rank, scale) in zip(
            modules, targets, self.settings.ranks_and_scales(keys), strict=True
        ):
            for destination in destinations(self.family, stored_name):
                if is_tied and destination.name == OUTPUT:
                    continue  # a copy of the embedding's factors, for the same matrix
                for change in self._changes(module, destination, rank, scale):
                    for name in (EMBEDDING, OUTPUT) if is_tied and module.is_embedding else (destination.name,):
                        self.model.change(name, change)
                names.add(destination.name)
                self._add_bias(module, scale)
        return names

    def _parameter(self, module: StoredModule) -> str:
        """Return the stored name of the matrix that a module's factors change."""
        found = parameters_of(self.family, module.name)
        if not found:
            raise self.model.error(f"changes {module.name}, which the base {self.model.base.path} does not have")
        if len(found) > 1:
            # nested wrappers of one module: the shapes say which parameter each is for, as no two can have the same
            a, b = module.factors(self.folder)
            fits = [name for name in found if self._stacked(name) == (a.shape[1], b.shape[0])]
            if not fits:
                needed = " or ".join(
                    f"{inner} columns of A and {outer} rows of B ({name})"
                    for name in found
                    for inner, outer in [self._stacked(name)]
                )
                raise self.model.error(
                    f"{module.name} has factors of shape {list(a.shape)} and {list(b.shape)}, but the base requires "
                    f"{needed}"
                )
            return fits[0]
        return found[0]

    def _stacked(self, stored_name: str) -> tuple[int, int]:
        """Return the numbers of columns and of rows of one expert's part of a matrix of all experts."""
        target = destinations(self.family, stored_name)[0]
        _, rows, columns = self.model.tensor(target.name, stored_name).shape
        return columns, target.parts * rows

    def _key(self, module: StoredModule, stored_name: str) -> str:
        """Return the name that patterns of ranks and alphas are matched with."""
        is_targeted = any(
            stored_name == name or stored_name.endswith(f".{name}") for name in self.settings.target_parameters
        )
        return stored_name if is_targeted or not stored_name.endswith(".weight") else module.name

    def _changes(self, module: StoredModule, target: Destination, rank: int, scale: float) -> Iterator[LowRank]:
        """Yield the changes of one tensor, after checking all shapes."""
        a, b = module.factors(self.folder)
        source = self.model.tensor(target.name, module.name)
        rows, columns = source.shape[-2:]
        if rank > max(rows, columns):
            raise CheckpointError(
                f"{a.path}: {module.name} has rank {rank}, more than both dimensions of the base's matrix, {rows} x "
                f"{columns}. Fetch the adapter again."
            )
        if module.is_embedding:
            self._check(a, (rank, rows), may_exceed=self.family.cuts_vocabulary)
            self._check(b, (columns, rank))
            left = Factor(source=stored_source(a, target.name), is_transposed=True)
            right = Factor(source=stored_source(b, target.name), is_transposed=True)
            yield LowRank(start=0, rows=rows, rank=rank, scale=scale, left=left, right=right)
        elif target.parts:
            experts = source.shape[0]
            self._check(a, (experts * rank, columns))
            self._check(b, (target.parts * rows, experts * rank))
            left_source = stored_source(b, target.name, (rows, experts * rank), first_row=target.part * rows)
            for i in range(experts):
                # peft views A as [experts, rank, columns] and B as [rows, rank, experts]
                right_source = stored_source(a, target.name, (rank, columns), first_row=i * rank)
                yield LowRank(
                    start=i * rows, rows=rows, rank=rank, scale=scale, right=Factor(source=right_source),
                    left=Factor(source=left_source, first=i, step=experts),
                )  # fmt: skip
        else:
            may_exceed = target.name == OUTPUT and self.family.cuts_vocabulary
            self._check(a, (rank, columns))
            self._check(b, (rows, rank), may_exceed)
            heads = rotary_heads(self.family, self.model.heads, target.name)
            left_source = stored_source(b, target.name, (rows, rank), heads=heads)
            start = (target.expert or 0) * rows
            right = Factor(source=stored_source(a, target.name))
            yield LowRank(start=start, rows=rows, rank=rank, scale=scale, left=Factor(source=left_source), right=right)

    def _add_bias(self, module: StoredModule, scale: float) -> None:
        """Add the trained bias of a module's B to the base's bias."""
        bias = module.parts.get("bias")
        if bias is None:
            return
        for target in destinations(self.family, f"{module.name}.bias") if self._has_bias(module) else ():
            source = self.model.tensor(target.name, f"{module.name}.bias")
            self._check(bias, source.shape)
            heads = rotary_heads(self.family, self.model.heads, target.name)
            self.model.change(target.name, Addend(scale=scale, values=stored_source(bias, target.name, heads=heads)))

    def _has_bias(self, module: StoredModule) -> bool:
        name = f"{module.name}.bias"
        try:
            found = destinations(self.family, name)
        except KeyError:
            found = []
        if not found or any(target.name not in self.model.tensors for target in found):
            raise self.model.error(f"adds a bias to {module.name}, which has none in the base {self.model.base.path}")
        return True

    def _check(self, tensor: StoredTensor, shape: tuple[int, ...], may_exceed: bool = False) -> None:
        """Raise CheckpointError unless a factor has the shape that the base and the rank require.

        With `may_exceed`, it may have more token rows: the base was cut to its vocabulary.
        """
        fits = tensor.shape == shape
        if may_exceed and len(tensor.shape) == len(shape):
            fits = all(has >= needed for has, needed in zip(tensor.shape, shape, strict=True))
        if not fits:
            raise self.model.error(
                f"{tensor.name} has shape {list(tensor.shape)}, but the base and the rank in {self.settings.path.name} "
                f"require {list(shape)}"
            )
