"""What killed processes left behind: temporary files of ours that nobody holds, found and removed.

Only what a marker in content proves is ours can be removed (see `markers`). What looks as if an older pa-lite had left
it, by its name, is listed and stays. Imports errors, markers, opening.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pa_lite.errors import InputError, OutputError
from pa_lite.system.markers import (
    DOWNLOAD,
    ENDING,
    FILE,
    FOLDER,
    FOLDER_PREFIX,
    MERGE,
    Marker,
    age_of,
    held,
    is_free,
    is_mine,
    is_same,
    marked_name,
    marker_at,
    marker_of,
    merge_proves,
    read_marker,
    read_results_head,
    remove_marked,
    target_of,
)
from pa_lite.system.opening import NotPlainError, open_own, open_regular, read_at_most, remove_open, type_of

_PARTIAL = re.compile(r"\.(.+)\.part")
_LIST = ".done"  # ending of the list of a merge's whole tensors
# names that pa-lite 0.1.0 gave, without a marker: what has one is shown, and stays
_OLD_FOLDER = re.compile(rf"{FOLDER_PREFIX}\d+-[a-z0-9_]{{8}}|\.harness\.[0-9a-f]{{12}}\.part")
_OLD_BLOB = re.compile(r"[\w.-]{8,128}\.pa-lite\.incomplete")
_OLD_LIST = re.compile(rb"[0-9a-f]{64}\n")
_MOST_READ = 1 << 26  # bytes of a journal or list that are looked at


@dataclass(frozen=True)
class Leftover:
    """A temporary file or folder and what belongs to it; size in bytes, `age` in seconds since it was written to.

    `loses` tells what goes with it, empty where nobody could make use of it. `in_use`: a process holds it. `marker` is
    the file that proves it ours, None where nothing does: such a file is never removed. `seen` is what was found.
    """

    path: Path
    companions: tuple[Path, ...]
    what: str
    nbytes: int
    age: float
    loses: str
    in_use: bool
    marker: Path | None
    seen: os.stat_result

    @property
    def is_removable(self) -> bool:
        """Whether it is ours and no process holds it."""
        return self.marker is not None and not self.in_use


def temporary_files() -> Path:
    """Return the system's folder for temporary files."""
    return Path(tempfile.gettempdir())


def find_leftovers(folders: Sequence[Path], deep: bool = False) -> list[Leftover]:
    """Return our temporary files in folders, with `deep` in all below them too; by path, each once.

    Links are not followed, and what cannot be looked at is left out. Raises InputError for a folder that is none.
    """
    found: dict[Path, Leftover] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: there is no such folder.")
        for path in _entries(folder, deep):
            try:
                leftover = _leftover(path)
            except OSError:
                continue  # gone in the meantime, or not ours to read
            if leftover is not None:
                found[path.parent.resolve() / path.name] = leftover
    return [found[path] for path in sorted(found)]


def find_downloads(cache: Path) -> list[Leftover]:
    """Return downloads of ours that broke off, in a cache of the Hub's layout; none where there is no cache."""
    return find_leftovers([folder for folder in cache.glob("*--*") if folder.is_dir()], deep=True)


def remove(leftover: Leftover) -> bool:
    """Remove one, unless a process holds it by now, or it is not what was found; whether it was removed.

    Raises OutputError when it cannot be removed, or has no marker.
    """
    if leftover.marker is None:
        raise OutputError(f"{leftover.path}: has no marker of pa-lite, so it stays. Delete it yourself if it may go.")
    try:
        if leftover.marker == marker_of(leftover.path):
            return remove_marked(leftover.marker, leftover.seen)
        return _remove_own(leftover)
    except NotPlainError as e:
        raise OutputError(f"{e.filename}: cannot be removed: {e.strerror}.") from e
    except OSError as e:
        raise OutputError(f"{e.filename or leftover.path}: cannot be removed: {e.strerror}.") from e


def _remove_own(leftover: Leftover) -> bool:
    """Remove a file that begins with its own marker, or a merge with its list, read again under their locks."""
    assert leftover.marker is not None
    with held(leftover.marker) as file:
        if file is None:
            return False
        if leftover.marker == leftover.path:
            same = is_same(leftover.seen, os.fstat(file.fileno()))
            known = read_marker(file) is not None or read_results_head(file) is not None
            return same and known and remove_open(file, leftover.path)
        entry = read_marker(file)
        if entry is None or entry["kind"] != MERGE:
            return False
        with held(leftover.path) as data:
            proven = data is not None and is_same(leftover.seen, os.fstat(data.fileno())) and merge_proves(entry, data)
            if data is None or not proven or not remove_open(data, leftover.path):
                return False
        return remove_open(file, leftover.marker)


def _entries(folder: Path, deep: bool) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        yield from (Path(parent, name) for name in (*folders, *files))
        if not deep:
            return
        folders[:] = [name for name in folders if not _is_left_out(Path(parent, name))]


def _is_left_out(folder: Path) -> bool:
    """Whether a folder is not searched: it is a junction, or marked as ours as a whole."""
    try:
        return type_of(folder.lstat()) != "folder" or _marked(folder) is not None
    except OSError:
        return True


