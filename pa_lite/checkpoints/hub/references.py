"""References to models and data sets on the Hub: `hub:org/name`, with a revision or a file."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
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


@dataclass(frozen=True)
class HubReference:
    """A model (or `repo_type` "dataset") on the Hub: `org/name`, a branch, tag or commit, and a file in it.

    Raises InputError for what cannot be the name of a repository or a revision.
    """

    repo: str
    revision: str | None = None
    repo_type: str = "model"
    file: str | None = None

    def __post_init__(self) -> None:
        if not _REPO.fullmatch(self.repo) or ".." in self.repo or "--" in self.repo:
            raise InputError(f"{self.repo!r} is no name on the Hub; write org/name.")
        if self.revision is not None and (not _REVISION.fullmatch(self.revision) or ".." in self.revision):
            raise InputError(f"{self.revision!r} is no branch, tag or commit on the Hub.")

    def __str__(self) -> str:
        file = f"/{self.file}" if self.file else ""
        return f"{PREFIX}{self.repo}{file}" + (f"@{self.revision}" if self.revision else "")

    @property
    def name(self) -> str:
        """The model's own name, without its owner's."""
        return self.repo.rpartition("/")[2]

    @property
    def label(self) -> str:
        """What errors call it: without the file, and with the first digits of a commit."""
        prefix = PREFIX if self.repo_type == "model" else "dataset "
        revision = self.revision[:8] if self.revision and COMMIT.fullmatch(self.revision) else self.revision
        return prefix + self.repo + (f"@{revision}" if revision else "")

    @property
    def page(self) -> str:
        """Where people read about it."""
        return f"{endpoint()}/{'datasets/' if self.repo_type == 'dataset' else ''}{self.repo}"

    def error(self, told: str, is_passing: bool = False) -> HubError:
        """What went wrong with it, as an error."""
        return HubError(f"{self.label}: {told}", is_passing)


Location = Path | HubReference


def parse_hub(text: str) -> HubReference:
    """Read `hub:org/name[@revision]`, or `hub:org/name/FILE[@revision]`. Raises InputError for anything else."""
    found = _REFERENCE.fullmatch(text)
    if found is None or ".." in text or "--" in found["repo"]:
        raise InputError(f"{text!r} is no reference to the Hub; write hub:org/name or hub:org/name@revision.")
    if found["file"]:
        check_name(found["file"], text)
    return HubReference(found["repo"], found["revision"], file=found["file"])


def check_name(name: str, where: str) -> None:
    """Raise CheckpointError for a file name that could lead out of the folder it is fetched to, or is no file's."""
    if fault := path_fault(name):
        raise CheckpointError(f"{where}: the file {name!r} cannot be fetched: its name {fault}.")


def locate(where: str | Location) -> Location:
    """Where a checkpoint lies: on the Hub if the text begins with `hub:`, else at a path. Raises InputError."""
    if isinstance(where, str):
        if not where.strip() or "\0" in where:
            raise InputError(f"{where!r} names no checkpoint. Name a folder, a file, or hub:org/name.")
        return parse_hub(where) if where.startswith(PREFIX) else Path(where)
    return where


def endpoint() -> str:
    """The Hub's address: HF_ENDPOINT, else the public one. Raises InputError for what is no address."""
    text = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    try:
        parts = urlsplit(text)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise InputError(f"HF_ENDPOINT is {text!r}, which is no address such as https://huggingface.co.")
    return text
