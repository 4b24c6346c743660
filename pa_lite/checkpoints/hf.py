"""Opens a Hugging Face checkpoint: configuration, safetensors shards and tokenizer, under GGUF's names."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from pa_lite.checkpoints import families
from pa_lite.checkpoints.remote import FilePath
from pa_lite.checkpoints.safetensors_file import StoredTensor, read_folder, read_header, read_json
from pa_lite.checkpoints.source import Checkpoint, TensorSource
from pa_lite.checkpoints.vocabulary import read_vocabulary
from pa_lite.errors import CheckpointError, nearest
from pa_lite.kernels import tensor_type


def open_hf(path: Path, elsewhere: Mapping[str, FilePath] | None = None) -> Checkpoint:
    """Open a folder with safetensors shards, or one .safetensors file beside its config.json; reads headers only.

    `elsewhere` says where weight files lie that are not in the folder, by name. Raises CheckpointError for whatever is
    missing, broken or unknown in it.
    """
    folder = path if path.is_dir() else path.parent
    stored = read_folder(folder, elsewhere) if path.is_dir() else read_header(path)
    config = read_json(folder / "config.json")
    where = str(folder / "config.json")
    _, family = families.family_of(config, where)
    tensors = {}
    for tensor in stored.values():
        source = _source(tensor, family, families.heads(config, where))
        if source is not None:
            tensors[source.name] = source
    metadata = families.metadata(family, config, where)
    for stored_name, name in family.required(metadata[f"{family.architecture}.block_count"].value):
        if name not in tensors:
            raise CheckpointError(f"{path}: tensor {stored_name} is missing, which {where} calls for. Fetch it again.")
    return Checkpoint(
        path=path,
        name=_model_name(folder.resolve()),
        architecture=family.architecture,
        metadata=metadata,
        tensors=tensors,
        load_vocabulary=functools.partial(read_vocabulary, folder, config),
        constants=families.constants(family, config, where),
    )


def _model_name(folder: Path) -> str:
    """The folder's name, behind its parent's where it says only which side of a pair it is."""
    return f"{folder.parent.name}-{folder.name}" if folder.name in ("base", "instruct") else folder.name


def _source(tensor: StoredTensor, family: families.Family, heads: families.Heads) -> TensorSource | None:
    try:
        name = families.gguf_name(family, tensor.name)
    except KeyError:
        raise CheckpointError(
            f"{tensor.path}: tensor {tensor.name} is not one of a {family.architecture} model."
            f"{nearest(tensor.name, family.names)}"
        ) from None
    if name is None:
        return None
    tensor.require_float()
    n_heads = 0
    if family.interleave_qk and ".attn_q." in name:
        n_heads = heads.query
    elif family.interleave_qk and ".attn_k." in name:
        n_heads = heads.key_value
    if not tensor.shape or 0 in tensor.shape or (n_heads and tensor.shape[0] != n_heads * heads.size):
        told = f"; its {n_heads} heads have {heads.size} rows each" if n_heads else ""
        raise CheckpointError(f"{tensor.path}: {tensor.name} has the impossible shape {list(tensor.shape)}{told}.")
    return TensorSource(
        name, tensor.name, tensor.path, tensor.offset, tensor_type(tensor.dtype), tensor.shape, heads=n_heads
    )
