"""Open a Hugging Face checkpoint: configuration, safetensors shards and tokenizer, under GGUF names."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pa_lite.checkpoints.checkpoint import Checkpoint, Piece, TensorSource
from pa_lite.checkpoints.config import Config, read_config
from pa_lite.checkpoints.families.family import Family
from pa_lite.checkpoints.generation_config import sampling_metadata
from pa_lite.checkpoints.hf_to_gguf import (
    Destination,
    ModelShapes,
    describe,
    destinations_of,
    family_of,
    rotary_heads,
)
from pa_lite.checkpoints.hub.cache import is_hub_blob, repository_of
from pa_lite.checkpoints.model_card import describe_origin
from pa_lite.checkpoints.safetensors_file import StoredTensor, read_header, read_json
from pa_lite.checkpoints.vocabulary import read_vocabulary
from pa_lite.checkpoints.weight_files import INDEX, FolderWeights, listed, read_folder
from pa_lite.errors import CheckpointError, nearest
from pa_lite.ggml.kernels import tensor_type
from pa_lite.system.byte_source import ByteSource
from pa_lite.untrusted.safe_names import leads_out


def open_hf(path: Path, elsewhere: Mapping[str, ByteSource] | None = None) -> Checkpoint:
    """Open a folder with safetensors shards, or one .safetensors file next to its config.json. Only headers are read.

    `elsewhere` maps names of weight files that are not in the folder to their source. Raises CheckpointError for
    anything missing, broken or unknown, and for settings that GGUF cannot store.
    """
    folder = path if path.is_dir() else path.parent
    check_links(folder)
    raw = read_json(folder / "config.json")
    where = str(folder / "config.json")
    weights = read_folder(folder, elsewhere, raw) if path.is_dir() else _one_file(path, elsewhere or {})
    family = family_of(raw, where)
    config = read_config(raw, family.defaults, where)
    model = describe(family, config)
    tensors = Converter(path=path, family=family, model=model).convert(weights.tensors.values())
    if config.get("tie_word_embeddings") is False and not family.needs_output and "output.weight" not in tensors:
        raise CheckpointError(
            f"{path}: tensor lm_head.weight is missing, and {where} does not tie it to the embedding "
            "(tie_word_embeddings is false). Fetch it again."
        )
    absent = _check_absent(folder, family, config, weights, tensors)
    for stored_name, name in family.required(config):
        if name not in tensors:
            raise CheckpointError(
                f"{path}: tensor {stored_name} is missing, which {where} requires. "
                + ("Fetch it again." if path.is_dir() else "If the file is one of several shards, name their folder.")
            )
    if family.needs_output and "output.weight" not in tensors:
        tensors["output.weight"] = replace(tensors["token_embd.weight"], name="output.weight")
    return Checkpoint(
        path=path,
        name=model_name(folder.resolve()),
        architecture=family.architecture,
        metadata={**model.metadata, **sampling_metadata(folder)},
        tensors=tensors,
        load_vocabulary=functools.partial(read_vocabulary, folder, config.values),
        families=(family.title,),
        constants=model.constants,
        warnings=model.warnings,
        remarks=(*weights.remarks, *absent),
        origin=describe_origin(folder.resolve()),
    )


def _one_file(path: Path, elsewhere: Mapping[str, ByteSource]) -> FolderWeights:
    return FolderWeights(read_header(elsewhere.get(path.name, path)))


def _check_absent(
    folder: Path, family: Family, config: Config, weights: FolderWeights, tensors: Mapping[str, TensorSource]
) -> list[str]:
    """Return a remark on tensors that the index names and no shard contains.

    transformers 5 ignores those that the model does not have, and would fill the others with random values. Raises
    CheckpointError for one of the others, except for an output matrix that is tied to the embedding.
    """
    for stored_name in weights.absent:
        try:
            names = [destination.name for destination in destinations_of(family, stored_name)]
        except KeyError:
            continue
        tied = names == ["output.weight"] and config.get("tie_word_embeddings") is not False
        if names and not tied and any(name not in tensors for name in names):
            raise CheckpointError(
                f"{folder}: {INDEX} names the tensor {stored_name}, which no shard contains. Fetch the "
                "shard that has it, or the index of these shards."
            )
    if not weights.absent:
        return []
    return [f"{folder}: {INDEX} is out of date: no shard contains {listed(weights.absent)}, which is not needed"]


def check_links(folder: Path) -> None:
    """Raise CheckpointError when a text file of the checkpoint is a link that leads out of the folder.

    A malicious folder could otherwise have one of the user's private files copied into the output. Links to blobs of
    the Hub's cache are allowed, because `hf download --local-dir` created them for years. Weights may be anywhere,
    because they are only read as numbers.
    """
    for pattern in ("*.json", "*.jinja", "*.model", "additional_chat_templates/*"):
        for path in folder.glob(pattern):
            if path.is_file() and leads_out(path, folder) and not is_hub_blob(path):
                raise CheckpointError(
                    f"{path}: is a link that leads out of its folder. If you trust it, replace it with a copy."
                )


def model_name(folder: Path) -> str:
    """Return the model's name as valid Unicode: the folder's, with its parent's if it is called `base` or `instruct`.

    A snapshot in the Hub's cache has its repository's name.
    """
    name = f"{folder.parent.name}-{folder.name}" if folder.name in ("base", "instruct") else folder.name
    if folder.parent.name == "snapshots" and (repo := repository_of(folder.parent.parent)):
        name = repo.rpartition("/")[2]
    return name.encode("utf-8", "replace").decode("utf-8")


@dataclass(frozen=True, kw_only=True)
class Converter:
    """Converter from the stored tensors of one model to sources under GGUF names. It checks every shape.

    `authority` is what requires the shapes, in errors.
    """

    path: Path
    family: Family
    model: ModelShapes
    authority: str = "config.json"

    def convert(self, stored: Iterable[StoredTensor]) -> dict[str, TensorSource]:
        tensors: dict[str, TensorSource] = {}
        experts: dict[str, dict[int, StoredTensor]] = {}
        for tensor in stored:
            for destination in self._destinations(tensor):
                gguf_name = destination.name
                if destination.expert is not None:
                    experts.setdefault(gguf_name, {})[destination.expert] = tensor
                    continue
                if gguf_name in tensors:
                    raise CheckpointError(
                        f"{tensor.path}: {tensor.name} and {tensors[gguf_name].stored_name} are both {gguf_name}."
                    )
                tensors[gguf_name] = self._source(tensor, destination)
        for name, by_expert in experts.items():
            if name in tensors:
                raise CheckpointError(f"{self.path}: {name} is stored both for each expert and for all of them.")
            tensors[name] = self._stacked(name, by_expert)
        return tensors

    def _destinations(self, tensor: StoredTensor) -> list[Destination]:
        try:
            destinations = destinations_of(self.family, tensor.name)
        except KeyError:
            tensor.require_float()  # unknown integers or scales belong to quantised weights: say that instead
            raise CheckpointError(
                f"{tensor.path}: tensor {tensor.name} is not a tensor of a {self.family.architecture} model."
                f"{nearest(tensor.name, self.family.names)}"
            ) from None
        if destinations:
            tensor.require_float()
            layer = re.match(r"blk\.(\d+)\.", destinations[0].name)
            if layer and int(layer[1]) >= self.model.n_layers:
                raise CheckpointError(
                    f"{tensor.path}: tensor {tensor.name} is not in the {self.model.n_layers} layers of "
                    f"{self.authority}."
                )
        return destinations

    def _source(self, tensor: StoredTensor, destination: Destination) -> TensorSource:
        name = destination.name
        shape = self.model.shape_of(self.family, name)
        stored_type = tensor_type(tensor.dtype)
        pieces: tuple[Piece, ...] = (Piece(tensor.path, tensor.offset, tensor.stamp),)
        if destination.parts:
            experts, rows, columns = shape
            self._check(tensor, (experts, destination.parts * rows, columns))
            row_bytes = stored_type.nbytes(columns)
            firsts = (rows * (destination.parts * e + destination.part) for e in range(experts))
            pieces = tuple(Piece(tensor.path, tensor.offset + row_bytes * first, tensor.stamp) for first in firsts)
        elif self.family.cuts_vocabulary and name in ("token_embd.weight", "output.weight"):
            self._check(tensor, (max((shape[0], *tensor.shape[:1])), *shape[1:]))
        else:
            self._check(tensor, shape)
        shift = self.family.norm_shift * name.endswith("norm.weight")
        return TensorSource(
            name=name,
            stored_name=tensor.name,
            pieces=pieces,
            type=stored_type,
            shape=shape,
            heads=rotary_heads(self.family, self.model.heads, name),
            shift=shift,
        )

    def _stacked(self, name: str, experts: Mapping[int, StoredTensor]) -> TensorSource:
        """Return the source of one matrix of all experts, which GGUF stacks in order."""
        shape = self.model.shape_of(self.family, name)
        first = next(iter(experts.values()))
        for i in range(shape[0]):
            if i not in experts:
                missing = first.name.replace(f".experts.{next(iter(experts))}.", f".experts.{i}.")
                raise CheckpointError(f"{self.path}: tensor {missing} is missing: there are {shape[0]} experts.")
            self._check(experts[i], shape[1:])
            if experts[i].dtype != first.dtype:
                raise CheckpointError(
                    f"{experts[i].path}: {experts[i].name} is {experts[i].dtype}, but {first.name} is {first.dtype}."
                )
        if len(experts) > shape[0]:
            extra = experts[max(experts)]
            raise CheckpointError(f"{extra.path}: tensor {extra.name} is unexpected: there are {shape[0]} experts.")
        stored = [experts[i] for i in range(shape[0])]
        pieces = tuple(Piece(t.path, t.offset, t.stamp) for t in stored)
        return TensorSource(
            name=name, stored_name=first.name, pieces=pieces, type=tensor_type(first.dtype), shape=shape
        )

    def _check(self, tensor: StoredTensor, shape: tuple[int, ...]) -> None:
        if tensor.shape != shape:
            raise CheckpointError(
                f"{tensor.path}: {tensor.name} has shape {list(tensor.shape)}, but {self.authority} requires "
                f"{list(shape)}."
            )
