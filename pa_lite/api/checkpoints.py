"""Checkpoints and pairs: what a checkpoint holds, which pairs are registered, and adding and fetching them."""

from __future__ import annotations

from pathlib import Path

from pa_lite.api.options import Location, Pair, PairLike, Progress, resolve_pair
from pa_lite.checkpoints.inspect import Inspection, inspect_checkpoint
from pa_lite.checkpoints.pairs import PairFit, add_pair, all_pairs, fetch_pair, find_pair, own_pairs_path, pair_fit

__all__ = [
    "Inspection", "Pair", "PairFit", "add_pair", "fetch", "find_pair", "inspect", "own_pairs_path", "pair_fit", "pairs"
]  # fmt: skip


def inspect(checkpoint: str | Location) -> Inspection:
    """Return what is in a checkpoint, without reading its weights: architecture, types, sizes, vocabulary, template.

    `checkpoint` is a folder, a file, or `org/name[@revision]` on the Hub. Raises PaLiteError.
    """
    return inspect_checkpoint(checkpoint)


def pairs() -> dict[str, Pair]:
    """Return every registered pair by name: those that come with pa-lite, then the user's own. Raises PaLiteError."""
    return all_pairs()


def fetch(pair: PairLike, progress: Progress | None = None) -> tuple[Path, Path]:
    """Return both sides of a pair on the disk, after downloading what is missing from the Hub. Raises PaLiteError."""
    return fetch_pair(resolve_pair(pair), progress)
