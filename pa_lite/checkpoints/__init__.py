"""Open checkpoints: Hugging Face folders, GGUF files, repositories on the Hub, pairs. Does not depend on merging."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pa_lite.checkpoints.adapters import open_adapter
from pa_lite.checkpoints.checkpoint import Checkpoint
from pa_lite.checkpoints.gguf_model import open_gguf
from pa_lite.checkpoints.hf import open_hf
from pa_lite.checkpoints.hub.checkpoints import fetch_checkpoints, reach_checkpoint
from pa_lite.checkpoints.hub.references import HubReference, Location, locate
from pa_lite.checkpoints.locations import find_adapter, find_model, resolve_location, unknown_file
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
    return [_open_found(location, *found) for location, found in _fetch(locations, stream, progress)]


def open_pair(
    base: str | Location, instruct: str | Location, stream: bool = False, progress: Progress | None = None
) -> tuple[Checkpoint, Checkpoint]:
    """Open base and instruct as `open_checkpoints` does; the instruct side may also be an adapter of the base.

    An adapter is a folder with PEFT's files, or a GGUF file. Also raises CheckpointError for an adapter that pa-lite
    cannot apply, or that was made for another base.
    """
    (where, found), (location, theirs) = _fetch([base, instruct], stream, progress)
    opened = _open_found(where, *found)
    return opened, _open_found(location, *theirs, base=opened)


def is_adapter(path: Path) -> bool:
    """Return whether there is an adapter at a path. Raises CheckpointError for a folder that cannot be read."""
    return find_adapter(path, {}) is not None


_Found = tuple[Path, Mapping[str, ByteSource]]  # a path to open, and the sources of weight files that are not there


def _fetch(
    locations: Sequence[str | Location], stream: bool, progress: Progress | None
) -> list[tuple[Location, _Found]]:
    """Resolve locations, and download what is on the Hub, or with `stream` only the small files of it."""
    located = [resolve_location(location) for location in locations]
    references = [location for location in located if isinstance(location, HubReference)]
    found: dict[HubReference, _Found]
    if stream:
        found = {reference: reach_checkpoint(reference) for reference in references}
    else:
        paths = fetch_checkpoints(references, progress)
        found = {reference: (path, {}) for reference, path in zip(references, paths, strict=True)}
    return [(location, (location, {}) if isinstance(location, Path) else found[location]) for location in located]


def open_checkpoint(location: str | Location, stream: bool = False, progress: Progress | None = None) -> Checkpoint:
    """Open one checkpoint; see open_checkpoints."""
    return open_checkpoints([location], stream, progress)[0]


def _open_found(
    location: Location, path: Path, elsewhere: Mapping[str, ByteSource], base: Checkpoint | None = None
) -> Checkpoint:
    """Open what is at a path; with `base`, it may be an adapter of it."""
    adapter = find_adapter(path, elsewhere) if base is not None else None
    if base is not None and adapter is not None:
        checkpoint = open_adapter(adapter, base, elsewhere)
        is_named = not adapter.is_dir()
    else:
        checkpoint = _open(path, elsewhere)
        is_named = checkpoint.is_gguf
    # the name of a snapshot's folder is its commit
    return checkpoint if is_named or isinstance(location, Path) else replace(checkpoint, name=location.name)


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


__all__ = [
    "HubReference", "Location", "is_adapter", "locate", "open_checkpoint", "open_checkpoints", "open_pair",
    "resolve_location",
]  # fmt: skip
