"""Downloads into the Hub's cache: small files by huggingface_hub, large ones so that the next process can resume them.

huggingface_hub (1.33 and 2.4) starts a download anew after a kill and checks no hash. Hence large files come by ranges,
and every content's hash is checked here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from pa_lite.checkpoints.hub.cache import RepoCache, cache_folder
from pa_lite.checkpoints.hub.http import PATIENT, TIMEOUT, FileFacts, attempt
from pa_lite.checkpoints.hub.ranges import RemoteFile
from pa_lite.checkpoints.hub.references import HubReference, endpoint
from pa_lite.errors import HubError, OutputError
from pa_lite.system.atomic import NO_MARKER, sync_folder, write_errors
from pa_lite.system.markers import DOWNLOAD, INCOMPLETE, marker_of, remove_held, take_claim
from pa_lite.system.opening import NotPlainError, create_file, is_link, kind_of, open_own, open_regular

Progress = Callable[[int, int], None]
_PIECE = 1 << 20
_FIRST = 1 << 16  # bytes that tell whose a file without a marker is
_SMALL = 4 << 20  # bytes that are fetched anew after a kill
_KEPT = "what came is kept. Free some space and try again, or let HF_HUB_CACHE name a larger disk."


class Sum:
    """Adds up what several downloads bring, for one bar, and ends them all when `stop` is set."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.total, self.done = total, 0
        self.stop = threading.Event()
        self._progress, self._lock = progress, threading.Lock()

    def add(self, n: int) -> None:
        with self._lock:
            self.done += n
            if self._progress is not None:
                self._progress(self.done, self.total)


def add_file(reference: HubReference, facts: FileFacts, total: Sum) -> Path:
    """Bring a file into the cache, unless it is there, and return its place in the commit's snapshot.

    A download that broke off earlier is resumed. Raises HubError when the file cannot be had or is not what the Hub
    describes, OutputError when there is no room.
    """
    reference = replace(reference, revision=facts.commit)
    cache = RepoCache(reference.repo, reference.kind)
    place = cache.snapshot(facts.commit) / (reference.file or "")
    blob = cache.folder / "blobs" / facts.etag
    with write_errors(cache.folder, _KEPT):
        if place.exists() or blob.exists():
            total.add(facts.size)
        elif facts.size > _SMALL:
            blob.parent.mkdir(parents=True, exist_ok=True)
            _fetch_large(reference, facts, blob, total)
        else:
            _check_lock(cache_folder() / ".locks" / cache.folder.name / f"{facts.etag}.lock")
            _fetch_small(reference, facts, place)
            total.add(facts.size)
        if not place.exists():
            _link(blob, place)
    return place


def _fetch_small(reference: HubReference, facts: FileFacts, place: Path) -> None:
    """Let huggingface_hub fetch a file to its place, and check its hash and that it is on the disk."""
    attempt(lambda: _download(reference), reference, PATIENT)
    content = _Hash(facts)
    with open_regular(place) as file:
        content.read(file)
        os.fsync(file.fileno())
    if not content.is_right():
        for name in {place, place.resolve()}:
            name.unlink()
        raise _damaged(reference, f"its hash is not {facts.etag}")


def _download(reference: HubReference) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import FileMetadataError, HTTPError, LocalEntryNotFoundError

    try:
        hf_hub_download(
            reference.repo, reference.file or "", revision=reference.revision, repo_type=reference.kind,
            cache_dir=cache_folder(), endpoint=endpoint(), library_name="pa-lite", etag_timeout=TIMEOUT,
            tqdm_class=_silent_bar(),
        )  # fmt: skip
    except (LocalEntryNotFoundError, FileMetadataError) as e:  # OSErrors, but of the network
        raise e.__cause__ if isinstance(e.__cause__, HTTPError) else ValueError(str(e)) from e
    except OSError as e:
        if e.errno is None and not isinstance(e, ConnectionError):  # another length than the Hub described
            raise _damaged(reference, str(e).partition("\n")[0]) from e
        raise


def _silent_bar() -> Any:
    """A bar for huggingface_hub that shows nothing: ours counts its files."""
    from tqdm import tqdm

    class Silent(tqdm):  # type: ignore[misc]
        def __init__(self, *values: Any, **settings: Any) -> None:
            super().__init__(*values, **{**settings, "disable": True})

    return Silent


def _damaged(reference: HubReference, told: str) -> HubError:
    return reference.error(f"{reference.file} arrived damaged: {told}. None of it was kept; try again.")


