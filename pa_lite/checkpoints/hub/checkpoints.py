"""Find the files of a checkpoint on the Hub, and download them or open them for reading by ranges."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from pa_lite.checkpoints.gguf_model import part_names
from pa_lite.checkpoints.hub.cache import RepoCache, cache_folder
from pa_lite.checkpoints.hub.downloads import Sum, add_file
from pa_lite.checkpoints.hub.http import PATIENT, file_facts
from pa_lite.checkpoints.hub.ranges import RemoteFile
from pa_lite.checkpoints.hub.references import HubReference
from pa_lite.checkpoints.hub.repositories import HubFile, fetch_file, listing
from pa_lite.checkpoints.locations import ADAPTER_SETTINGS, ADAPTER_WEIGHTS, PICKLES, foreign_weights
from pa_lite.checkpoints.model_card import CARD
from pa_lite.checkpoints.weight_files import INDEX, SINGLE, choose_weights, listed, read_index
from pa_lite.errors import CheckpointError, HubError, InputError, OutputError
from pa_lite.progress import Progress
from pa_lite.system.atomic import existing_parent
from pa_lite.system.byte_source import ByteSource
from pa_lite.untrusted.safe_names import same_file

_FILES_AT_A_TIME = 4
_LONGEST_CARD = 4 << 20  # bytes; a longer model card is not downloaded
# files of a checkpoint other than weights, without any that can contain code or pickles
_SMALL = re.compile(
    r"[^/]+\.(json|jinja)|additional_chat_templates/[^/]+\.jinja|tokenizer\.model(\.v\d+)?|(spiece|sentencepiece\.bpe)\.model|vocab\.txt|merges\.txt"
)


def _is_small(file: HubFile) -> bool:
    return _SMALL.fullmatch(file.name) is not None or (file.name == CARD and file.size <= _LONGEST_CARD)


def _is_beside(name: str) -> bool:
    """Return whether a GGUF file is not a model, by the names that llama.cpp's tools use."""
    stem = name.rpartition("/")[2].lower().removesuffix(".gguf")
    return "mmproj" in stem or "imatrix" in stem


def weight_files(files: Sequence[HubFile], reference: HubReference, index: Sequence[str]) -> list[HubFile]:
    """Return the weight files of a checkpoint, chosen as in a local folder.

    These are the file that the reference names, else model.safetensors, else the shards of the `index`, else other
    model*.safetensors, else the weights of a PEFT adapter, else one GGUF model. Raises CheckpointError if pa-lite can
    open none, InputError if there are several GGUF models.
    """
    by_name = {f.name: f for f in files}
    if reference.file is not None:
        return _gguf_parts(reference.file, by_name, reference)
    chosen = choose_weights(by_name.keys(), lambda: index)
    if missing := [name for name in chosen if name not in by_name]:
        raise CheckpointError(f"{reference}: shard {missing[0]}, listed in {INDEX}, is missing.")
    if not chosen and ADAPTER_WEIGHTS in by_name and ADAPTER_SETTINGS in by_name:
        chosen = [ADAPTER_WEIGHTS]
    if chosen:
        return [by_name[name] for name in chosen]
    models = {part_names(n)[0] for n in by_name if n.lower().endswith(".gguf")}
    if len(models) > 1:
        models = {name for name in models if not _is_beside(name)} or models
    if len(models) == 1:
        return _gguf_parts(models.pop(), by_name, reference)
    if models:
        raise InputError(
            f"{reference}: has {len(models)} GGUF models. Choose hub:{reference.repo}/FILE: {listed(models, 6)}."
        )
    if told := foreign_weights(by_name.keys()):
        raise CheckpointError(f"{reference}: {told}.")
    raise CheckpointError(f"{reference}: has neither model*.safetensors nor .gguf files.")


def _gguf_parts(name: str, by_name: dict[str, HubFile], reference: HubReference) -> list[HubFile]:
    if name.endswith(PICKLES):
        raise CheckpointError(f"{reference}: {foreign_weights([name])}.")
    names = part_names(name)
    for each in names:
        if each not in by_name:
            raise HubError(f"{reference}: has no file {each}. Look at its list of files on the Hub.")
    return [by_name[each] for each in names]


@dataclass(frozen=True, kw_only=True)
class _HubSnapshot:
    """A checkpoint at a commit: the folder of its snapshot, weight files and small files."""

    reference: HubReference
    folder: Path
    weights: list[HubFile]
    small: list[HubFile]

    @property
    def path(self) -> Path:
        """Return the path to open after the download: the folder, or the (first) GGUF file."""
        return self.folder if self.is_folder else self.folder / self.weights[0].name

    @property
    def is_folder(self) -> bool:
        """Return whether the checkpoint is a folder with settings, not a GGUF file."""
        return self.reference.file is None and self.weights[0].name.endswith(".safetensors")


