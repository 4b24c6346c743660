"""Upload files to a model repository on the Hub, in one commit, with huggingface_hub.

Large files go first and one by one: the Hub keeps each that arrived, so that after a lost connection the same upload
continues with the others. The commit, which makes them visible, comes last. Tokens are never part of a message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pa_lite.checkpoints.hub.http import TIMEOUT, attempt
from pa_lite.checkpoints.hub.references import HubReference, parse_hub
from pa_lite.checkpoints.hub.repositories import HubFile, hub_api, is_offline
from pa_lite.errors import HubError, InputError
from pa_lite.progress import Progress, silent
from pa_lite.sanitize import short_line
from pa_lite.system.opening import open_regular

_PIECE = 1 << 20
_AGAIN = "Run the same command again: what arrived is not sent twice."
_TOKENS = "log in with 'hf auth login', or set HF_TOKEN to a token with write access"


@dataclass(frozen=True)
class LocalFile:
    """A file to upload: its name in the repository, and its path, or its content if it is made for the upload."""

    name: str
    source: Path | bytes

    @property
    def size(self) -> int:
        """The number of bytes."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size

    def is_same(self, other: HubFile, blob: str) -> bool:
        """Return whether the Hub has the same content: by SHA-256 for large files, else by git's blob id."""
        if self.size != other.size:
            return False
        if other.sha256:
            return self._hash(hashlib.sha256()) == other.sha256
        return self._hash(hashlib.sha1(b"blob %d\0" % self.size)) == blob

    def _hash(self, digest: Any) -> str:
        if isinstance(self.source, bytes):
            digest.update(self.source)
        else:
            with open_regular(self.source) as file:
                while piece := file.read(_PIECE):
                    digest.update(piece)
        return str(digest.hexdigest())


@dataclass(frozen=True)
class RemoteFiles:
    """The files of an existing repository with git's blob ids, and whether it is private."""

    files: dict[str, tuple[HubFile, str]]
    is_private: bool


def writable_repository(text: str) -> HubReference:
    """Return the repository `org/name` to write to. Raises InputError for any other text."""
    try:
        found = parse_hub(text if text.startswith("hub:") else f"hub:{text}")
    except InputError:
        found = None
    if found is None or found.file or found.revision:
        raise InputError(f"{text!r:.200} is not a valid repository name; write org/name, or your own name as org.")
    return HubReference(repo=found.repo)


def check_token(reference: HubReference) -> None:
    """Raise HubError if no token is set, the Hub does not know it, or it can only read; also offline."""
    from huggingface_hub import get_token

    if is_offline():
        raise reference.error("cannot be uploaded to offline: HF_HUB_OFFLINE is set. Unset it.")
    if not get_token():
        raise reference.error(f"uploading requires a token: {_TOKENS}.")
    found = _ask(reference, lambda: hub_api().whoami())
    role = ((found.get("auth") or {}).get("accessToken") or {}).get("role") if isinstance(found, dict) else None
    if role == "read":
        raise reference.error(f"the token can only read: {_TOKENS}.")


def remote_files(reference: HubReference) -> RemoteFiles | None:
    """Return what the repository has; None if it does not exist. Raises HubError if the Hub cannot say."""
    from huggingface_hub.errors import RepositoryNotFoundError

    def ask() -> Any:
        try:
            return hub_api().repo_info(reference.repo, files_metadata=True, timeout=TIMEOUT)
        except RepositoryNotFoundError:
            return None

    info = _ask(reference, ask)
    if info is None:
        return None
    files = {}
    for each in info.siblings or ():
        sha256 = each.lfs.sha256 if each.lfs else None
        files[each.rfilename] = (HubFile(each.rfilename, each.size or 0, sha256), each.blob_id or "")
    return RemoteFiles(files, bool(info.private))


def create_repository(reference: HubReference, private: bool) -> None:
    """Create a model repository. Raises HubError if the token may not."""
    _ask(reference, lambda: hub_api().create_repo(reference.repo, private=private, exist_ok=True))


def upload_files(
    reference: HubReference, files: Sequence[LocalFile], message: str, progress: Progress | None = None
) -> str:
    """Upload files to an existing repository in one commit, and return the commit (40 hex digits).

    `progress` gets the bytes of the files that arrived. Raises HubError, saying what to do; a later call with the same
    files continues.
    """
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    api, report = hub_api(), silent if progress is None else progress
    repo, total, done = reference.repo, sum(file.size for file in files), 0
    were_disabled = are_progress_bars_disabled()
    disable_progress_bars()  # we show our own
    try:
        operations = []
        for file in files:
            report(f"upload {file.name}", done, total, "B")
            source = file.source if isinstance(file.source, bytes) else str(file.source)
            operations.append(CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=source))
            _send(reference, lambda: api.preupload_lfs_files(repo, [operations[-1]], free_memory=False))
            done += file.size
        report("commit", done, total, "B")
        made = _send(reference, lambda: api.create_commit(repo, operations, commit_message=message))
    finally:
        if not were_disabled:
            enable_progress_bars()
    return str(made.oid)


def _ask(reference: HubReference, call: Any) -> Any:
    """Return what a short request gives, with retries. Raises HubError, explained for someone who writes."""
    from huggingface_hub.errors import HTTPError

    def checked() -> Any:
        try:
            return call()
        except HTTPError as e:
            known = _explain(reference, e)
            if known is None:
                raise
        raise known  # not within the handler: what the Hub says of a token may quote it, and would be in a traceback

    return attempt(checked, reference)


def _send(reference: HubReference, call: Any) -> Any:
    """Return what an upload gives, which huggingface_hub retries itself. Raises HubError that says what to do."""
    from huggingface_hub.errors import HTTPError

    try:
        return call()
    except HubError:
        raise
    except (HTTPError, OSError, RuntimeError, ValueError) as e:
        if isinstance(e, ValueError) and "README.md" in str(e):
            raise InputError(f"README.md: the Hub refuses it: {' '.join(str(e).split())[:300]}") from e
        cause: BaseException | None = e
        while cause is not None and not isinstance(cause, HTTPError):
            cause = cause.__cause__ or cause.__context__
        known = _explain(reference, cause) if isinstance(cause, HTTPError) else None
        if known is None:
            response = getattr(cause, "response", None)
            said = f"HTTP {response.status_code}" if response is not None else short_line(str(cause or e))[:200]
            raise reference.error(f"the upload failed ({said.rstrip('.')}). {_AGAIN}", is_passing=True) from e
    raise known


def _explain(reference: HubReference, error: Any) -> HubError | None:
    """Return the error for a refusal to write; None for errors that reading has too."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    owner = reference.repo.partition("/")[0]
    if status == 401:
        return reference.error(f"the Hub does not know the token: {_TOKENS}.")
    if status == 403:
        return reference.error(f"the token may not write to {owner}: check the name, or {_TOKENS}.")
    return None
