"""Find and remove temporary files that killed processes of pa-lite left behind.

A file is removed only if a marker in its content, or in a file next to it, proves that pa-lite wrote it (see
`markers`). Files that only have a name as an older pa-lite gave it are listed and never removed.
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
_LIST = ".done"  # suffix of the list of tensors that an unfinished merge has completed
# names that pa-lite 0.1.0 used, without a marker: such files are listed and never removed
_OLD_FOLDER = re.compile(rf"{FOLDER_PREFIX}\d+-[a-z0-9_]{{8}}|\.harness\.[0-9a-f]{{12}}\.part")
_OLD_BLOB = re.compile(r"[\w.-]{8,128}\.pa-lite\.incomplete")
_OLD_LIST = re.compile(rb"[0-9a-f]{64}\n")
_MOST_READ = 1 << 26  # bytes of a journal or list that are read


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """A temporary file or folder, with the files that belong to it.

    `nbytes` is the size of them all, `age` the seconds since the last write. `loses` says what removing it would lose,
    empty if nothing. `in_use` is set while a process holds it. `marker` is the file that proves it is pa-lite's, None
    without proof: then it is never removed. `seen` has the file's facts when it was found.
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
        """Whether a marker proves that it is pa-lite's and no process holds it."""
        return self.marker is not None and not self.in_use


def temporary_files() -> Path:
    """Return the system's folder for temporary files."""
    return Path(tempfile.gettempdir())


def find_leftovers(folders: Sequence[Path], deep: bool = False) -> list[Leftover]:
    """Return pa-lite's temporary files in folders, with `deep` also in all folders below; sorted by path, each once.

    Links are not followed, and unreadable entries are left out. Raises InputError for a folder that does not exist.
    """
    found: dict[Path, Leftover] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: does not exist or is not a folder.")
        for path in _entries(folder, deep):
            try:
                leftover = _leftover(path)
            except OSError:
                continue  # deleted meanwhile, or not readable
            if leftover is not None:
                found[path.parent.resolve() / path.name] = leftover
    return [found[path] for path in sorted(found)]


def find_downloads(cache: Path) -> list[Leftover]:
    """Return unfinished downloads of pa-lite in a Hub cache; an empty list where there is no cache."""
    return find_leftovers([folder for folder in cache.glob("*--*") if folder.is_dir()], deep=True)


def remove(leftover: Leftover) -> bool:
    """Remove a leftover and return True; return False if a process holds it by now, or it is another file by now.

    Raises OutputError when it cannot be removed, or has no marker.
    """
    if leftover.marker is None:
        raise OutputError(f"{leftover.path}: has no marker of pa-lite, so it stays. Delete it yourself if you like.")
    try:
        if leftover.marker == marker_of(leftover.path):
            return remove_marked(leftover.marker, leftover.seen)
        return _remove_own(leftover)
    except NotPlainError as e:
        raise OutputError(f"{e.filename}: cannot be removed: {e.strerror}.") from e
    except OSError as e:
        raise OutputError(f"{e.filename or leftover.path}: cannot be removed: {e.strerror}.") from e


def _remove_own(leftover: Leftover) -> bool:
    """Remove a file that begins with a marker, or a merge with its list, after reading the markers under a lock."""
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
    """Return whether to leave a folder out of the search: it is a junction, or marked as one temporary folder."""
    try:
        return type_of(folder.lstat()) != "folder" or _marked(folder) is not None
    except OSError:
        return True


def _marked(path: Path) -> Marker | None:
    """Return the marker in the marker file of a path, None without one."""
    marker = marker_of(path)
    entry = marker_at(marker)
    return entry if entry is not None and marked_name(marker, entry) == path.name else None


