"""Checkpoints and pairs: inspecting checkpoints; listing, adding and downloading registered pairs."""

from __future__ import annotations

from pathlib import Path

from pa_lite.api.options import Location, Pair, PairLike, Progress, resolve_pair
from pa_lite.checkpoints.inspect import Inspection, inspect_checkpoint
from pa_lite.checkpoints.pairs import PairFit, add_pair, all_pairs, fetch_pair, find_pair, own_pairs_path, pair_fit

__all__ = [
    "Inspection", "Pair", "PairFit", "add_pair", "fetch", "find_pair", "inspect", "own_pairs_path", "pair_fit", "pairs"
]  # fmt: skip


def inspect(checkpoint: str | Location) -> Inspection:
    """Return a checkpoint's architecture, types, sizes, vocabulary and chat template, without reading its weights.

    `checkpoint` is a folder, a file, or `org/name[@revision]` on the Hub. Raises PaLiteError.
    """
    return inspect_checkpoint(checkpoint)


def pairs() -> dict[str, Pair]:
    """Return every registered pair by name: the built-in ones, then the user's own. Raises PaLiteError."""
    return all_pairs()


def fetch(pair: PairLike, progress: Progress | None = None) -> tuple[Path, Path]:
    """Download what is missing of a pair from the Hub; return the local paths of base and instruct.

    Raises PaLiteError.
    """
    return fetch_pair(resolve_pair(pair), progress)
