"""Models and data sets on the Hugging Face Hub: references, commits, file lists, and downloads into the Hub's cache.

The environment counts at each call: HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, HF_HUB_CACHE, HF_HOME.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from pa_lite.checkpoints.hub_cache import RepoCache, cache_folder
from pa_lite.checkpoints.hub_http import FileFacts, Subject, api, attempt, file_facts, is_offline
from pa_lite.errors import CheckpointError, HubError, InputError

_log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]
PREFIX = "hub:"
INDEX = "model.safetensors.index.json"
_FILES_AT_A_TIME = 4
_PART = r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?"
_REFERENCE = re.compile(rf"hub:(?P<repo>{_PART}/{_PART})(?:/(?P<file>[^@]+\.gguf))?(?:@(?P<revision>[^\s@]+))?", re.A)
_COMMIT = re.compile(r"[0-9a-f]{40}")
# what a checkpoint needs beside its weights; whatever can hold code or pickles is not among it
_SMALL = re.compile(
    r"[^/]+\.(json|jinja)|tokenizer\.model(\.v\d+)?|(spiece|sentencepiece\.bpe)\.model|vocab\.txt|merges\.txt"
)
_SPLIT = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class HubReference:
    """A model (or `kind` "dataset") on the Hub: `org/name`, a branch, tag or commit, and a GGUF file within it."""

    repo: str
    revision: str | None = None
    kind: str = "model"
    file: str | None = None

    def __str__(self) -> str:
        file = f"/{self.file}" if self.file else ""
        return f"{PREFIX}{self.repo}{file}" + (f"@{self.revision}" if self.revision else "")

    @property
    def name(self) -> str:
        """The model's own name, without its owner's."""
        return self.repo.rpartition("/")[2]

    @property
    def subject(self) -> Subject:
        return Subject(self.repo, self.kind, self.revision)


@dataclass(frozen=True)
class HubFile:
    """A file of a repository: its path there, size in bytes, and the SHA-256 (hex) of large files, else None."""

    name: str
    size: int
    sha256: str | None = None


def is_hub(text: object) -> bool:
    """Whether a text names something on the Hub rather than a path."""
    return isinstance(text, str) and text.startswith(PREFIX)


def parse_hub(text: str) -> HubReference:
    """Read `hub:org/name[@revision]`, or `hub:org/name/FILE.gguf[@revision]`. Raises InputError for anything else."""
    found = _REFERENCE.fullmatch(text)
    if found is None or ".." in text or "--" in found["repo"]:
        raise InputError(f"{text!r} is no reference to the Hub; write hub:org/name or hub:org/name@revision.")
    if found["file"]:
        _check_name(found["file"], text)
    return HubReference(found["repo"], found["revision"], file=found["file"])


def _check_name(name: str, where: str) -> None:
    """Raise CheckpointError for a file name that could lead out of the folder it is fetched to."""
    parts = name.split("/")
    if not all(parts) or any(p in (".", "..") or re.search(r'[\\:*?"<>|\x00-\x1f]', p) for p in parts):
        raise CheckpointError(f"{where}: has a file of the name {name!r}, which cannot be fetched.")


def resolve_commit(reference: HubReference) -> str:
    """The commit (40 hex digits) that a reference stands for now; offline, or out of reach, when it was last fetched.

    Raises HubError, saying what to do, when the Hub knows of none or none is in the cache.
    """
    cache, subject = RepoCache(reference.repo, reference.kind), reference.subject
    if is_offline():
        return _cached_commit(cache, subject)
    if reference.revision and _COMMIT.fullmatch(reference.revision) and cache.commit_of(reference.revision):
        return reference.revision
    kind, revision = reference.kind, reference.revision
    try:
        info = attempt(lambda: api().repo_info(reference.repo, repo_type=kind, revision=revision), subject)
    except HubError as e:
        return _fallback(cache, subject, e)
    if not isinstance(info.sha, str) or not _COMMIT.fullmatch(info.sha):
        raise HubError(f"{subject}: the Hub names no commit for it. Check HF_ENDPOINT.")
    cache.remember(revision, info.sha)
    return info.sha


def _cached_commit(cache: RepoCache, subject: Subject) -> str:
    commit = cache.commit_of(subject.revision)
    if commit is None:
        raise HubError(
            f"{subject}: is not in the cache ({cache_folder()}), and HF_HUB_OFFLINE forbids fetching it. "
            "Unset HF_HUB_OFFLINE, or name what was fetched before."
        )
    return commit


def _fallback(cache: RepoCache, subject: Subject, error: HubError) -> str:
    """The commit last fetched when the Hub is out of reach or at fault; else the error is raised."""
    commit = cache.commit_of(subject.revision)
    if commit is None or not error.is_passing:
        raise error
    _log.warning("%s Going on with what was fetched before (%s).", error, commit[:8])
    return commit


def list_files(repo: str, *, revision: str | None = None, kind: str = "model") -> list[HubFile]:
    """The files of a repository, subfolders included, by name; offline those that are in the cache.

    Raises HubError when the repository or revision cannot be had.
    """
    subject, cache = Subject(repo, kind, revision), RepoCache(repo, kind)
    if is_offline():
        folder = cache.snapshot(_cached_commit(cache, subject))
        found = [HubFile(p.relative_to(folder).as_posix(), p.stat().st_size) for p in folder.rglob("*") if p.is_file()]
        return sorted(found, key=lambda f: f.name)
    entries = attempt(
        lambda: list(api().list_repo_tree(repo, recursive=True, revision=revision, repo_type=kind)), subject
    )
    files = [HubFile(e.path, int(e.size), e.lfs.sha256 if e.lfs else None) for e in entries if hasattr(e, "blob_id")]
    for file in files:
        _check_name(file.name, str(subject))
    return sorted(files, key=lambda f: f.name)


def fetch_file(
    repo: str,
    filename: str,
    *,
    revision: str | None = None,
    kind: str = "model",
    progress: Progress | None = None,
) -> Path:
    """One file of a repository, fetched into the Hub's cache unless it is there; returns where it lies.

    Size and hash are checked; a download that broke off is gone on with. Offline, or with the Hub out of reach, the
    cache's copy is taken. `progress` gets (bytes done, bytes in all). Raises HubError, saying what to do.
    """
    subject, cache = Subject(repo, kind, revision, filename), RepoCache(repo, kind)
    _check_name(filename, str(subject))
    known = cache.commit_of(revision)
    cached = cache.snapshot(known) / filename if known else None
    is_pinned = bool(revision and _COMMIT.fullmatch(revision))
    if cached is not None and cached.exists() and (is_pinned or is_offline()):
        return cached
    if is_offline():
        _cached_commit(cache, subject)
        raise HubError(
            f"{subject}: {filename} is not in the cache, and HF_HUB_OFFLINE forbids fetching it. Unset it to fetch it."
        )
    try:
        facts = file_facts(subject)
    except HubError as e:
        if cached is None or not cached.exists() or not e.is_passing:
            raise
        _log.warning("%s Going on with the copy in the cache.", e)
        return cached
    path = _add(cache, subject, facts, _Sum(facts.size, progress))
    cache.remember(revision, facts.commit)
    return path


def _add(cache: RepoCache, subject: Subject, facts: FileFacts, total: _Sum) -> Path:
    return cache.add(replace(subject, revision=facts.commit), facts, total.add)


class _Sum:
    """Adds up what several downloads bring, for one bar."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.total, self.done = total, 0
        self._progress, self._lock = progress, threading.Lock()
        self._is_stopped = False

    def stop(self) -> None:
        """Let every download end at its next piece."""
        self._is_stopped = True

    def add(self, n: int) -> None:
        if self._is_stopped:
            raise HubError("the download was stopped.")
        with self._lock:
            self.done += n
            if self._progress is not None:
                self._progress(self.done, self.total)


