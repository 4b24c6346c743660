"""Tells one model from another: its weights without reading all of them, and what its header says that counts."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping

from pa_lite.checkpoints.checkpoint import Checkpoint
from pa_lite.checkpoints.families.table import ARCHITECTURES
from pa_lite.ggml.gguf_tables import Keys
from pa_lite.ggml.metadata import Field, Metadata
from pa_lite.system.byte_source import read_errors, samples, size_of

_SAMPLES, _LENGTH = 64, 4096  # places in each file, bytes read at each
# Keys that name or describe a model and change neither a prompt nor a logit. Every other key counts, unknown ones too.
# `pa_lite.*` says how a file was made (its tensors count by themselves), `split.*` how it is cut into parts.
_DESCRIPTIONS = re.compile(
    r"pa_lite\..*|split\..*|general\.((base_model|dataset|source|license)\..*|name|basename|finetune|version|author|"
    r"organization|description|quantized_by|quantized_from|size_label|license|url|doi|uuid|repo_url|tags|languages|"
    r"datasets)"
)
_SHOWN = 60  # characters of a value that stand for themselves; a longer one's digest stands for it
_BATCH = 4096  # items of an array that are hashed at a time: a vocabulary's texts are never in memory twice


def fingerprint(checkpoint: Checkpoint) -> str:
    """SHA-256 (hex) over every tensor's name, type, shape and place, each file's size, and 64 samples of 4 KiB of it.

    Made to notice other weights, not a forger: it reads a quarter of a megabyte a file, however large that is. The same
    checkpoint in another folder has the same fingerprint. Raises CheckpointError when a file cannot be read.
    """
    digest = hashlib.sha256()
    for t in sorted(checkpoint.tensors.values(), key=lambda t: t.name):
        places = " ".join(f"{p.path.name} {p.offset}" for p in t.pieces)
        digest.update(f"{t.name} {t.type.name} {t.shape} {t.heads} {places}\n".encode("utf-8", "surrogateescape"))
    for path in sorted({p.path for t in checkpoint.tensors.values() for p in t.pieces}, key=lambda path: path.name):
        with read_errors(path):
            size = size_of(path)
            digest.update(f"{path.name} {size}\n".encode("utf-8", "surrogateescape"))
            starts = [max(0, size - _LENGTH) * i // (_SAMPLES - 1) for i in range(_SAMPLES)]
            for sample in samples(path, starts, _LENGTH):
                digest.update(sample)
    return digest.hexdigest()


def header_inputs(architecture: str, metadata: Metadata) -> dict[str, str]:
    """Return what a model's header says that can change a prompt or a logit: key -> type and value, as text.

    Short values stand for themselves, long ones and arrays as their SHA-256. A file and the plan of the merge that
    wrote it give the same. Names and descriptions are left out, but for what llama.cpp reads in `general.name`.
    """
    told = {key: _shown(entry) for key, entry in metadata.items() if not _DESCRIPTIONS.fullmatch(key)}
    told[Keys.General.ARCHITECTURE] = _shown(Field("STRING", architecture))
    name = metadata.get(Keys.General.NAME)
    for rule in (facts.name_rule for facts in ARCHITECTURES.values()):
        if name is not None and rule is not None and rule.pattern.search(str(name.value)):
            told[Keys.General.NAME] = rule.meaning  # llama.cpp then drops the white space after control tokens
    return dict(sorted(told.items()))


def identity(header: Mapping[str, str], *weights: object) -> str:
    """Return the SHA-256 (hex) of what `header_inputs` gave, and of what stands for the weights, as JSON values."""
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
