"""The Hub's cache on this machine, in huggingface_hub's own layout, so that every program shares what was fetched.

`blobs/TAG` holds contents, `snapshots/COMMIT/NAME` links to them, `refs/REVISION` names the commit last seen.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pa_lite.checkpoints.hub.http import FileFacts, Subject
from pa_lite.checkpoints.hub.ranges import RemoteContent
from pa_lite.errors import CheckpointError, HubError, OutputError
from pa_lite.system.atomic import NO_MARKER, sync_folder, whole_file, write_errors, write_text
from pa_lite.system.markers import DOWNLOAD, INCOMPLETE, marker_of, take_claim
from pa_lite.system.opening import (
    NotPlainError,
    is_link,
    open_or_create,
    open_own,
    open_regular,
    read_regular,
    remove_open,
    type_of,
)

_log = logging.getLogger(__name__)
_PIECE = 1 << 20
_FIRST = 1 << 16  # bytes that tell whose a file without a marker is
_KEPT = "what came is kept. Free some space and try again, or let HF_HUB_CACHE name a larger disk."


def cache_folder() -> Path:
    """HF_HUB_CACHE, else `hub` in HF_HOME, else in the user's cache, as huggingface_hub has it; read at each call."""
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
    """Return the model repository (`org/name`) whose part of a Hub cache a folder is, by its name; else None."""
    found = _REPOSITORY.fullmatch(folder.name)
    return found["repo"].replace("--", "/", 1) if found else None


def is_hub_blob(path: Path) -> bool:
    """Return whether a path leads to a content that some Hub cache holds of a model (`models--NAME/blobs/HASH`)."""
    real = path.resolve()
    return bool(_BLOB.fullmatch(real.name) and real.parent.name == "blobs" and repository_of(real.parent.parent))