def _marked(path: Path) -> Marker | None:
    """The entry of the marker's file beside a path, if there is one for it."""
    marker = marker_of(path)
    entry = marker_at(marker)
    return entry if entry is not None and marked_name(marker, entry) == path.name else None


def _leftover(path: Path) -> Leftover | None:
    """What an entry of a folder is, None for what is not ours. Raises OSError."""
    facts = path.lstat()
    file_type = type_of(facts)
    if not is_mine(facts) or file_type not in (None, "folder"):
        return None
    entry = _marked(path)
    if entry is not None:
        return _beside_its_marker(path, facts, entry)
    if file_type == "folder":
        return _described(path, facts, "temporary folder") if _OLD_FOLDER.fullmatch(path.name) else None
    if path.name.endswith(ENDING):
        own = marker_at(path)
        alone = own is not None and marked_name(path, own) is not None and not os.path.lexists(_of(path))
        return _described(path, facts, "marker of a file that is gone", marker=path) if alone else None
    if path.name.endswith(".part" + _LIST):
        return _lonely_list(path, facts)
    found = _PARTIAL.fullmatch(path.name)
    if found is not None and target_of(path.name) is None:
        return _partial(path, facts, found[1])
    if found is not None:
        return _described(path, facts, "file that was being written")
    return _described(path, facts, "download that broke off") if _OLD_BLOB.fullmatch(path.name) else None


def _of(marker: Path) -> Path:
    return marker.with_name(marker.name.removesuffix(ENDING))


def _beside_its_marker(path: Path, facts: os.stat_result, entry: Marker) -> Leftover | None:
    """What a marker's file beside it says that this is."""
    told = {FILE: "file that was being written", FOLDER: "temporary folder", DOWNLOAD: "download that broke off"}
    if entry["kind"] not in told or (entry["kind"] == FOLDER) != (type_of(facts) == "folder"):
        return None
    loses = f"{_size(path) / 1e6:.1f} MB fetched" if entry["kind"] == DOWNLOAD else ""
    marker = marker_of(path)
    return _described(path, facts, told[entry["kind"]], (marker,), loses, marker)


def _partial(path: Path, facts: os.stat_result, target: str) -> Leftover | None:
    """A merge's or a run's unfinished file, told by its content."""
    listed = path.with_name(path.name + _LIST)
    entry = marker_at(listed)
    with open_regular(path) as file:
        start = file.read(4)
        if entry is not None and entry["kind"] == MERGE and entry["of"] == path.name:
            if not merge_proves(entry, file):
                return _described(path, facts, f"merge of {target}") if start in (b"", b"GGUF") else None
            n = _lines(listed) - 1
            loses = f"{n} tensors that are merged; merge --resume would go on from there" if n > 0 else ""
            return _described(path, facts, f"merge of {target}", (listed,), loses, listed)
        if start.startswith(b"{"):
            head = read_results_head(file)
            if head is None:
                return None
            lines = read_at_most(file, _MOST_READ).split(b"\n")[:-1]
            n = sum(line.startswith(b'{"place"') for line in lines)
            loses = f"{n} of {head['n']} results; --resume would go on from there" if n else ""
            return _described(path, facts, f"run of {target}", (), loses, path)
        if start in (b"", b"GGUF"):
            companions = (listed,) if _is_old_list(listed) else ()
            return _described(path, facts, f"merge of {target}", companions)
    return None


def _is_old_list(path: Path) -> bool:
    """Whether a file is a list of whole tensors as 0.1.0 wrote it: it begins with a digest, and no marker."""
    try:
        with open_regular(path) as file:
            return bool(_OLD_LIST.match(file.read(65)))
    except OSError:
        return False


def _lonely_list(path: Path, facts: os.stat_result) -> Leftover | None:
    """A list whose merge is gone; one that is not alone belongs to its partial file."""
    if os.path.lexists(path.with_name(path.name.removesuffix(_LIST))):
        return None
    entry = marker_at(path)
    if entry is not None and entry["kind"] == MERGE:
        return _described(path, facts, "list of a merge that is gone", marker=path)
    return _described(path, facts, "list of a merge that is gone") if _is_old_list(path) else None


def _lines(path: Path) -> int:
    with open_own(path) as file:
        return read_at_most(file, _MOST_READ).count(b"\n")


def _size(path: Path) -> int:
    """Bytes that a file, or all files of a folder, take on the disk, about."""
    facts = path.lstat()
    if type_of(facts) != "folder":
        return min(facts.st_size, getattr(facts, "st_blocks", facts.st_size) * 512) or facts.st_size
    return sum(_size(Path(parent, name)) for parent, _, names in os.walk(path) for name in names)


def _described(
    path: Path,
    facts: os.stat_result,
    what: str,
    companions: tuple[Path, ...] = (),
    loses: str = "",
    marker: Path | None = None,
) -> Leftover:
    """Return what was found; without a `marker` only its name, which an older pa-lite may have given, tells of it."""
    nbytes = _size(path) + sum(_size(each) for each in companions)
    in_use = marker is not None and not (is_free(marker) and (marker in (path, marker_of(path)) or is_free(path)))
    return Leftover(path, companions, what, nbytes, age_of(path), loses, in_use, marker, facts)