def _leftover(path: Path) -> Leftover | None:
    """Return an entry of a folder as a leftover, None for what pa-lite did not write. Raises OSError."""
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
        return _described(path, facts, "marker of a file that was deleted", marker=path) if alone else None
    if path.name.endswith(".part" + _LIST):
        return _lonely_list(path, facts)
    found = _PARTIAL.fullmatch(path.name)
    if found is not None and target_of(path.name) is None:
        return _partial(path, facts, found[1])
    if found is not None:
        return _described(path, facts, "file that was being written")
    return _described(path, facts, "unfinished download") if _OLD_BLOB.fullmatch(path.name) else None


def _of(marker: Path) -> Path:
    return marker.with_name(marker.name.removesuffix(ENDING))


def _beside_its_marker(path: Path, facts: os.stat_result, entry: Marker) -> Leftover | None:
    """Return an entry that has a marker file, by what the marker says."""
    names = {FILE: "file that was being written", FOLDER: "temporary folder", DOWNLOAD: "unfinished download"}
    if entry["kind"] not in names or (entry["kind"] == FOLDER) != (type_of(facts) == "folder"):
        return None
    loses = f"{_size(path) / 1e6:.1f} MB fetched" if entry["kind"] == DOWNLOAD else ""
    marker = marker_of(path)
    return _described(path, facts, names[entry["kind"]], (marker,), loses, marker)


def _partial(path: Path, facts: os.stat_result, target: str) -> Leftover | None:
    """Return the unfinished file of a merge or of a run of results, recognised by its content."""
    listed = path.with_name(path.name + _LIST)
    entry = marker_at(listed)
    with open_regular(path) as file:
        start = file.read(4)
        if entry is not None and entry["kind"] == MERGE and entry["of"] == path.name:
            if not merge_proves(entry, file):
                return _described(path, facts, f"merge of {target}") if start in (b"", b"GGUF") else None
            n = _lines(listed) - 1
            loses = f"{n} merged tensors; merge --resume would continue from there" if n > 0 else ""
            return _described(path, facts, f"merge of {target}", (listed,), loses, listed)
        if start.startswith(b"{"):
            head = read_results_head(file)
            if head is None:
                return None
            lines = read_at_most(file, _MOST_READ).split(b"\n")[:-1]
            n = sum(line.startswith(b'{"place"') for line in lines)
            loses = f"{n} of {head['n']} results; --resume would continue from there" if n else ""
            return _described(path, facts, f"run of {target}", (), loses, path)
        if start in (b"", b"GGUF"):
            companions = (listed,) if _is_old_list(listed) else ()
            return _described(path, facts, f"merge of {target}", companions)
    return None


def _is_old_list(path: Path) -> bool:
    """Return whether a file is a list of tensors as 0.1.0 wrote it: it begins with a digest and has no marker."""
    try:
        with open_regular(path) as file:
            return bool(_OLD_LIST.match(file.read(65)))
    except OSError:
        return False


def _lonely_list(path: Path, facts: os.stat_result) -> Leftover | None:
    """Return the list of a merge whose file was deleted; with that file present, the list belongs to it."""
    if os.path.lexists(path.with_name(path.name.removesuffix(_LIST))):
        return None
    entry = marker_at(path)
    if entry is not None and entry["kind"] == MERGE:
        return _described(path, facts, "list of a merge that was deleted", marker=path)
    return _described(path, facts, "list of a merge that was deleted") if _is_old_list(path) else None


def _lines(path: Path) -> int:
    with open_own(path) as file:
        return read_at_most(file, _MOST_READ).count(b"\n")


def _size(path: Path) -> int:
    """Return about how many bytes a file, or all files of a folder, take on the disk."""
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
    """Return the leftover; without a `marker`, only its name says that an older pa-lite may have written it."""
    nbytes = _size(path) + sum(_size(each) for each in companions)
    in_use = marker is not None and not (is_free(marker) and (marker in (path, marker_of(path)) or is_free(path)))
    return Leftover(
        path=path,
        companions=companions,
        what=what,
        nbytes=nbytes,
        age=age_of(path),
        loses=loses,
        in_use=in_use,
        marker=marker,
        seen=facts,
    )
