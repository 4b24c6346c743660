"""Models and data sets on the Hugging Face Hub: references, commits, file lists, and downloads into the Hub's cache.

The environment counts at each call: HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, HF_HUB_CACHE, HF_HOME.
"""

from __future__ import annotations

import itertools
import logging
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pa_lite.checkpoints.hub.cache import RepoCache, cache_folder
from pa_lite.checkpoints.hub.http import TIMEOUT, FileFacts, Subject, api, attempt, file_facts, is_offline
from pa_lite.errors import CheckpointError, HubError, InputError
from pa_lite.progress import Counter, Progress
from pa_lite.untrusted.safe_names import escapes, path_fault

_log = logging.getLogger(__name__)
PREFIX = "hub:"
_PART = r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?"
_REFERENCE = re.compile(rf"hub:(?P<repo>{_PART}/{_PART})(?:/(?P<file>[^@]+))?(?:@(?P<revision>[^\s@]+))?", re.A)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MOST_ENTRIES = 100_000  # files and folders of a repository; the Hub itself advises to stay below


@dataclass(frozen=True)
class HubReference:
    """A repository on the Hub: `org/name`, its type, a branch, tag or commit, and a file of weights in it."""

    repo: str
    revision: str | None = None
    repo_type: str = "model"
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
        return Subject(self.repo, self.repo_type, self.revision)


@dataclass(frozen=True)
class HubFile:
    """A file of a repository: its path there, size in bytes, and the SHA-256 (hex) of large files, else None."""

    name: str
    size: int
    sha256: str | None = None


def parse_hub(text: str) -> HubReference:
    """Read `hub:org/name[@revision]`, or `hub:org/name/FILE[@revision]`. Raises InputError for anything else."""
    found = _REFERENCE.fullmatch(text)
    if found is None or ".." in text or "--" in found["repo"]:
        raise InputError(f"{text!r} is no reference to the Hub; write hub:org/name or hub:org/name@revision.")
    if found["file"]:
        _check_name(found["file"], text)
    return HubReference(found["repo"], found["revision"], file=found["file"])


Location = Path | HubReference


def locate(where: str | Location) -> Location:
    """Where a checkpoint lies: on the Hub if the text begins with `hub:`, else at a path. Raises InputError."""
    if isinstance(where, str):
        if not where.strip() or "\0" in where:
            raise InputError(f"{where!r} names no checkpoint. Name a folder, a file, or hub:org/name.")
        return parse_hub(where) if where.startswith(PREFIX) else Path(where)
    return where


def _check_name(name: str, where: str) -> None:
    """Raise CheckpointError for a file name that could lead out of the folder it is fetched to, or is no file's."""
    if fault := path_fault(name):
        raise CheckpointError(f"{where}: the file {name!r} cannot be fetched: its name {fault}.")


def resolve_commit(reference: HubReference) -> str:
    """The commit (40 hex digits) that a reference stands for now; offline, or out of reach, when it was last fetched.

    Raises HubError, saying what to do, when the Hub knows of none or none is in the cache.
    """
    cache, subject = RepoCache(reference.repo, reference.repo_type), reference.subject
    if is_offline():
        return _cached_commit(cache, subject)
    if reference.revision and _COMMIT.fullmatch(reference.revision) and cache.commit_of(reference.revision):
        return reference.revision
    try:
        commit = _commit_now(reference)
    except HubError as e:
        return _fallback(cache, subject, e)
    cache.remember(reference.revision, commit)
    return commit


def _commit_now(reference: HubReference) -> str:
    """The commit that the Hub names. Raises HubError."""
    repo, repo_type, revision, subject = reference.repo, reference.repo_type, reference.revision, reference.subject
    info = attempt(lambda: api().repo_info(repo, repo_type=repo_type, revision=revision, timeout=TIMEOUT), subject)
    if not isinstance(info.sha, str) or not _COMMIT.fullmatch(info.sha):
        raise HubError(f"{subject}: the Hub names no commit for it. Check HF_ENDPOINT.")
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


def list_files(repo: str, *, revision: str | None = None, repo_type: str = "model") -> list[HubFile]:
    """The files of a repository, subfolders included, by name; offline those that are in the cache.

    Raises HubError when the repository or revision cannot be had.
    """
    return listing(HubReference(repo, revision, repo_type))[0]


def listing(reference: HubReference) -> tuple[list[HubFile], bool]:
    """The files, and whether the Hub told of them: else, offline or with it out of reach, the cache did."""
    subject, cache = reference.subject, RepoCache(reference.repo, reference.repo_type)
    if is_offline():
        return _cached_files(cache.snapshot(_cached_commit(cache, subject))), False
    repo, repo_type = reference.repo, reference.repo_type
    try:
        # first this: huggingface_hub lists with long retries of its own, which a Hub out of reach is not worth
        commit = _commit_now(reference)
        files = attempt(
            lambda: _files(api().list_repo_tree(repo, recursive=True, revision=commit, repo_type=repo_type)), subject
        )
    except HubError as e:
        return _cached_files(cache.snapshot(_fallback(cache, subject, e))), False
    for file in files:
        if escapes(file.name):
            _check_name(file.name, str(subject))
    odd = [f.name for f in files if path_fault(f.name)]  # some systems cannot have them: they are not there for us
    if odd:
        _log.info("%s: left out, for their names: %s", subject, ", ".join(map(repr, odd)))
    return sorted((f for f in files if not path_fault(f.name)), key=lambda f: f.name), True


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


def _cached_files(snapshot: Path) -> list[HubFile]:
    found = [HubFile(p.relative_to(snapshot).as_posix(), p.stat().st_size) for p in snapshot.rglob("*") if p.is_file()]
    return sorted(found, key=lambda f: f.name)


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
    cache's copy is taken. `progress` gets the bytes done. Raises HubError, saying what to do.
    """
    subject, cache = Subject(repo, repo_type, revision, filename), RepoCache(repo, repo_type)
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
    path = add_file(cache, subject, facts, Sum(facts.size, progress))
    cache.remember(revision, facts.commit)
    return path


def add_file(cache: RepoCache, subject: Subject, facts: FileFacts, total: Sum) -> Path:
    return cache.add(replace(subject, revision=facts.commit), facts, total.add, total.stop)


class Sum(Counter):
    """Adds up what several downloads bring, for one bar, and ends them all when `stop` is set."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        super().__init__(progress, "download", total, "B")
        self.stop = threading.Event()
