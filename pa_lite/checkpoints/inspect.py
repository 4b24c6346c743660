"""Describe a checkpoint from its headers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from pa_lite.checkpoints import Location, open_checkpoint
from pa_lite.checkpoints.checkpoint import Vocabulary
from pa_lite.checkpoints.vocabulary.tokens import UNUSED
from pa_lite.errors import CheckpointError
from pa_lite.ggml.gguf_tables import Keys
from pa_lite.ggml.metadata import Metadata


@dataclass(frozen=True, kw_only=True)
class TensorRow:
    """One tensor: its GGUF name, type, numpy shape and bytes."""

    name: str
    type: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True, kw_only=True)
class VocabularyFacts:
    """A vocabulary: llama.cpp's names of its kind, all and used tokens, special tokens by role, chat template."""

    model: str
    pre: str
    tokens: int
    used: int
    special: dict[str, str]
    adds_bos: bool | None
    chat_template: str | None


@dataclass(frozen=True, kw_only=True)
class MergeFacts:
    """How pa-lite made a model: lam, the names of base and instruct, schedule, and the version of pa-lite."""

    lam: float
    base: str
    instruct: str
    schedule: str
    version: str


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """A checkpoint's facts; `settings` are the architecture's keys, `problem` says why the vocabulary is unusable.

    `families` are the supported families (parity tests cover them) of the architecture; `warnings` describe what GGUF
    cannot store, `remarks` which of several contradictory files was followed. `merge` is set for a model that pa-lite
    made; `licence` is empty if unknown.
    """

    path: str
    name: str
    architecture: str
    families: tuple[str, ...]
    files: tuple[str, ...]
    parameters: int
    bytes: int
    types: dict[str, int]
    settings: dict[str, object]
    vocabulary: VocabularyFacts | None
    problem: str | None
    warnings: tuple[str, ...]
    remarks: tuple[str, ...]
    tensors: tuple[TensorRow, ...]
    licence: str = ""
    merge: MergeFacts | None = None


_ROLES = {"bos": "bos", "eos": "eos", "eot": "eot", "unknown": "unk", "padding": "pad", "seperator": "sep"}


def inspect_checkpoint(location: str | Location) -> Inspection:
    """Describe a checkpoint without reading or downloading its weights.

    Raises CheckpointError when there is nothing to read, HubError when a request to the Hub fails.
    """
    checkpoint = open_checkpoint(location, stream=True)
    rows = [
        TensorRow(name=t.name, type=t.type.name, shape=t.shape, bytes=t.type.nbytes(t.n_values))
        for t in sorted(checkpoint.tensors.values(), key=lambda t: t.name)
    ]
    types: Counter[str] = Counter()
    for row in rows:
        types[row.type] += row.bytes
    facts, problem = None, None
    remarks = checkpoint.remarks
    try:
        vocabulary = checkpoint.load_vocabulary()
        facts, remarks = describe_vocabulary(vocabulary), (*remarks, *vocabulary.remarks)
    except CheckpointError as e:
        problem = str(e)
    return Inspection(
        path=str(location),
        name=checkpoint.name,
        architecture=checkpoint.architecture,
        families=checkpoint.families,
        files=tuple(sorted({p.path.name for t in checkpoint.tensors.values() for p in t.pieces})),
        parameters=sum(t.n_values for t in checkpoint.tensors.values()),
        bytes=sum(row.bytes for row in rows),
        types=dict(types.most_common()),
        settings={k: e.value for k, e in checkpoint.metadata.items() if e.type != "ARRAY"},
        vocabulary=facts,
        problem=problem,
        warnings=checkpoint.warnings,
        remarks=remarks,
        tensors=tuple(rows),
        licence=licence_in(checkpoint.origin),
        merge=merge_facts(checkpoint.origin),
    )


def licence_in(metadata: Metadata) -> str:
    """Return the licence that metadata name, with its own name where it has one; empty if there is none."""
    known = [metadata[key] for key in (Keys.General.LICENSE, Keys.General.LICENSE_NAME) if key in metadata]
    return ", ".join(str(entry.value) for entry in known if entry.type == "STRING")


def merge_facts(metadata: Metadata) -> MergeFacts | None:
    """Return how pa-lite made a model, by its metadata; None if another program did."""
    lam = metadata.get("pa_lite.lam")
    if lam is None or lam.type != "FLOAT32":
        return None

    def text(key: str) -> str:
        entry = metadata.get(key)
        return str(entry.value) if entry is not None and entry.type == "STRING" else ""

    base, instruct = (text(Keys.General.BASE_MODEL_NAME.format(id=i)) for i in (0, 1))
    return MergeFacts(
        lam=float(f"{lam.value:.7g}"), base=base, instruct=instruct, schedule=text("pa_lite.schedule"),
        version=text("pa_lite.version"),
    )  # fmt: skip


def describe_vocabulary(vocabulary: Vocabulary) -> VocabularyFacts:
    """Return the facts of a vocabulary."""
    values = {k.removeprefix("tokenizer.ggml."): e.value for k, e in vocabulary.metadata.items()}
    special = {}
    for key, role in _ROLES.items():
        token = values.get(f"{key}_token_id")
        if isinstance(token, int) and 0 <= token < len(vocabulary.tokens):
            special[role] = vocabulary.tokens[token]
    template = values.get("tokenizer.chat_template")
    return VocabularyFacts(
        model=str(values.get("model", "?")),
        pre=str(values.get("pre", "?")),
        tokens=len(vocabulary.tokens),
        used=sum(t != UNUSED for t in vocabulary.token_types),
        special=special,
        adds_bos=values.get("add_bos_token"),
        chat_template=str(template) if template is not None else None,
    )
