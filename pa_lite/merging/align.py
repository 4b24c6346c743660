"""Match base and instruct from headers alone: tensors, rows of different vocabularies, tied outputs, settings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pa_lite.checkpoints.checkpoint import Checkpoint, TensorSource, Vocabulary
from pa_lite.checkpoints.rows import RowMap
from pa_lite.checkpoints.vocabulary.files import Seen
from pa_lite.checkpoints.vocabulary.tokens import UNUSED
from pa_lite.errors import CheckpointError, InputError, MismatchError
from pa_lite.ggml.gguf_tables import Keys
from pa_lite.ggml.metadata import Field

TOKEN_ROWS = ("token_embd.weight", "output.weight", "output.bias")  # one row for each token
SIDES = ("base", "instruct")
_LEAST_SHARED = 0.5  # share of the written vocabulary's tokens; below it, one tokenizer does not extend the other


@dataclass(frozen=True)
class RowMaps:
    """For each row of the output, the matching row of base and of instruct, -1 where that side lacks it."""

    base: RowMap
    instruct: RowMap

    def summary(self, written: str) -> str:
        """Return a sentence on the alignment, where the vocabulary of the side `written` is kept."""
        both = int(((self.base >= 0) & (self.instruct >= 0)).sum())
        only = {"base": int((self.instruct < 0).sum()), "instruct": int((self.base < 0).sum())}
        return (
            f"vocabularies differ: the output has the {len(self.base)} tokens of {written}; {both} are in both, "
            f"{only['base']} rows come from base only, {only['instruct']} from instruct only"
        )


def _rows_of(checkpoint: Checkpoint) -> int:
    if "token_embd.weight" not in checkpoint.tensors:
        raise CheckpointError(f"{checkpoint.path}: there is no token embedding (token_embd.weight).")
    return checkpoint.tensors["token_embd.weight"].rows


def _load(checkpoint: Checkpoint, seen: Seen) -> Vocabulary:
    vocabulary, rows = checkpoint.load_vocabulary(seen), _rows_of(checkpoint)
    if len(vocabulary.tokens) != rows:
        raise CheckpointError(
            f"{checkpoint.path}: the vocabulary has {len(vocabulary.tokens)} tokens, but token_embd has {rows} rows."
        )
    return vocabulary


def align_vocabularies(
    base: Checkpoint, instruct: Checkpoint, written: str
) -> tuple[Vocabulary, RowMaps | None, tuple[bool, bool] | None]:
    """Return the output's vocabulary (of the side `written`), the matching rows, and which sides have a chat template.

    The rows are None where the vocabularies are the same, the templates where one side has no tokenizer.

    Rows are matched by token string. Unused (padding) rows come from the written side only. A side without a tokenizer
    is assumed to have the other's when the sizes agree. Raises InputError for an unknown side, CheckpointError when
    the written side has no vocabulary, MismatchError when the two share less than half of the tokens.
    """
    if written not in SIDES:
        raise InputError(f"--vocab {written!r} is neither base nor instruct.")
    ours, theirs = (instruct, base) if written == "instruct" else (base, instruct)
    seen = Seen()
    kept = _load(ours, seen)
    try:
        other = _load(theirs, seen)
    except CheckpointError:
        if _rows_of(ours) != _rows_of(theirs):
            raise
        return kept, None, None
    del seen  # it may take more memory than the rest together
    templates = _has_template(kept), _has_template(other)
    templates = templates if written == "base" else templates[::-1]
    if kept.tokens == other.tokens:
        return kept, None, templates
    tokenizer_models = [v.metadata.get("tokenizer.ggml.model") for v in (kept, other)]
    other_rows = {t: i for i, (t, k) in enumerate(zip(other.tokens, other.token_types, strict=True)) if k != UNUSED}
    rows = zip(kept.tokens, kept.token_types, strict=True)
    found = np.array([other_rows.get(t, -1) if k != UNUSED else -1 for t, k in rows], np.int64)
    used = sum(k != UNUSED for k in kept.token_types)
    shared = int((found >= 0).sum())
    if tokenizer_models[0] != tokenizer_models[1] or shared < _LEAST_SHARED * used:
        raise MismatchError(
            f"vocabularies differ: only {shared} of the {used} tokens of {ours.path} are in {theirs.path}. {_NO_PAIR}"
        )
    same = np.arange(len(kept.tokens), dtype=np.int64)
    return kept, RowMaps(found, same) if written == "instruct" else RowMaps(same, found), templates


def _has_template(vocabulary: Vocabulary) -> bool:
    return Keys.Tokenizer.CHAT_TEMPLATE in vocabulary.metadata


def pair_tensors(
    base: Checkpoint, instruct: Checkpoint, maps: RowMaps | None, force: bool = False
) -> tuple[dict[str, tuple[TensorSource | None, TensorSource]], list[str]]:
    """Return the output's tensors, name -> (base's, instruct's), and remarks for the plan.

    When one side ties its output to its embedding, the embedding is paired with the other's output. Rotary factors are
    instruct's (base None). With `force`, biases and q and k norms that one side lacks follow instruct too. Raises
    MismatchError, naming each tensor and both shapes, for all other differences.
    """
    remarks: list[str] = []
    left, right = dict(base.tensors), dict(instruct.tensors)
    for mine, theirs, side in ((left, right, "base"), (right, left, "instruct")):
        if "output.weight" in theirs and "output.weight" not in mine:
            mine["output.weight"] = replace(mine["token_embd.weight"], name="output.weight")
            remarks.append(f"{side} ties its output to the embedding: the embedding is used as output.weight")
    pairs: dict[str, tuple[TensorSource | None, TensorSource]] = {}
    mismatches = []
    for ours, theirs, here, there in ((left, right, base, instruct), (right, left, instruct, base)):
        for name, source in ours.items():
            if name in theirs or name.startswith("rope_"):
                continue
            difference = (
                f"tensor {source.stored_name} of shape {list(source.shape)} is in {here.path} but not in {there.path}"
            )
            if not _ADDITION.search(name):
                mismatches.append(f"{difference}.")
            elif not force:
                mismatches.append(f"{difference}. {_FORCE}")
            else:
                remarks.append(f"{difference}: instruct is followed")
    for name, source in right.items():
        if name.startswith("rope_") or (force and name not in left and _ADDITION.search(name)):
            pairs[name] = (None, source)
        elif name in left:
            skipped = int(maps is not None and name in TOKEN_ROWS)  # matched rows may differ in number
            other = left[name]
            if other.shape[skipped:] != source.shape[skipped:]:
                mismatches.append(
                    f"tensor {other.stored_name} has shape {list(other.shape)} in {other.path} "
                    f"but {list(source.shape)} in {source.path}. {_NO_PAIR}"
                )
            pairs[name] = (other, source)
    if mismatches:
        raise MismatchError(*mismatches)
    return pairs, remarks


def check_sizes(base: Checkpoint, instruct: Checkpoint) -> None:
    """Raise MismatchError, in one line, for models of different width or number of layers."""
    keys = {"embedding_length": "width", "block_count": "layers"}
    found = []
    for key, word in keys.items():
        sides = [c.metadata.get(f"{c.architecture}.{key}") for c in (base, instruct)]
        values = [entry.value for entry in sides if entry is not None]
        if len(values) == 2 and values[0] != values[1]:
            found.append(f"{word} {values[0]} and {values[1]}")
    if found:
        raise MismatchError(
            f"{base.path} and {instruct.path} are models of different sizes ({', '.join(found)}). {_NO_PAIR}"
        )


def swapped(base: Checkpoint, instruct: Checkpoint, templates: tuple[bool, bool] | None) -> str | None:
    """Return a remark if base and instruct seem to be swapped, by their chat templates or else their names."""
    reason = ""
    if templates == (True, False):
        reason = "only the base side has a chat template"
    elif templates is None or templates[0] == templates[1]:
        chats = [bool(_CHAT_NAME.search(c.name)) and not _BASE_NAME.search(c.name) for c in (base, instruct)]
        reason = f"their names are {base.name} and {instruct.name}" if chats == [True, False] else ""
    return f"base and instruct may be swapped: {reason}" if reason else None


def compare_settings(base: Checkpoint, instruct: Checkpoint, force: bool = False) -> list[str]:
    """Return remarks on settings that differ; instruct's are written.

    Raises MismatchError for settings of the shape and, without `force`, for all others except rotary and context
    settings, because they change what the network computes.
    """
    remarks, mismatches = [], []
    a = instruct.architecture
    for key in sorted(base.metadata.keys() | instruct.metadata.keys()):
        if not key.startswith(f"{a}.") or key == f"{a}.vocab_size":
            continue
        ours, theirs = (c.metadata.get(key) for c in (base, instruct))
        if ours is not None and theirs is not None and ours.value == theirs.value:
            continue
        values = [_shown(ours), _shown(theirs)]
        setting = key.removeprefix(f"{a}.")
        both_set = ours is not None and theirs is not None  # llama.cpp derives a shape that is not set
        difference = f"{key} is {values[0]} in {base.path} but {values[1]} in {instruct.path}."
        if setting in _SHAPE_KEYS and both_set:
            mismatches.append(f"{difference} {_NO_PAIR}")
        elif force or setting in _SHAPE_KEYS or _MAY_DIFFER.fullmatch(setting):
            remarks.append(f"{key} is {values[0]} in base, {values[1]} in instruct: instruct's is used")
        else:
            mismatches.append(f"{difference} {_FORCE}")
    if mismatches:
        raise MismatchError(*mismatches)
    return remarks


def _shown(entry: Field | None) -> str:
    if entry is None:
        return "not set"
    return f"{entry.value:g}" if entry.type == "FLOAT32" else str(entry.value)


_SHAPE_KEYS: Sequence[str] = (
    "block_count", "embedding_length", "feed_forward_length", "attention.head_count", "attention.head_count_kv",
    "attention.key_length", "attention.value_length", "expert_count", "rope.dimension_count",
    "expert_feed_forward_length",
)  # fmt: skip
_MAY_DIFFER = re.compile(r"rope\..+|context_length|attention\.sliding_window.*")
_ADDITION = re.compile(r"\.bias$|\.attn_[qk]_norm\.weight$")  # tensors that some models of an architecture lack
_CHAT_NAME = re.compile(r"instruct|chat|[-_.]it\b|[-_.]sft\b|[-_.]dpo\b", re.IGNORECASE)
_BASE_NAME = re.compile(r"\bbase\b|[-_.]base|[-_.]pt\b", re.IGNORECASE)
_NO_PAIR = "These checkpoints are not a base/instruct pair."
_FORCE = "The two networks compute differently, so interpolation is not meaningful. --force merges anyway, as instruct."
