"""Look up commits and files of models and data sets on the Hub, and download single files.

The environment is read at each call: HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, HF_HUB_CACHE, HF_HOME.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pa_lite.checkpoints.hub.cache import RepoCache, cache_folder
from pa_lite.checkpoints.hub.downloads import Sum, add_file
from pa_lite.checkpoints.hub.http import TIMEOUT, attempt, file_facts
from pa_lite.checkpoints.hub.references import COMMIT, HubReference, check_name, endpoint
from pa_lite.errors import HubError
from pa_lite.progress import Progress
from pa_lite.untrusted.safe_names import escapes, path_fault

_log = logging.getLogger(__name__)
_MOST_ENTRIES = 100_000  # files and folders of a repository; the Hub advises fewer


@dataclass(frozen=True)
class HubFile:
    """A file of a repository: path, size in bytes, and for large files the SHA-256 (hex), else None."""

    name: str
    size: int
    sha256: str | None = None


@dataclass(frozen=True)
class Listing:
    """The files of a repository at a commit; not `is_complete` if they are those in the cache (offline)."""

    commit: str
    files: list[HubFile]
    is_complete: bool


def list_files(repo: str, *, revision: str | None = None, repo_type: str = "model") -> list[HubFile]:
    """Return the files of a repository with subfolders, sorted by name; offline those in the cache.

    Raises HubError if the repository or revision is not available.
    """
    return listing(HubReference(repo=repo, revision=revision, repo_type=repo_type)).files


def listing(reference: HubReference) -> Listing:
    """Return the current commit (40 hex digits) of a reference and its files.

    Offline, or if the Hub cannot be reached, these are the ones in the cache. Raises HubError, saying what to do, if
    neither the Hub nor the cache has it.
    """
    cache = RepoCache(reference.repo, reference.repo_type)
    commit = cache.commit_of(reference.revision)
    if is_offline():
        return _cached(cache, commit or _not_cached(reference))
    try:
        # first, as huggingface_hub lists files with long retries even if the Hub cannot be reached
        now = _commit_now(reference)
        files = attempt(lambda: _files(_entries(reference, now)), reference)
    except HubError as e:
        if commit is None or not e.is_passing:
            raise
        _log.warning("%s Using the cache (%s).", e, commit[:8])
        return _cached(cache, commit)
    for file in files:
        if escapes(file.name):
            check_name(file.name, reference.label)
    odd = [f.name for f in files if path_fault(f.name)]  # not valid on some systems, so we ignore them
    if odd:
        _log.info("%s: ignored files with unusable names: %s", reference.label, ", ".join(map(repr, odd)))
    return Listing(now, sorted((f for f in files if f.name not in odd), key=lambda f: f.name), True)


def is_offline() -> bool:
    """Return whether the environment forbids requests to the Hub."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in ("1", "ON", "YES", "TRUE")


def hub_api() -> Any:
    """Return huggingface_hub's client for the Hub that the environment names."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint(), library_name="pa-lite")


def _commit_now(reference: HubReference) -> str:
    """Return the commit that the Hub reports. Raises HubError."""
    repo, repo_type, revision = reference.repo, reference.repo_type, reference.revision
    info = attempt(
        lambda: hub_api().repo_info(repo, repo_type=repo_type, revision=revision, timeout=TIMEOUT), reference
    )
    if not isinstance(info.sha, str) or not COMMIT.fullmatch(info.sha):
        raise reference.error("the Hub reports no commit for it. Check HF_ENDPOINT.")
    return info.sha


def _entries(reference: HubReference, commit: str) -> Iterable[Any]:
    repo, repo_type = reference.repo, reference.repo_type
    return hub_api().list_repo_tree(repo, recursive=True, revision=commit, repo_type=repo_type)  # type: ignore[no-any-return]


def _files(entries: Iterable[Any]) -> list[HubFile]:
    """Return the files among the listed entries. Raises TypeError for an invalid entry."""
    held = list(itertools.islice(entries, _MOST_ENTRIES + 1))
    if len(held) > _MOST_ENTRIES:  # each page links to the next, maybe forever
        raise TypeError(f"a list of more than {_MOST_ENTRIES} files")
    files = [HubFile(e.path, e.size, e.lfs.sha256 if e.lfs else None) for e in held if hasattr(e, "blob_id")]
    for file in files:
        if not isinstance(file.name, str) or type(file.size) is not int or file.size < 0:
            raise TypeError(f"a file {file.name!r:.80} of {file.size!r:.20} bytes")
        if not isinstance(file.sha256, str | None):
            raise TypeError(f"a hash {file.sha256!r:.80}")
    return files


def _cached(cache: RepoCache, commit: str) -> Listing:
    folder = cache.snapshot(commit)
    found = [HubFile(p.relative_to(folder).as_posix(), p.stat().st_size) for p in folder.rglob("*") if p.is_file()]
    return Listing(commit, sorted(found, key=lambda f: f.name), False)


def _not_cached(reference: HubReference) -> str:
    raise reference.error(
        f"is not in the cache ({cache_folder()}), and HF_HUB_OFFLINE is set. "
        "Unset HF_HUB_OFFLINE, or use what is in the cache."
    )


def fetch_file(
    repo: str,
    filename: str,
    *,
    revision: str | None = None,
    repo_type: str = "model",
    progress: Progress | None = None,
) -> Path:
    """Download a file of a repository unless it is in the Hub's cache; return its path.

    Size and hash are checked, and unfinished downloads are resumed. Offline, or if the Hub cannot be reached, the copy
    in the cache is used. `progress` gets the bytes. Raises HubError, saying what to do.
    """
    reference, cache = (
        HubReference(repo=repo, revision=revision, repo_type=repo_type, file=filename),
        RepoCache(repo, repo_type),
    )
    check_name(filename, reference.label)
    commit = cache.commit_of(revision)
    cached = cache.snapshot(commit) / filename if commit else None
    if cached is not None and not cached.exists():
        cached = None
    if cached is not None and (is_offline() or commit == revision):
        return cached
    if is_offline():
        if commit is None:
            _not_cached(reference)
        raise reference.error(
            f"{filename} is not in the cache, and HF_HUB_OFFLINE is set. Unset it to download the file."
        )
    try:
        facts = file_facts(reference)
    except HubError as e:
        if cached is None or not e.is_passing:
            raise
        _log.warning("%s Using the copy in the cache.", e)
        return cached
    path = add_file(reference, facts, Sum(facts.size, progress))
    cache.remember(revision, facts.commit)
    return path
