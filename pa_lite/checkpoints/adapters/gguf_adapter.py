"""Open a LoRA adapter in llama.cpp's GGUF form on a base.

The keys, shapes and the scale are those of llama.cpp's `llama_adapter_lora_init_impl` and `get_scale`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pa_lite.checkpoints.adapters.changed_model import ChangedModel
from pa_lite.checkpoints.adapters.names import EMBEDDING
from pa_lite.checkpoints.checkpoint import Checkpoint, Factor, LowRank, Piece, TensorSource
from pa_lite.errors import CheckpointError
from pa_lite.ggml.container import GgufHeader, GgufTensor, read_gguf_header
from pa_lite.ggml.gguf_tables import Keys
from pa_lite.sanitize import name_text
from pa_lite.system.byte_source import ByteSource

TYPE, ALPHA, ACTIVATION = Keys.Adapter.TYPE, Keys.Adapter.LORA_ALPHA, Keys.Adapter.ALORA_INVOCATION_TOKENS
_ENDS = (".lora_a", ".lora_b")
_FLOATS = ("F32", "F16", "BF16")


def open_gguf_adapter(source: ByteSource, path: Path, base: Checkpoint) -> Checkpoint:
    """Return the base with the changes of a GGUF adapter, as llama.cpp applies it at scale 1. Only headers are read.

    Tensors of norms in it do not count, because llama.cpp ignores them. Raises CheckpointError for an adapter that is
    broken, of another kind, quantised, or for another base.
    """
    header = read_gguf_header(source)
    alpha = _check(header, path, base)
    pairs: dict[str, dict[str, GgufTensor]] = {}
    norms = []
    for name, tensor in header.tensors.items():
        end = next((end for end in _ENDS if name.endswith(end)), None)
        if end is not None:
            pairs.setdefault(name.removesuffix(end), {})[end] = tensor
        elif name.endswith("_norm.weight"):
            norms.append(name)
        else:
            raise CheckpointError(f"{path}: tensor {name} is not part of a LoRA adapter. Create the adapter again.")
    if not pairs:
        raise CheckpointError(f"{path}: has no LoRA factors. Create the adapter again.")
    model = ChangedModel(base, path)
    for name, found in pairs.items():
        _apply(model, name, found, alpha, source, header)
    general = header.metadata.get(Keys.General.NAME)
    ignored = f"{path}: {len(norms)} norms in the adapter are ignored, as in llama.cpp"
    return replace(
        base,
        path=path,
        name=str(general.value) if general and general.type == "STRING" and general.value else name_text(path.stem),
        tensors=model.finish(),
        remarks=(ignored,) if norms else (),
        is_adapter=True,
        origin={},
    )


def _check(header: GgufHeader, path: Path, base: Checkpoint) -> float:
    """Return the adapter's alpha. Raises CheckpointError unless it is LoRA for the base's architecture."""
    values = {key: header.metadata.get(key) for key in (Keys.General.ARCHITECTURE, TYPE, ALPHA, ACTIVATION)}
    kind, architecture, alpha = values[TYPE], values[Keys.General.ARCHITECTURE], values[ALPHA]
    if kind is None or kind.value != "lora":
        shown = "of unknown kind" if kind is None else str(kind.value)[:40]
        raise CheckpointError(f"{path}: the adapter is {shown}, and pa-lite applies LoRA only ({TYPE}).")
    if values[ACTIVATION] is not None:
        raise CheckpointError(
            f"{path}: the adapter is activated LoRA (aLoRA), which acts only after certain tokens and cannot be merged."
        )
    if architecture is None or architecture.value != base.architecture:
        shown = "of unknown architecture" if architecture is None else f"for {str(architecture.value)[:40]}"
        raise CheckpointError(f"{path}: the adapter is {shown}, but the base {base.path} is {base.architecture}.")
    if alpha is not None and (alpha.type != "FLOAT32" or not abs(alpha.value) < 1e30):
        raise CheckpointError(f"{path}: {ALPHA} is {str(alpha.value)[:40]}, but must be a number (float32).")
    return float(alpha.value) if alpha is not None else 0.0


def _apply(
    model: ChangedModel, name: str, found: dict[str, GgufTensor], alpha: float, file: ByteSource, header: GgufHeader
) -> None:
    """Change one tensor of the model by its two factors."""
    for end in _ENDS:
        if end not in found:
            raise CheckpointError(f"{model.where}: {name}{end} is missing. Create the adapter again.")
        if found[end].type.name not in _FLOATS:
            raise CheckpointError(
                f"{model.where}: {name}{end} is quantised ({found[end].type.name}). Use an adapter of type F32, F16 or "
                "BF16."
            )
    a, b = (found[end] for end in _ENDS)
    source = model.tensor(name)
    rows, columns = source.shape[-2:] if len(source.shape) > 1 else (0, 0)
    is_embedding = name == EMBEDDING
    rank = b.shape[-1]
    stack = source.shape[:-2]
    needed = [(rows, rank), (columns, rank)] if is_embedding else [(*stack, rank, columns), (*stack, rows, rank)]
    if not rows or [a.shape, b.shape] != needed:
        raise model.error(
            f"{name} has factors of shape {list(a.shape)} and {list(b.shape)}, but its shape in the base is "
            f"{list(source.shape)}"
        )
    if rank > max(rows, columns):
        raise CheckpointError(
            f"{model.where}: {name} has rank {rank}, which exceeds both dimensions of the base's matrix, {rows} x "
            f"{columns}. Create the adapter again."
        )
    scale = alpha / rank if alpha else 1.0

    def part(tensor: GgufTensor, i: int) -> TensorSource:
        shape = tensor.shape[-2:]
        offset = tensor.offset + i * tensor.type.nbytes(shape[0] * shape[1])
        pieces = (Piece(file, offset, header.stamp),)
        return TensorSource(name=name, stored_name=tensor.name, pieces=pieces, type=tensor.type, shape=shape)

    for i in range(stack[0] if stack else 1):
        # for the embedding, llama.cpp stores A as [rows, rank] and B as [columns, rank]
        left, right = (a, b) if is_embedding else (b, a)
        model.change(
            name,
            LowRank(
                start=i * rows, rows=rows, rank=rank, scale=scale, left=Factor(source=part(left, i)),
                right=Factor(source=part(right, i), is_transposed=is_embedding),
            ),
        )  # fmt: skip
