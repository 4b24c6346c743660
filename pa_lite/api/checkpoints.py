"""Checkpoints and pairs: inspecting checkpoints; listing, adding and downloading registered pairs."""

from __future__ import annotations

from pathlib import Path

from pa_lite.api.options import Location, ModelRef, Pair, PairLike, Progress, model_type, resolve_pair
from pa_lite.checkpoints import open_pair
from pa_lite.checkpoints.inspect import Inspection, inspect_checkpoint
from pa_lite.checkpoints.pairs import (
    PairFit,
    add_pair,
    all_pairs,
    fetch_pair,
    find_pair,
    own_pairs_path,
    pair_fit,
    remove_pair,
)  # fmt: skip
from pa_lite.engine.model_reference import pair_reference
from pa_lite.merging.inspect import inspect_layout
from pa_lite.merging.plan import PlanOptions, plan_merge

__all__ = [
    "Inspection", "Pair", "PairFit", "add_pair", "fetch", "find_pair", "inspect", "own_pairs_path", "pair_fit", "pairs",
    "remove_pair",
]  # fmt: skip


def inspect(checkpoint: str | Location | ModelRef, *, type: str | None = None) -> Inspection:
    """Return a checkpoint's architecture, types, sizes, vocabulary and chat template, without reading its weights.

    `checkpoint` is a folder, a file, `org/name[@revision]` on the Hub, or `PAIR@LAM`: what merging that pair as `type`
    (F16 by default) would give. Raises PaLiteError.
    """
    reference = pair_reference(checkpoint) if isinstance(checkpoint, str) else checkpoint
    if not isinstance(reference, ModelRef):
        return inspect_checkpoint(checkpoint)  # type: ignore[arg-type]
    if reference.pair is None:
        return inspect_checkpoint(str(reference.file))
    base, instruct = open_pair(reference.pair.base, reference.pair.instruct, stream=True)
    plan = plan_merge(base, instruct, PlanOptions(type=model_type(type)))
    return inspect_layout(plan.at(reference.lam), str(reference))


def pairs() -> dict[str, Pair]:
    """Return every registered pair by name: the built-in ones, then the user's own. Raises PaLiteError."""
    return all_pairs()


def fetch(pair: PairLike, progress: Progress | None = None) -> tuple[Path, Path]:
    """Download what is missing of a pair from the Hub; return the local paths of base and instruct.

    Raises PaLiteError.
    """
    return fetch_pair(resolve_pair(pair), progress)
