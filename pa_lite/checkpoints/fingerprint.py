"""Identify models: by samples of their weights, and by the metadata that can change a result."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping

from pa_lite.checkpoints.checkpoint import Addend, Change, Checkpoint, NewRows, TensorSource
from pa_lite.checkpoints.families.table import ARCHITECTURES
from pa_lite.ggml.gguf_tables import Keys
from pa_lite.ggml.metadata import Field, Metadata
from pa_lite.system.byte_source import read_errors, samples, size_of

_SAMPLES, _LENGTH = 64, 4096  # samples of each file, bytes of each sample
# Keys that name or describe a model and change neither a prompt nor a logit. Every other key counts, unknown ones too.
# `pa_lite.*` says how a file was made (its tensors count separately), `split.*` how it is split into parts.
_DESCRIPTIONS = re.compile(
    r"pa_lite\..*|split\..*|general\.((base_model|dataset|source|license)\..*|name|basename|finetune|version|author|"
    r"organization|description|quantized_by|quantized_from|size_label|license|url|doi|uuid|repo_url|tags|languages|"
    r"datasets)"
)
_SHOWN = 60  # characters; a longer value is replaced by its digest
_BATCH = 4096  # items of an array hashed at a time, so a vocabulary is never in memory twice


def fingerprint(checkpoint: Checkpoint) -> str:
    """Return the SHA-256 (hex) of each tensor's name, type, shape and offset, and each file's size and 64 samples.

    It detects other weights, not deliberate forgery: it reads 64 times 4 KiB of each file, whatever its size. The same
    checkpoint in another folder has the same fingerprint. An adapter's changes count like tensors, and its file like
    the base's. Raises CheckpointError when a file cannot be read.
    """
    digest = hashlib.sha256()
    tensors = sorted(checkpoint.tensors.values(), key=lambda t: t.name)
    for t in tensors:
        for line in (_described(t), *map(_change, t.changes)):
            digest.update(f"{line}\n".encode("utf-8", "surrogateescape"))
    paths = dict.fromkeys(p.path for t in tensors for source in t.sources for p in source.pieces)
    for path in sorted(paths, key=lambda path: path.name):
        with read_errors(path):
            size = size_of(path)
            digest.update(f"{path.name} {size}\n".encode("utf-8", "surrogateescape"))
            starts = [max(0, size - _LENGTH) * i // (_SAMPLES - 1) for i in range(_SAMPLES)]
            for sample in samples(path, starts, _LENGTH):
                digest.update(sample)
    return digest.hexdigest()


def _described(t: TensorSource) -> str:
    pieces = " ".join(f"{p.path.name} {p.offset}" for p in t.pieces)
    return f"{t.name} {t.type.name} {t.shape} {t.heads} {pieces}"


def _change(change: Change) -> str:
    sources = " ".join(map(_described, change.sources))
    if isinstance(change, NewRows):
        return f"new rows {change.rows} {sources}"
    if isinstance(change, Addend):
        return f"add {change.scale!r} {sources}"
    factors = [(factor.is_transposed, factor.first, factor.step) for factor in (change.left, change.right)]
    return f"low rank {change.start} {change.rows} {change.rank} {change.scale!r} {factors} {sources}"


def header_inputs(architecture: str, metadata: Metadata) -> dict[str, str]:
    """Return the metadata that can change a prompt or a logit: key -> type and value, as strings.

    Long values and arrays are replaced by their SHA-256. A file and the plan of the merge that wrote it give the same.
    Names and descriptions are left out, except for what llama.cpp concludes from `general.name`.
    """
    inputs = {key: _shown(entry) for key, entry in metadata.items() if not _DESCRIPTIONS.fullmatch(key)}
    inputs[Keys.General.ARCHITECTURE] = _shown(Field("STRING", architecture))
    name = metadata.get(Keys.General.NAME)
    for rule in (facts.name_rule for facts in ARCHITECTURES.values()):
        if name is not None and rule is not None and rule.pattern.search(str(name.value)):
            inputs[Keys.General.NAME] = rule.meaning  # llama.cpp then drops the white space after control tokens
    return dict(sorted(inputs.items()))


def identity(header: Mapping[str, str], *weights: object) -> str:
    """Return the SHA-256 (hex) of the output of `header_inputs` and of JSON values that identify the weights."""
    return hashlib.sha256(json.dumps([header, *weights], sort_keys=True).encode("ascii")).hexdigest()


def _shown(entry: Field) -> str:
    if entry.type != "ARRAY":
        text = repr(entry.value)
        if len(text) <= _SHOWN:
            return f"{entry.type} {text}"
    values = entry.value if entry.type == "ARRAY" else [entry.value]
    digest = hashlib.sha256()
    for at in range(0, len(values), _BATCH):
        digest.update(json.dumps(list(values[at : at + _BATCH])).encode("ascii"))
    value_type = f"{len(values)} of {entry.item}" if entry.type == "ARRAY" else entry.type
    return f"{value_type}, SHA-256 {digest.hexdigest()}"