class _Hash:
    """What may have made a content's tag: SHA-256 for large files, git's blob id for others, a mirror's own SHA-1."""

    def __init__(self, facts: FileFacts) -> None:
        self._tag = facts.etag
        self._digests: list[Any] = []
        if len(facts.etag) == 64:
            self._digests = [hashlib.sha256()]
        elif len(facts.etag) == 40:
            starts = (b"blob %d\0" % facts.size, b"")
            self._digests = [hashlib.sha1(start, usedforsecurity=False) for start in starts]

    def update(self, piece: bytes) -> None:
        for digest in self._digests:
            digest.update(piece)

    def read(self, file: BinaryIO) -> None:
        """Add the rest of a file."""
        while piece := file.read(_PIECE):
            self.update(piece)

    def is_right(self) -> bool:
        """Whether what was added has the tag; also for a tag that no known hash makes."""
        return not self._digests or self._tag in [digest.hexdigest() for digest in self._digests]


def _check_lock(lock: Path) -> None:
    """Raise OutputError for a lock that huggingface_hub would open wherever it leads, or wait for without end."""
    with contextlib.suppress(FileNotFoundError):
        kind = kind_of(lock.lstat())
        if kind is not None:
            raise OutputError(
                f"{lock}: is a {kind}, not a file to lock. Remove it, or let HF_HUB_CACHE name another folder."
            )


def _link(blob: Path, place: Path) -> None:
    """Let the snapshot's name stand for the blob: a relative link, or what else the system allows."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if is_link(place):
        place.unlink(missing_ok=True)  # a link to a blob that was removed
    try:
        place.symlink_to(os.path.relpath(blob, place.parent))
    except OSError:  # Windows has symbolic links for developers alone
        with contextlib.suppress(OSError):
            os.link(blob, place)
        if not place.exists():
            blob.replace(place)  # as huggingface_hub does


def _fetch_large(reference: HubReference, facts: FileFacts, blob: Path, total: Sum) -> None:
    """Fetch a content to its blob, going on with what an earlier try left, and check its hash before it counts."""
    partial = blob.with_name(blob.name + INCOMPLETE)
    content, remote = _Hash(facts), RemoteFile(reference, facts)
    try:
        with _claimed(partial, remote, total.stop) as (f, finish):
            if blob.exists():  # another process that was waited for has brought it
                total.add(facts.size)
                finish(None)
                return
            if f.seek(0, os.SEEK_END) > facts.size:
                f.truncate(0)
            held = f.seek(0, os.SEEK_END)
            f.seek(0)
            content.read(f)
            total.add(held)
            for piece in remote.pieces(held, facts.size, total.stop):
                f.write(piece)
                content.update(piece)
                total.add(len(piece))
            f.flush()
            os.fsync(f.fileno())
            finish(blob if content.is_right() else None)
    except NotPlainError as e:
        raise OutputError(
            f"{e.filename}: is in the way of a download: {e.strerror}. Move it elsewhere or delete it yourself, or let "
            "HF_HUB_CACHE name another folder."
        ) from e
    if not content.is_right():
        raise _damaged(reference, f"its hash is not {facts.etag}")
    sync_folder(blob.parent)


@contextlib.contextmanager
def _claimed(
    partial: Path, remote: RemoteFile, stop: threading.Event
) -> Iterator[tuple[BinaryIO, Callable[[Path | None], None]]]:
    """The file of a download, open, locked and marked as ours; made if need be.

    The function renames it, or removes it where it gets None, and the marker with it; else both stay for the next try.
    Raises NotPlainError for a file that is not ours, and no beginning of this content either.
    """
    marker = marker_of(partial)
    if os.path.lexists(partial) and not os.path.lexists(marker):
        with open_own(partial) as file:
            if not _begins(file, remote, stop):
                raise NotPlainError(partial, NO_MARKER)
    with take_claim(partial, DOWNLOAD) as lock:
        try:
            file = create_file(partial)
        except FileExistsError:
            file = open_own(partial)

        def finish(target: Path | None) -> None:
            if os.name != "posix":
                file.close()  # there an open file cannot be renamed, nor removed by others
            if target is not None:
                partial.replace(target)
            else:
                partial.unlink(missing_ok=True)
            remove_held(lock, marker)

        with file:
            yield file, finish


def _begins(file: BinaryIO, remote: RemoteFile, stop: threading.Event) -> bool:
    """Whether a file without a marker, as 0.1.0 left them, holds the first bytes of this very content."""
    first = file.read(min(_FIRST, remote.size))
    return first == b"".join(remote.pieces(0, len(first), stop))