def fetch_checkpoints(references: Sequence[HubReference], progress: Progress | None = None) -> list[Path]:
    """Download checkpoints into the Hub's cache; return their snapshot folders, or (first) GGUF files.

    Only safetensors (those of the index), GGUF, JSON, tokenizer files and templates are downloaded. `progress` gets the
    bytes of all files. Raises CheckpointError for a repository without weights that pa-lite can open, HubError if a
    file is not available (offline it lists what is missing in the cache), OutputError if the disk is too small.
    """
    found = [_find(reference) for reference in references]
    _fetch([(f, file) for f in found for file in (*f.small, *f.weights)], progress)
    return [f.path for f in found]


def fetch_checkpoint(reference: HubReference, progress: Progress | None = None) -> Path:
    """Download one checkpoint; see fetch_checkpoints."""
    return fetch_checkpoints([reference], progress)[0]


def reach_checkpoint(reference: HubReference) -> tuple[Path, dict[str, ByteSource]]:
    """Download only the small files of a checkpoint; return the path and the sources of its weight files.

    The path is that of `fetch_checkpoint`, which raises the same errors. Weight files in the cache are read there.
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
            raise HubError(f"{pinned.label}: {file.name} changed on the Hub. Start again.")
        return RemoteFile(pinned, facts)

    with ThreadPoolExecutor(_FILES_AT_A_TIME) as pool:
        names = (Path(file.name).name for file in found.weights)
        return found.path, dict(zip(names, pool.map(reach, found.weights), strict=True))


def _find(reference: HubReference) -> _HubSnapshot:
    """Resolve a reference and find the files of the checkpoint, downloading the index for that."""
    found = listing(reference)
    pinned = replace(reference, revision=found.commit, is_guess=False)
    cache = RepoCache(reference.repo, reference.repo_type)
    cache.remember(reference.revision, found.commit)
    folder = cache.snapshot(found.commit)
    files = found.files
    index: list[str] = []
    names = {f.name for f in files}
    if reference.file is None and INDEX in names and SINGLE not in names:
        path = fetch_file(reference.repo, INDEX, revision=found.commit, repo_type=reference.repo_type)
        index = sorted(set(read_index(path).values()))
    try:
        weights = weight_files(files, reference, index)
    except CheckpointError as e:
        if found.is_complete:
            raise
        lacking = [name for name in index or [reference.file or "its weights"] if name not in names]
        raise HubError(
            f"{reference}: {', '.join(lacking)} not in the cache ({folder}), and the Hub is not available. Go online "
            "(without HF_HUB_OFFLINE) and retry."
        ) from e
    small = [f for f in files if _is_small(f)] if weights[0].name.endswith(".safetensors") else []
    if twins := same_file(f.name for f in (*weights, *small)):
        raise CheckpointError(f"{reference}: has the files {' and '.join(twins)}, one file on some systems.")
    return _HubSnapshot(reference=pinned, folder=folder, weights=weights, small=small)


def _fetch(files: Sequence[tuple[_HubSnapshot, HubFile]], progress: Progress | None) -> None:
    """Download files, a few at a time, with one progress for all."""
    total = Sum(sum(file.size for _, file in files), progress)
    absent = [(found, file) for found, file in files if not (found.folder / file.name).exists()]
    for found, file in files:
        if (found, file) not in absent:
            total.add(file.size)
    _check_room(sum(file.size for _, file in absent))

    def fetch(entry: tuple[_HubSnapshot, HubFile]) -> None:
        found, file = entry
        pinned = replace(found.reference, file=file.name)
        add_file(pinned, file_facts(pinned, PATIENT), total)

    with ThreadPoolExecutor(_FILES_AT_A_TIME) as pool:
        try:
            for _ in pool.map(fetch, absent):
                pass
        except BaseException:  # also on Ctrl-C; started downloads stay in the cache and can be resumed
            total.stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _check_room(needed: int) -> None:
    """Raise OutputError unless the cache's disk has this many bytes free."""
    free = shutil.disk_usage(existing_parent(cache_folder())).free
    if needed > free:
        raise OutputError(
            f"{cache_folder()}: {needed / 1e9:.1f} GB to download, {free / 1e9:.1f} GB free. Set "
            "HF_HUB_CACHE to a larger disk, or merge without a copy (--stream)."
        )