def weight_files(files: Sequence[HubFile], reference: HubReference, index: Sequence[str]) -> list[HubFile]:
    """The files that hold a checkpoint's weights: those of the index, else model*.safetensors, else one GGUF model.

    Raises CheckpointError when there are none that pa-lite opens, InputError when several GGUF models are there.
    """
    by_name = {f.name: f for f in files}
    if reference.file is not None:
        return _gguf_parts(reference.file, by_name, reference)
    if index:
        missing = [name for name in index if name not in by_name]
        if missing:
            raise CheckpointError(f"{reference}: shard {missing[0]} is missing, which {INDEX} names.")
        return [by_name[name] for name in index]
    found = [f for f in files if re.fullmatch(r"model[^/]*\.safetensors", f.name)]
    if found:
        return found
    models = sorted({m["stem"] if (m := _SPLIT.fullmatch(n)) else n for n in by_name if n.endswith(".gguf")})
    if len(models) == 1:
        return _gguf_parts(min(n for n in by_name if n.endswith(".gguf")), by_name, reference)
    if models:
        shown = ", ".join(models[:6]) + (", ..." if len(models) > 6 else "")
        raise InputError(
            f"{reference}: holds {len(models)} GGUF models. Name one as hub:{reference.repo}/FILE: {shown}."
        )
    if any(n.endswith(_PICKLES) for n in by_name):
        raise CheckpointError(
            f"{reference}: its weights are pickles, which can run code and are not opened. Take a repository or "
            "revision with safetensors files."
        )
    raise CheckpointError(f"{reference}: has no weights: no model*.safetensors and no .gguf file.")


