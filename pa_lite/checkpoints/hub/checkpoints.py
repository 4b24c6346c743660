"""Checkpoints on the Hub: which files make one up, fetched into the cache or left there to be read by ranges."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from pa_lite.checkpoints.gguf_model import part_names
from pa_lite.checkpoints.hub.cache import RepoCache, cache_folder
from pa_lite.checkpoints.hub.downloads import Progress, Sum, add_file
from pa_lite.checkpoints.hub.http import PATIENT, file_facts
from pa_lite.checkpoints.hub.ranges import RemoteFile
from pa_lite.checkpoints.hub.references import HubReference
from pa_lite.checkpoints.hub.repositories import HubFile, fetch_file, listing
from pa_lite.checkpoints.locations import PICKLES, foreign_weights
from pa_lite.checkpoints.weight_files import INDEX, SINGLE, choose_weights, listed, read_index
from pa_lite.errors import CheckpointError, HubError, InputError, OutputError
from pa_lite.system.atomic import existing_parent
from pa_lite.system.byte_source import ByteSource
from pa_lite.untrusted.safe_names import same_file

_FILES_AT_A_TIME = 4
# what a checkpoint needs beside its weights; whatever can hold code or pickles is not among it
_SMALL = re.compile(
    r"[^/]+\.(json|jinja)|additional_chat_templates/[^/]+\.jinja|tokenizer\.model(\.v\d+)?|(spiece|sentencepiece\.bpe)\.model|vocab\.txt|merges\.txt"
)


def _is_beside(name: str) -> bool:
    """Tell whether a GGUF file beside a model is not one, by the names that llama.cpp's tools give them."""
    stem = name.rpartition("/")[2].lower().removesuffix(".gguf")
    return "mmproj" in stem or "imatrix" in stem


def weight_files(files: Sequence[HubFile], reference: HubReference, index: Sequence[str]) -> list[HubFile]:
    """The files that hold a checkpoint's weights: the one that the reference names, else model.safetensors, else the
    shards of the `index`, else other model*.safetensors, else one GGUF model. As for a folder on the disk.

    Raises CheckpointError when there are none that pa-lite opens, InputError when several GGUF models are there.
    """
    by_name = {f.name: f for f in files}
    if reference.file is not None:
        return _gguf_parts(reference.file, by_name, reference)
    chosen = choose_weights(by_name.keys(), lambda: index)
    if missing := [name for name in chosen if name not in by_name]:
        raise CheckpointError(f"{reference}: shard {missing[0]} is missing, which {INDEX} names.")
    if chosen:
        return [by_name[name] for name in chosen]
    models = {part_names(n)[0] for n in by_name if n.lower().endswith(".gguf")}
    if len(models) > 1:
        models = {name for name in models if not _is_beside(name)} or models
    if len(models) == 1:
        return _gguf_parts(models.pop(), by_name, reference)
    if models:
        raise InputError(
            f"{reference}: holds {len(models)} GGUF models. Name one as hub:{reference.repo}/FILE: {listed(models, 6)}."
        )
    if told := foreign_weights(by_name.keys()):
        raise CheckpointError(f"{reference}: {told}.")
    raise CheckpointError(f"{reference}: has no weights: no model*.safetensors and no .gguf file.")


def _gguf_parts(name: str, by_name: dict[str, HubFile], reference: HubReference) -> list[HubFile]:
    if name.endswith(PICKLES):
        raise CheckpointError(f"{reference}: {foreign_weights([name])}.")
    names = part_names(name)
    for each in names:
        if each not in by_name:
            raise HubError(f"{reference}: has no file {each}. Look at its list of files on the Hub.")
    return [by_name[each] for each in names]


@dataclass(frozen=True)
class _Found:
    """A checkpoint at a commit: its snapshot's folder, weight files, and the small files beside them."""

    reference: HubReference
    folder: Path
    weights: list[HubFile]
    small: list[HubFile]

    @property
    def path(self) -> Path:
        """What to open once the files are there: the folder, or the (first) GGUF file."""
        return self.folder if self.is_folder else self.folder / self.weights[0].name

    @property
    def is_folder(self) -> bool:
        """Whether the weights belong to a folder with settings, and are not one file that stands for itself."""
        return self.reference.file is None and self.weights[0].name.endswith(".safetensors")


