"""The Hub's cache on this machine, in huggingface_hub's layout, so that all programs share downloads.

`blobs/TAG` has contents, `snapshots/COMMIT/NAME` links to them, and `refs/REVISION` has the commit last seen.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

from pa_lite.checkpoints.hub.references import COMMIT
from pa_lite.errors import CheckpointError, OutputError
from pa_lite.system.atomic import write_text
from pa_lite.system.opening import read_regular

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return HF_HUB_CACHE, else `hub` in HF_HOME, else in the user's cache; reads the environment at each call."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return Path(os.path.expandvars(os.environ[name])).expanduser()
    home = os.environ.get("HF_HOME")
    if not home:
        home = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache"), "huggingface")
    return Path(os.path.expandvars(home)).expanduser() / "hub"


_REPOSITORY = re.compile(r"models--(?P<repo>.+)")
_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def repository_of(folder: Path) -> str | None:
    """Return the model repository (`org/name`) of a folder in a Hub cache, by its name; else None."""
    found = _REPOSITORY.fullmatch(folder.name)
    return found["repo"].replace("--", "/", 1) if found else None


def is_hub_blob(path: Path) -> bool:
    """Return whether a path leads to a blob of a model in a Hub cache (`models--NAME/blobs/HASH`)."""
    real = path.resolve()
    return bool(_BLOB.fullmatch(real.name) and real.parent.name == "blobs" and repository_of(real.parent.parent))


def snapshot_of(folder: Path) -> Path:
    """Return the snapshot of a repository's folder in a Hub cache: the commit of its `refs/main`.

    Without that ref, as after the download of one revision, return the only snapshot. Raises CheckpointError, listing
    the snapshots, if it is not in the cache or there are several.
    """
    found = sorted(path for path in (folder / "snapshots").glob("*") if path.is_dir())
    names = ", ".join(path.name for path in found[:6]) or "none"
    try:
        commit = read_regular(folder / "refs" / "main").decode("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        if len(found) == 1:
            return found[0]
        raise CheckpointError(
            f"{folder}: is a repository in the Hub's cache without refs/main. Use one of its snapshots: {names}."
        ) from None
    if not COMMIT.fullmatch(commit) or not (folder / "snapshots" / commit).is_dir():
        raise CheckpointError(
            f"{folder}: its refs/main names the snapshot {commit[:40]!r}, which does not exist. Download it again, or "
            f"use one of its snapshots: {names}."
        )
    return folder / "snapshots" / commit


@dataclass(frozen=True)
class RepoCache:
    """The folder of one repository in the cache."""

    repo: str
    repo_type: str = "model"

    @property
    def _name(self) -> str:
        return f"{self.repo_type}s--" + self.repo.replace("/", "--")

    @property
    def folder(self) -> Path:
        return cache_folder() / self._name

    def snapshot(self, commit: str) -> Path:
        """Return the folder for a commit's files, whether it exists or not."""
        return self.folder / "snapshots" / commit

    def commit_of(self, revision: str | None) -> str | None:
        """Return the commit of a revision when it was last seen; None if it never was."""
        revision = revision or "main"
        if COMMIT.fullmatch(revision):
            return revision if self.snapshot(revision).is_dir() else None
        try:
            commit = read_regular(self.folder / "refs" / revision).decode("utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None
        return commit if COMMIT.fullmatch(commit) else None

    def remember(self, revision: str | None, commit: str) -> None:
        """Record the commit of a branch or tag, if the cache can be written."""
        revision = revision or "main"
        if revision == commit:
            return
        path = self.folder / "refs" / revision
        try:
            if not path.is_file() or read_regular(path) != commit.encode():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_text(path, commit)
        except (OSError, OutputError) as e:
            _log.debug("%s: %s", path, e)
