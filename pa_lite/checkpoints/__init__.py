"""Open checkpoints: Hugging Face folders, GGUF files, repositories on the Hub, pairs. Does not depend on merging."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pa_lite.checkpoints.checkpoint import Checkpoint
from pa_lite.checkpoints.gguf_model import open_gguf
from pa_lite.checkpoints.hf import open_hf
from pa_lite.checkpoints.hub.checkpoints import fetch_checkpoints, reach_checkpoint
from pa_lite.checkpoints.hub.references import HubReference, Location, locate
from pa_lite.checkpoints.locations import find_model, resolve_location, unknown_file
from pa_lite.progress import Progress
from pa_lite.system.byte_source import ByteSource, read_errors
from pa_lite.untrusted.file_kind import content_of


def open_checkpoints(
    locations: Sequence[str | Location], stream: bool = False, progress: Progress | None = None
) -> list[Checkpoint]:
    """Open checkpoints: folders with safetensors shards or one GGUF model, files of either kind under any name, a
    repository's folder in the Hub's cache, or `org/name[@revision]` on the Hub.

    Only headers and configuration are read. Checkpoints on the Hub are downloaded to the Hub's cache first, where
    `progress` gets the bytes done; with `stream` their weights stay on the Hub and are read by ranges. Raises
    CheckpointError when there is nothing that pa-lite can read, HubError when a download fails.
    """
    located = [resolve_location(location) for location in locations]
    references = [location for location in located if isinstance(location, HubReference)]
    found: dict[HubReference, tuple[Path, dict[str, ByteSource]]]
    if stream:
        found = {reference: reach_checkpoint(reference) for reference in references}
    else:
        paths = fetch_checkpoints(references, progress)
        found = {reference: (path, {}) for reference, path in zip(references, paths, strict=True)}
    return [
        _open(location, {}) if isinstance(location, Path) else _open_hub(location, *found[location])
        for location in located
    ]


def open_checkpoint(location: str | Location, stream: bool = False, progress: Progress | None = None) -> Checkpoint:
    """Open one checkpoint; see open_checkpoints."""
    return open_checkpoints([location], stream, progress)[0]


def _open_hub(reference: HubReference, path: Path, elsewhere: Mapping[str, ByteSource]) -> Checkpoint:
    checkpoint = _open(path, elsewhere)
    # the name of a snapshot's folder is its commit
    return checkpoint if checkpoint.is_gguf else replace(checkpoint, name=reference.name)


def _open(path: Path, elsewhere: Mapping[str, ByteSource]) -> Checkpoint:
    path = find_model(path, elsewhere.keys())
    if path.is_dir():
        return open_hf(path, elsewhere)
    file = elsewhere.get(path.name, path)
    with read_errors(file):
        content = content_of(file)
    if content.is_gguf:
        return open_gguf(path, elsewhere)
    if content.is_safetensors:
        return open_hf(path, elsewhere)
    raise unknown_file(file)


__all__ = ["HubReference", "Location", "locate", "open_checkpoint", "open_checkpoints", "resolve_location"]