def snapshot_of(folder: Path) -> Path:
    """Return the snapshot that a repository's folder in a Hub cache stands for: the commit of its `refs/main`.

    Without that ref, as after a download of one revision, the only snapshot. Raises CheckpointError, naming what there
    is, when it is not in the cache or there are several.
    """
    found = sorted(path for path in (folder / "snapshots").glob("*") if path.is_dir())
    names = ", ".join(path.name for path in found[:6]) or "none"
    try:
        commit = read_regular(folder / "refs" / "main").decode("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        if len(found) == 1:
            return found[0]
        raise CheckpointError(
            f"{folder}: is a repository in the Hub's cache without refs/main. Name one of its snapshots: {names}."
        ) from None
    if not re.fullmatch(r"[0-9a-f]{40}", commit) or not (folder / "snapshots" / commit).is_dir():
        raise CheckpointError(
            f"{folder}: its refs/main names the snapshot {commit[:40]!r}, which does not exist. Fetch it again, or "
            f"name one of its snapshots: {names}."
        )
    return folder / "snapshots" / commit


@dataclass(frozen=True)
class RepoCache:
    """One repository's part of the cache."""

    repo: str
    repo_type: str = "model"

    @property
    def _name(self) -> str:
        return f"{self.repo_type}s--" + self.repo.replace("/", "--")

    @property
    def folder(self) -> Path:
        return cache_folder() / self._name

    def snapshot(self, commit: str) -> Path:
        """The folder with a commit's files, whether it is there or not."""
        return self.folder / "snapshots" / commit

    def commit_of(self, revision: str | None) -> str | None:
        """The commit that a revision stood for when it was last seen; None if it never was."""
        revision = revision or "main"
        if re.fullmatch(r"[0-9a-f]{40}", revision):
            return revision if self.snapshot(revision).is_dir() else None
        try:
            commit = read_regular(self.folder / "refs" / revision).decode("utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None
        return commit if re.fullmatch(r"[0-9a-f]{40}", commit) else None

    def remember(self, revision: str | None, commit: str) -> None:
        """Note what a branch or tag stands for. A cache that cannot be written stays as it is."""
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

    def add(self, subject: Subject, facts: FileFacts, on_bytes: Callable[[int], None], stop: threading.Event) -> Path:
        """Bring a file into the cache, unless it is there, and return its place in the commit's snapshot.

        A download that broke off earlier is gone on with. `on_bytes` gets the number of bytes that each piece brings,
        `stop` ends it early. Raises HubError when the file cannot be had or is not what the Hub describes, OutputError
        when there is no room.
        """
        from huggingface_hub.utils import WeakFileLock

        assert subject.file is not None
        place = self.snapshot(facts.commit) / Path(*subject.file.split("/"))
        if place.exists():
            on_bytes(facts.size)
            return place
        blob = self.folder / "blobs" / facts.etag
        lock = cache_folder() / ".locks" / self._name / f"{facts.etag}.lock"
        with write_errors(self.folder, _KEPT):
            for folder in (blob.parent, place.parent, lock.parent):
                folder.mkdir(parents=True, exist_ok=True)
            _check_lock(lock)
            with WeakFileLock(lock):
                if not blob.exists():
                    _download(subject, facts, blob, on_bytes, stop)
                else:
                    on_bytes(facts.size)
                _link(blob, place)
        return place


def _check_lock(lock: Path) -> None:
    """Raise OutputError for a lock that huggingface_hub would open wherever it leads, or wait for without end."""
    with contextlib.suppress(FileNotFoundError):
        file_type = type_of(lock.lstat())
        if file_type is not None:
            raise OutputError(
                f"{lock}: is a {file_type}, not a file to lock. Remove it, or let HF_HUB_CACHE name another folder."
            )


def _link(blob: Path, place: Path) -> None:
    """Let the snapshot's name stand for the blob: a relative link, or what else the system allows."""
    if place.exists():
        return
    if is_link(place):
        place.unlink(missing_ok=True)  # a link to a blob that was removed
    try:
        place.symlink_to(os.path.relpath(blob, place.parent))
    except OSError:  # Windows has symbolic links for developers alone
        try:
            os.link(blob, place)
        except OSError:
            with whole_file(place) as copy, open_regular(blob) as whole:
                shutil.copyfileobj(whole, copy, _PIECE)
                copy.flush()
                os.fsync(copy.fileno())


def _download(
    subject: Subject, facts: FileFacts, blob: Path, on_bytes: Callable[[int], None], stop: threading.Event
) -> None:
    """Fetch a content to its blob, going on with what an earlier try left, and check its hash before it counts."""
    partial = blob.with_name(blob.name + INCOMPLETE)
    digests = _digests(facts)
    content = RemoteContent(subject, facts)
    try:
        with _claimed(partial, content, stop) as (f, finish):
            if f.seek(0, os.SEEK_END) > facts.size:
                f.truncate(0)
            held = f.seek(0, os.SEEK_END)
            f.seek(0)
            while piece := f.read(_PIECE):
                _update(digests, piece)
            on_bytes(held)
            for piece in content.pieces(held, facts.size, stop):
                f.write(piece)
                _update(digests, piece)
                on_bytes(len(piece))
            f.flush()
            os.fsync(f.fileno())
            if digests and facts.etag not in [digest.hexdigest() for digest in digests]:
                finish(None)
                raise HubError(
                    f"{subject}: {subject.file} arrived damaged: its hash is not {facts.etag}. None of it was kept; "
                    "try again."
                )
            finish(blob)
    except NotPlainError as e:
        raise OutputError(
            f"{e.filename}: is in the way of a download: {e.strerror}. Move it elsewhere or delete it yourself, or let "
            "HF_HUB_CACHE name another folder."
        ) from e
    sync_folder(blob.parent)


@contextlib.contextmanager
def _claimed(
    partial: Path, content: RemoteContent, stop: threading.Event
) -> Iterator[tuple[BinaryIO, Callable[[Path | None], None]]]:
    """The file of a download, open, locked and marked as ours; made if need be.

    The function renames it, or removes it where it gets None, and the marker with it; else both stay for the next try.
    Raises NotPlainError for a file that is not ours, and no beginning of this content either.
    """
    marker = marker_of(partial)
    if os.path.lexists(partial) and not os.path.lexists(marker):
        with open_own(partial) as file:
            if not _begins(file, content, stop):
                raise NotPlainError(partial, NO_MARKER)
    with take_claim(partial, DOWNLOAD) as lock:
        file, _ = open_or_create(partial)

        def finish(target: Path | None) -> None:
            if os.name != "posix":
                file.close()  # there an open file cannot be renamed, nor removed by others
            if target is not None:
                partial.replace(target)
            else:
                partial.unlink(missing_ok=True)
            remove_open(lock, marker)

        with file:
            yield file, finish


def _begins(file: BinaryIO, content: RemoteContent, stop: threading.Event) -> bool:
    """Whether a file without a marker, as 0.1.0 left them, holds the first bytes of this very content."""
    first = file.read(min(_FIRST, content.facts.size))
    return first == b"".join(content.pieces(0, len(first), stop))


def _digests(facts: FileFacts) -> list[Any]:
    """What may have made a content's tag: SHA-256 for large files, git's blob id for others, a mirror's own SHA-1."""
    if len(facts.etag) == 64:
        return [hashlib.sha256()]
    if len(facts.etag) == 40:
        return [hashlib.sha1(start, usedforsecurity=False) for start in (b"blob %d\0" % facts.size, b"")]
    return []


def _update(digests: list[Any], piece: bytes) -> None:
    for digest in digests:
        digest.update(piece)