def fetch_checkpoints(references: Sequence[HubReference], progress: Progress | None = None) -> list[Path]:
    """Whole checkpoints, fetched into the Hub's cache: each one's snapshot folder, or the (first) GGUF file in it.

    Only safetensors (those of the index), GGUF, JSON, tokenizer files and templates are fetched. `progress` gets (bytes
    done, bytes in all) over all files of all. Raises CheckpointError for a repository without weights that pa-lite
    opens, HubError, saying what to do, when something cannot be had (offline it names what the cache lacks),
    OutputError when the disk has no room for them.
    """
    found = [_find(reference) for reference in references]
    _fetch([(f, file) for f in found for file in (*f.small, *f.weights)], progress)
    return [f.path for f in found]


def fetch_checkpoint(reference: HubReference, progress: Progress | None = None) -> Path:
    """One whole checkpoint; see fetch_checkpoints."""
    return fetch_checkpoints([reference], progress)[0]


def reach_checkpoint(reference: HubReference) -> tuple[Path, dict[str, ByteSource]]:
    """A checkpoint whose weights stay on the Hub: its snapshot, with the small files, and where the weights are.

    The path is as fetch_checkpoint's; weight files that are in the cache are taken from there. Raises as it does.
    """
    found = _find(reference)
    _fetch([(found, file) for file in found.small], None)

    def reach(file: HubFile) -> ByteSource:
        if (found.folder / file.name).exists():
            return found.folder / file.name
        pinned = replace(found.reference, file=file.name)
        facts = file_facts(pinned, PATIENT)
        described = (found.reference.revision, file.size, file.sha256 or facts.etag)
        if (facts.commit, facts.size, facts.etag) != described:
            raise HubError(f"{pinned.label}: {file.name} changed on the Hub in the meantime. Start again.")
        return RemoteFile(pinned, facts)

    with ThreadPoolExecutor(_FILES_AT_A_TIME) as pool:
        names = (Path(file.name).name for file in found.weights)
        return found.path, dict(zip(names, pool.map(reach, found.weights), strict=True))


def _find(reference: HubReference) -> _Found:
    """Resolve a reference and tell which of its files belong to the checkpoint; fetches the index to know."""
    found = listing(reference)
    pinned = replace(reference, revision=found.commit)
    cache = RepoCache(reference.repo, reference.kind)
    cache.remember(reference.revision, found.commit)
    folder = cache.snapshot(found.commit)
    files = found.files
    index: list[str] = []
    names = {f.name for f in files}
    if reference.file is None and INDEX in names and SINGLE not in names:
        path = fetch_file(reference.repo, INDEX, revision=found.commit, kind=reference.kind)
        index = sorted(set(read_index(path).values()))
    try:
        weights = weight_files(files, reference, index)
    except CheckpointError as e:
        if found.is_complete:
            raise
        lacking = [name for name in index or [reference.file or "its weights"] if name not in names]
        raise HubError(
            f"{reference}: {', '.join(lacking)} not in the cache ({folder}), and the Hub cannot be asked. Go online "
            "(without HF_HUB_OFFLINE) and try again."
        ) from e
    small = [f for f in files if _SMALL.fullmatch(f.name)] if weights[0].name.endswith(".safetensors") else []
    if twins := same_file(f.name for f in (*weights, *small)):
        raise CheckpointError(f"{reference}: has the files {' and '.join(twins)}, which are one file on some systems.")
    return _Found(pinned, folder, weights, small)


def _fetch(files: Sequence[tuple[_Found, HubFile]], progress: Progress | None) -> None:
    """Bring files into the cache, a few at a time, with one progress over all their bytes."""
    total = Sum(sum(file.size for _, file in files), progress)
    absent = [(found, file) for found, file in files if not (found.folder / file.name).exists()]
    for found, file in files:
        if (found, file) not in absent:
            total.add(file.size)
    _check_room(sum(file.size for _, file in absent))

    def fetch(entry: tuple[_Found, HubFile]) -> None:
        found, file = entry
        pinned = replace(found.reference, file=file.name)
        add_file(pinned, file_facts(pinned, PATIENT), total)

    with ThreadPoolExecutor(_FILES_AT_A_TIME) as pool:
        try:
            for _ in pool.map(fetch, absent):
                pass
        except BaseException:  # Ctrl-C too: what has been begun stays in the cache, to be gone on with
            total.stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _check_room(needed: int) -> None:
    """Raise OutputError unless the disk of the cache has room for so many bytes."""
    free = shutil.disk_usage(existing_parent(cache_folder())).free
    if needed > free:
        raise OutputError(
            f"{cache_folder()}: {needed / 1e9:.1f} GB are to be fetched there, {free / 1e9:.1f} GB are free. Let "
            "HF_HUB_CACHE name a larger disk, or merge without a copy (--stream)."
        )