def _gguf_parts(name: str, by_name: dict[str, HubFile], reference: HubReference) -> list[HubFile]:
    split = _SPLIT.fullmatch(name)
    names = [name]
    if split:
        names = [
            f"{split['stem']}-{i:05d}-of-{split['count']}.gguf" for i in range(1, min(int(split["count"]), 9999) + 1)
        ]
    for each in names:
        if each not in by_name:
            raise HubError(f"{reference}: has no file {each}. Look at its list of files on the Hub.")
    return [by_name[each] for each in names]


def fetch_checkpoint(reference: HubReference, progress: Progress | None = None) -> Path:
    """A whole checkpoint, fetched into the Hub's cache: the snapshot's folder, or the (first) GGUF file in it.

    Only safetensors (those of the index), GGUF, JSON, tokenizer files and templates are fetched. `progress` gets (bytes
    done, bytes in all) over all files. Raises CheckpointError for a repository without weights that pa-lite opens, and
    HubError, saying what to do, when something cannot be had; offline it names what the cache lacks.
    """
    commit = resolve_commit(reference)
    pinned = replace(reference, revision=commit)
    folder = RepoCache(reference.repo, reference.kind).snapshot(commit)
    weights, small = checkpoint_files(pinned)
    fetch_all(pinned, [*small, *weights], progress)
    return folder if weights[0].name.endswith(".safetensors") else folder / weights[0].name


def checkpoint_files(reference: HubReference) -> tuple[list[HubFile], list[HubFile]]:
    """The weight files and the small files of a checkpoint at a commit; fetches its index to know the former."""
    from pa_lite.checkpoints.safetensors_file import shard_names

    files = list_files(reference.repo, revision=reference.revision, kind=reference.kind)
    index: list[str] = []
    if reference.file is None and any(f.name == INDEX for f in files):
        index = shard_names(fetch_file(reference.repo, INDEX, revision=reference.revision, kind=reference.kind))
    if is_offline():
        lacking = [name for name in index if name not in {f.name for f in files}]
        if lacking or not files:
            raise HubError(
                f"{reference}: {', '.join(lacking) or 'all of it'} is not in the cache, and HF_HUB_OFFLINE forbids "
                "fetching it. Unset it and try again."
            )
    weights = weight_files(files, reference, index)
    small = [f for f in files if _SMALL.fullmatch(f.name)] if weights[0].name.endswith(".safetensors") else []
    return weights, small


def fetch_all(reference: HubReference, files: Sequence[HubFile], progress: Progress | None = None) -> None:
    """Bring these files of a commit into the cache, a few at a time, with one progress over all their bytes."""
    cache, total = RepoCache(reference.repo, reference.kind), _Sum(sum(f.size for f in files), progress)
    assert reference.revision is not None
    snapshot = cache.snapshot(reference.revision)

    def fetch(file: HubFile) -> None:
        if (snapshot / file.name).exists():
            total.add(file.size)
            return
        subject = replace(reference.subject, file=file.name)
        _add(cache, subject, file_facts(subject), total)

    with ThreadPoolExecutor(_FILES_AT_A_TIME) as pool:
        try:
            for _ in pool.map(fetch, files):
                pass
        except BaseException:  # Ctrl-C too: what has been begun stays in the cache, to be gone on with
            total.stop()
            pool.shutdown(cancel_futures=True)
            raise
