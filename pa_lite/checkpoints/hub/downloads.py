"""Download files into the Hub's cache: small ones with huggingface_hub, large ones so that they can be resumed.

After a kill huggingface_hub (1.33 and 2.4) starts a download again from the beginning, and it checks no hash. So large
files are downloaded by ranges, and the hash of every file is checked here.
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
from pa_lite.progress import Counter, Progress
from pa_lite.system.atomic import NO_MARKER, sync_folder, write_errors
from pa_lite.system.markers import DOWNLOAD, INCOMPLETE, marker_of, take_claim
from pa_lite.system.opening import NotPlainError, is_link, open_or_create, open_own, open_regular, remove_open, type_of

_PIECE = 1 << 20
_FIRST = 1 << 16  # bytes that are compared to recognise a file without a marker
_SMALL = 4 << 20  # files up to this many bytes are not resumed
_KEPT = "what was downloaded is kept. Free some space and retry, or set HF_HUB_CACHE to a larger disk."


class Sum(Counter):
    """Counts the bytes of several downloads for one bar; all of them end when `stop` is set."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        super().__init__(progress, "download", total, "B")
        self.stop = threading.Event()


def add_file(reference: HubReference, facts: FileFacts, total: Sum) -> Path:
    """Download a file unless it is in the cache; return its path in the commit's snapshot.

    Unfinished downloads are resumed. Raises HubError if the file is not available or differs from the Hub's
    description, OutputError if the disk is full.
    """
    reference = replace(reference, revision=facts.commit)
    cache = RepoCache(reference.repo, reference.repo_type)
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
    """Download a file with huggingface_hub, sync it and check its hash."""
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
            reference.repo, reference.file or "", revision=reference.revision, repo_type=reference.repo_type,
            cache_dir=cache_folder(), endpoint=endpoint(), library_name="pa-lite", etag_timeout=TIMEOUT,
            tqdm_class=_silent_bar(),
        )  # fmt: skip
    except (LocalEntryNotFoundError, FileMetadataError) as e:  # OSErrors about the network
        raise e.__cause__ if isinstance(e.__cause__, HTTPError) else ValueError(str(e)) from e
    except OSError as e:
        if e.errno is None and not isinstance(e, ConnectionError):  # another size than the Hub described
            raise _damaged(reference, str(e).partition("\n")[0]) from e
        raise


def _silent_bar() -> Any:
    """Return a tqdm class for huggingface_hub that shows nothing, as our bar counts its files."""
    from tqdm import tqdm

    class Silent(tqdm):  # type: ignore[misc]
        def __init__(self, *values: Any, **settings: Any) -> None:
            super().__init__(*values, **{**settings, "disable": True})

    return Silent


def _damaged(reference: HubReference, fault: str) -> HubError:
    return reference.error(f"{reference.file} arrived damaged: {fault}. Nothing was kept; retry.")


class _Hash:
    """The possible hashes in an ETag: SHA-256 for large files, git's blob id for others, or SHA-1 (some mirrors)."""

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
        """Hash the rest of a file."""
        while piece := file.read(_PIECE):
            self.update(piece)

    def is_right(self) -> bool:
        """Return whether the content has this tag; True for a tag that is not a known hash."""
        return not self._digests or self._tag in [digest.hexdigest() for digest in self._digests]


def _check_lock(lock: Path) -> None:
    """Raise OutputError for a lock file that huggingface_hub would follow as a link or wait for forever."""
    with contextlib.suppress(FileNotFoundError):
        file_type = type_of(lock.lstat())
        if file_type is not None:
            raise OutputError(
                f"{lock}: is a {file_type}, not a regular file. Remove it, or set HF_HUB_CACHE to another folder."
            )


def _link(blob: Path, place: Path) -> None:
    """Link the name in the snapshot to the blob, with a relative link if the system allows it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if is_link(place):
        place.unlink(missing_ok=True)  # a link to a blob that was removed
    try:
        os.symlink(os.path.relpath(blob, place.parent), place)
    except OSError:  # Windows only allows symbolic links for developers
        with contextlib.suppress(OSError):
            os.link(blob, place)
        if not place.exists():
            blob.replace(place)  # as huggingface_hub does


def _fetch_large(reference: HubReference, facts: FileFacts, blob: Path, total: Sum) -> None:
    """Download or resume a blob, and check its hash before giving it its name."""
    partial = blob.with_name(blob.name + INCOMPLETE)
    content, remote = _Hash(facts), RemoteFile(reference, facts)
    try:
        with _claimed(partial, remote, total.stop) as (f, finish):
            if blob.exists():  # another process downloaded it while we waited
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
            f"{e.filename}: is in the way of a download: {e.strerror}. Move or delete it, or set "
            "HF_HUB_CACHE to another folder."
        ) from e
    if not content.is_right():
        raise _damaged(reference, f"its hash is not {facts.etag}")
    sync_folder(blob.parent)


@contextlib.contextmanager
def _claimed(
    partial: Path, remote: RemoteFile, stop: threading.Event
) -> Iterator[tuple[BinaryIO, Callable[[Path | None], None]]]:
    """Open or create the file of a download, locked and with a marker.

    The yielded function renames it, or with None removes it, and removes the marker; if it is not called, both stay for
    the next try. Raises NotPlainError for a file without a marker that does not start like this content.
    """
    marker = marker_of(partial)
    if os.path.lexists(partial) and not os.path.lexists(marker):
        with open_own(partial) as file:
            if not _begins(file, remote, stop):
                raise NotPlainError(partial, NO_MARKER)
    with take_claim(partial, DOWNLOAD) as lock:
        file, _ = open_or_create(partial)

        def finish(target: Path | None) -> None:
            if os.name != "posix":
                file.close()  # on Windows an open file cannot be renamed
            if target is not None:
                partial.replace(target)
            else:
                partial.unlink(missing_ok=True)
            remove_open(lock, marker)

        with file:
            yield file, finish


def _begins(file: BinaryIO, remote: RemoteFile, stop: threading.Event) -> bool:
    """Return whether a file without a marker (from 0.1.0) starts with the first bytes of this content."""
    first = file.read(min(_FIRST, remote.size))
    return first == b"".join(remote.pieces(0, len(first), stop))
