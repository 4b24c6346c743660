"""Parse references to models and data sets on the Hub: `hub:org/name`, with a revision or a file."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pa_lite.errors import CheckpointError, HubError, InputError
from pa_lite.untrusted.safe_names import path_fault

PREFIX = "hub:"
COMMIT = re.compile(r"[0-9a-f]{40}")
_PART = r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?"
_REFERENCE = re.compile(rf"hub:(?P<repo>{_PART}/{_PART})(?:/(?P<file>[^@]+))?(?:@(?P<revision>[^\s@]+))?", re.A)
_REPO = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.A)
_REVISION = re.compile(r"[^\s/:?#\\][^\s:?#\\]*")


@dataclass(frozen=True, kw_only=True)
class HubReference:
    """A model (or `repo_type` "dataset") on the Hub: `org/name`, a branch, tag or commit, and a file in it.

    `is_guess`: it was written as `org/name`, which could also be a folder. Raises InputError for an invalid repository
    name or revision.
    """

    repo: str
    revision: str | None = None
    repo_type: str = "model"
    file: str | None = None
    is_guess: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        if not _REPO.fullmatch(self.repo) or ".." in self.repo or "--" in self.repo:
            raise InputError(f"{self.repo!r} is not a valid repository name; write org/name.")
        if self.revision is not None and (not _REVISION.fullmatch(self.revision) or ".." in self.revision):
            raise InputError(f"{self.revision!r} is not a valid branch, tag or commit.")

    def __str__(self) -> str:
        file = f"/{self.file}" if self.file else ""
        return f"{PREFIX}{self.repo}{file}" + (f"@{self.revision}" if self.revision else "")

    @property
    def name(self) -> str:
        """Return the model's name without its owner."""
        return self.repo.rpartition("/")[2]

    @property
    def label(self) -> str:
        """Return the name for errors, without the file and with a short commit."""
        prefix = "" if self.is_guess else PREFIX if self.repo_type == "model" else "dataset "
        revision = self.revision[:8] if self.revision and COMMIT.fullmatch(self.revision) else self.revision
        return prefix + self.repo + (f"@{revision}" if revision else "")

    @property
    def page(self) -> str:
        """Return the address of its page."""
        return f"{endpoint()}/{'datasets/' if self.repo_type == 'dataset' else ''}{self.repo}"

    def error(self, message: str, is_passing: bool = False) -> HubError:
        """Return an error about it; `is_passing` for one that may be temporary."""
        start = "is not a folder here, and " if self.is_guess else ""
        return HubError(f"{self.label}: {start}{message}", is_passing)


Location = Path | HubReference


def parse_hub(text: str) -> HubReference:
    """Read `hub:org/name[@revision]`, or `hub:org/name/FILE[@revision]`. Raises InputError for anything else."""
    found = _REFERENCE.fullmatch(text)
    if found is None or ".." in text or "--" in found["repo"]:
        raise InputError(f"{text!r} is not a Hub reference; write hub:org/name or hub:org/name@revision.")
    if found["file"]:
        check_name(found["file"], text)
    return HubReference(repo=found["repo"], revision=found["revision"], file=found["file"])


def check_name(name: str, where: str) -> None:
    """Raise CheckpointError for a file name that leads out of the folder or is not valid on every system."""
    if fault := path_fault(name):
        raise CheckpointError(f"{where}: the file {name!r} cannot be downloaded: its name {fault}.")


def locate(where: str | Location) -> Location:
    """Return a location: on the Hub if the string starts with `hub:`, else a path. Raises InputError."""
    if isinstance(where, str):
        if not where.strip() or "\0" in where:
            raise InputError(f"{where!r} does not name a checkpoint. Name a folder, a file, or hub:org/name.")
        return parse_hub(where) if where.startswith(PREFIX) else Path(where)
    return where


def endpoint() -> str:
    """Return the Hub's address: HF_ENDPOINT, else the public one. Raises InputError for an invalid address."""
    text = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    try:
        parts = urlsplit(text)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise InputError(f"HF_ENDPOINT is {text!r}, not an address such as https://huggingface.co.")
    return text
