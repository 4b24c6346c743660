"""Models and data sets on the Hugging Face Hub: their commits, their lists of files, and single files.

The environment counts at each call: HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, HF_HUB_CACHE, HF_HOME.
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
_MOST_ENTRIES = 100_000  # files and folders of a repository; the Hub itself advises to stay below


@dataclass(frozen=True)
class HubFile:
    """A file of a repository: its path there, size in bytes, and the SHA-256 (hex) of large files, else None."""

    name: str
    size: int
    sha256: str | None = None


@dataclass(frozen=True)
class Listing:
    """A repository's files at a commit; `is_complete` unless the cache listed them, offline or without the Hub."""

    commit: str
    files: list[HubFile]
    is_complete: bool


def list_files(repo: str, *, revision: str | None = None, repo_type: str = "model") -> list[HubFile]:
    """The files of a repository, subfolders included, by name; offline those that are in the cache.

    Raises HubError when the repository or revision cannot be had.
    """
    return listing(HubReference(repo, revision, repo_type)).files


def listing(reference: HubReference) -> Listing:
    """The commit (40 hex digits) that a reference stands for now, and its files; offline, or with the Hub out of
    reach, when it was last fetched.

    Raises HubError, saying what to do, when the Hub knows of none or none is in the cache.
    """
    cache = RepoCache(reference.repo, reference.repo_type)
    commit = cache.commit_of(reference.revision)
    if _is_offline():
        return _cached(cache, commit or _not_cached(reference))
    try:
        # first this: huggingface_hub lists with long retries of its own, which a Hub out of reach is not worth
        now = _commit_now(reference)
        files = attempt(lambda: _files(_entries(reference, now)), reference)
    except HubError as e:
        if commit is None or not e.is_passing:
            raise
        _log.warning("%s Going on with what was fetched before (%s).", e, commit[:8])
        return _cached(cache, commit)
    for file in files:
        if escapes(file.name):
            check_name(file.name, reference.label)
    odd = [f.name for f in files if path_fault(f.name)]  # some systems cannot have them: they are not there for us
    if odd:
        _log.info("%s: left out, for their names: %s", reference.label, ", ".join(map(repr, odd)))
    return Listing(now, sorted((f for f in files if f.name not in odd), key=lambda f: f.name), True)


def _is_offline() -> bool:
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in ("1", "ON", "YES", "TRUE")


def _api() -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint(), library_name="pa-lite")


def _commit_now(reference: HubReference) -> str:
    """The commit that the Hub names. Raises HubError."""
    repo, repo_type, revision = reference.repo, reference.repo_type, reference.revision
    info = attempt(lambda: _api().repo_info(repo, repo_type=repo_type, revision=revision, timeout=TIMEOUT), reference)
    if not isinstance(info.sha, str) or not COMMIT.fullmatch(info.sha):
        raise reference.error("the Hub names no commit for it. Check HF_ENDPOINT.")
    return info.sha


def _entries(reference: HubReference, commit: str) -> Iterable[Any]:
    repo, repo_type = reference.repo, reference.repo_type
    return _api().list_repo_tree(repo, recursive=True, revision=commit, repo_type=repo_type)  # type: ignore[no-any-return]


def _files(entries: Iterable[Any]) -> list[HubFile]:
    """The files among the entries that the Hub lists. Raises TypeError for one that is not what a Hub tells."""
    held = list(itertools.islice(entries, _MOST_ENTRIES + 1))
    if len(held) > _MOST_ENTRIES:  # each page names the next one, and there may be no last
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
        f"is not in the cache ({cache_folder()}), and HF_HUB_OFFLINE forbids fetching it. "
        "Unset HF_HUB_OFFLINE, or name what was fetched before."
    )


def fetch_file(
    repo: str,
    filename: str,
    *,
    revision: str | None = None,
    repo_type: str = "model",
    progress: Progress | None = None,
) -> Path:
    """One file of a repository, fetched into the Hub's cache unless it is there; returns where it lies.

    Size and hash are checked; a download that broke off is gone on with. Offline, or with the Hub out of reach, the
    cache's copy is taken. `progress` gets (bytes done, bytes in all). Raises HubError, saying what to do.
    """
    reference, cache = HubReference(repo, revision, repo_type, filename), RepoCache(repo, repo_type)
    check_name(filename, reference.label)
    commit = cache.commit_of(revision)
    cached = cache.snapshot(commit) / filename if commit else None
    if cached is not None and not cached.exists():
        cached = None
    if cached is not None and (_is_offline() or commit == revision):
        return cached
    if _is_offline():
        if commit is None:
            _not_cached(reference)
        raise reference.error(
            f"{filename} is not in the cache, and HF_HUB_OFFLINE forbids fetching it. Unset it to fetch it."
        )
    try:
        facts = file_facts(reference)
    except HubError as e:
        if cached is None or not e.is_passing:
            raise
        _log.warning("%s Going on with the copy in the cache.", e)
        return cached
    path = add_file(reference, facts, Sum(facts.size, progress))
    cache.remember(revision, facts.commit)
    return path
