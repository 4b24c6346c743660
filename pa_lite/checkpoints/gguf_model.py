"""Open a GGUF model of any architecture as a Checkpoint. Names and metadata need no conversion."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pa_lite.checkpoints.checkpoint import Checkpoint, Piece, TensorSource, Vocabulary
from pa_lite.checkpoints.hf_to_gguf import titles_of
from pa_lite.errors import CheckpointError
from pa_lite.ggml.container import GgufHeader, architecture_of, read_gguf_header
from pa_lite.ggml.gguf_tables import Keys
from pa_lite.ggml.metadata import Metadata
from pa_lite.sanitize import name_text
from pa_lite.system.byte_source import ByteSource
from pa_lite.untrusted.header_memory import HeaderMemory

SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
# keys that describe the file and not a model merged from it
_DROPPED = re.compile(
    r"split\..*|quantize\..*|pa_lite\..*|tokenizer\..*|general\.(source|base_model|dataset)\..*|general\.(architecture|type|"
    r"alignment|file_type|quantization_version|name|basename|finetune|version|description|quantized_by|size_label|url|doi|"
    r"uuid|repo_url|organization|license|tags)|general\.license\..*"
)
_ORIGIN = re.compile(r"pa_lite\..*|general\.(license.*|organization|repo_url|tags|base_model\..*)")


def part_names(name: str) -> list[str]:
    """Return the files of a split GGUF model, given any of them; of another model only the given name."""
    found = SPLIT.fullmatch(name)
    if found is None:
        return [name]
    return [f"{found['stem']}-{i:05d}-of-{found['count']}.gguf" for i in range(1, int(found["count"]) + 1)]


def check_first_part(path: Path) -> None:
    """Raise CheckpointError, naming the right file, for a later part of a split model: llama.cpp loads the first."""
    first = part_names(path.name)[0]
    if first != path.name:
        raise CheckpointError(
            f"{path}: is not the first part of a split model. Name the first: {path.with_name(first)}"
        )


def _headers(path: Path, elsewhere: Mapping[str, ByteSource]) -> list[tuple[ByteSource, GgufHeader]]:
    """Return (file, header) of a model, or of all parts of a split model."""
    found = SPLIT.fullmatch(path.name)
    if found and not 1 <= int(found["number"]) <= int(found["count"]):
        raise CheckpointError(
            f"{path}: the file name says part {int(found['number'])} of {int(found['count'])}. Rename the file."
        )
    parts: list[tuple[ByteSource, GgufHeader]] = []
    memory, names = HeaderMemory(), set[str]()
    for i, name in enumerate(part_names(path.name)):
        part = elsewhere.get(name, path.with_name(name))
        if found and isinstance(part, Path) and not part.is_file():
            raise CheckpointError(f"{path.parent}: part {part.name} of a split model is missing. Fetch it again.")
        header = read_gguf_header(part, memory)
        count, number = header.metadata.get("split.count"), header.metadata.get("split.no")
        if not found and count is not None and isinstance(count.value, int) and count.value > 1:
            raise CheckpointError(
                f"{path}: is one of {count.value} parts of a split model, but its name does not say so. Rename the "
                f"parts NAME-00001-of-{count.value:05d}.gguf and so on, as llama.cpp does, in one folder."
            )
        if found and (count is None or count.value != int(found["count"])):
            raise CheckpointError(f"{part}: split.count differs from the {int(found['count'])} of its name.")
        if found and number is not None and number.value != i:
            raise CheckpointError(f"{part}: split.no is {number.value!r}, not the {i} of its name. Fetch it again.")
        if duplicates := sorted(names & header.tensors.keys()):
            raise CheckpointError(f"{part}: tensor {duplicates[0]} is in an earlier part already. Fetch it again.")
        names |= header.tensors.keys()
        parts.append((part, header))
    return parts


def read_model_header(path: Path) -> GgufHeader:
    """Return the header of a model; of a split one, the first part's metadata and stamp with the tensors of all parts.

    `parts` lists the files and their stamps. Raises CheckpointError for a broken or missing part or a duplicate tensor.
    """
    headers = [header for _, header in _headers(path, {})]
    tensors = {name: tensor for header in headers for name, tensor in header.tensors.items()}
    return replace(headers[0], tensors=tensors, parts=tuple((header.path, header.stamp) for header in headers))


def open_gguf(path: Path, elsewhere: Mapping[str, ByteSource] | None = None) -> Checkpoint:
    """Open a GGUF model, or all parts of a split one. Only headers are read.

    `elsewhere` maps names of files that are not in the path's folder to their source. Raises CheckpointError for a
    broken or missing part, a file without a language model, or a duplicate tensor.
    """
    headers = _headers(path, elsewhere or {})
    metadata = headers[0][1].metadata
    architecture = architecture_of(headers[0][1])
    tensors = {
        t.name: TensorSource(
            name=t.name, stored_name=t.name, pieces=(Piece(file, t.offset, header.stamp),), type=t.type, shape=t.shape
        )
        for file, header in headers
        for t in header.tensors.values()
    }
    if not tensors:
        raise CheckpointError(f"{path}: has no tensors.")
    name = metadata.get(Keys.General.NAME)
    return Checkpoint(
        path=path,
        name=str(name.value) if name and name.type == "STRING" and name.value else name_text(path.stem),
        architecture=architecture,
        metadata={key: entry for key, entry in metadata.items() if not _DROPPED.fullmatch(key)},
        tensors=tensors,
        load_vocabulary=lambda seen=None: _vocabulary(path, metadata),
        families=tuple(titles_of(architecture)),
        is_gguf=True,
        origin={key: entry for key, entry in metadata.items() if _ORIGIN.fullmatch(key)},
    )


def _vocabulary(path: Path, metadata: Metadata) -> Vocabulary:
    tokenizer = {key: entry for key, entry in metadata.items() if key.startswith("tokenizer.")}
    tokens, types = tokenizer.get(Keys.Tokenizer.LIST), tokenizer.get(Keys.Tokenizer.TOKEN_TYPE)
    if tokens is None or tokens.item != "STRING":
        raise CheckpointError(f"{path}: has no vocabulary (tokenizer.ggml.tokens).")
    if types is None:
        return Vocabulary(metadata=tokenizer, tokens=tokens.value, token_types=[1] * len(tokens.value))
    if types.item != "INT32" or len(types.value) != len(tokens.value):
        raise CheckpointError(f"{path}: tokenizer.ggml.token_type does not match the {len(tokens.value)} tokens.")
    return Vocabulary(metadata=tokenizer, tokens=tokens.value, token_types=types.value)
