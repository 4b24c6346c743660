"""Mark temporary files and folders, so that only what pa-lite wrote is ever removed.

A marker is one line of JSON. Files in pa-lite's own formats begin with it; for anything else, NAME, it is in a file
`NAME.own` next to it. That file is created first, removed last, and locked while its process runs. A file without a
marker is not pa-lite's, whatever its name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from pa_lite.system.locks import take_lock
from pa_lite.system.opening import (
    NotPlainError,
    create_file,
    is_at,
    is_link,
    open_or_create,
    open_own,
    open_regular,
    remove_open,
    type_of,
)

ENDING = ".own"  # suffix of marker files
FOLDER_PREFIX = "pa-lite-"  # of folders in the system's temporary folder
FILE, FOLDER, DOWNLOAD, MERGE, RESULTS, VERDICT = "file", "folder", "download", "merge", "results", "verdict"
_MARKER_TYPES = (FILE, FOLDER, DOWNLOAD, MERGE, RESULTS, VERDICT)
_KEY, _FORMAT = "pa-lite temporary file", 1
_LONGEST = 1 << 16  # bytes of a marker
_ABANDONED = 86400.0  # seconds without a write after which a file counts as abandoned where files cannot be locked
_NAMED = re.compile(r"\.(.+)\.[0-9a-f]{12}\.part", re.DOTALL)
INCOMPLETE = ".pa-lite.incomplete"  # suffix of an unfinished download
# the only names for which a marker file counts, as anyone can put a marker file next to any file
_SHAPES = {
    FILE: _NAMED,
    FOLDER: re.compile(rf"{FOLDER_PREFIX}[0-9]+-[0-9a-f]{{8}}|\.harness\.[0-9a-f]{{12}}\.part"),
    DOWNLOAD: re.compile(rf".+{re.escape(INCOMPLETE)}", re.DOTALL),
}

Marker = dict[str, Any]


def marker_line(marker_type: str, of: str, **more: Any) -> bytes:
    """Return the marker line for `of`, the name of a file or folder; `more` are further entries."""
    assert marker_type in _MARKER_TYPES
    whole = {_KEY: _FORMAT, "kind": marker_type, "of": of, "pid": os.getpid(), "host": platform.node(), **more}
    return json.dumps(whole).encode("ascii") + b"\n"


def parse_marker(line: bytes) -> Marker | None:
    """Return the marker in a complete line, None for any other line."""
    if not line.startswith(b'{"' + _KEY.encode() + b'": ') or not line.endswith(b"\n") or len(line) > _LONGEST:
        return None
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or entry.get(_KEY) != _FORMAT or entry.get("kind") not in _MARKER_TYPES:
        return None
    known = type(entry.get("of")) is str and type(entry.get("pid")) is int and type(entry.get("host")) is str
    return entry if known else None


def read_marker(file: BinaryIO) -> Marker | None:
    """Return the marker at the start of an open file, None without one. Leaves the file position after it."""
    file.seek(0)
    return parse_marker(file.readline(_LONGEST + 1))


# the keys of `facts` in journals of pa-lite 0.1.0, which have no marker
_FACTS_THEN = (
    {"model", "chat template", "system prompt", "prompts", "options"},
    {"judge", "judge's prompt", "context", "outputs", "order"},
)


def read_results_head(file: BinaryIO) -> Marker | None:
    """Return the first line of an open journal of results, with `facts` and `n`; None for any other file.

    Leaves the file position after that line. Journals of pa-lite 0.1.0 are recognised by the keys of their facts.
    """
    file.seek(0)
    line = file.readline(_LONGEST + 1)
    entry = parse_marker(line)
    if entry is None and line.startswith(b'{"facts": {') and line.endswith(b"\n"):
        with contextlib.suppress(ValueError, RecursionError):
            entry = json.loads(line)
            if (
                list(entry) != ["facts", "n"]
                or not isinstance(entry["facts"], dict)
                or entry["facts"].keys() not in _FACTS_THEN
            ):
                return None
    elif entry is not None and entry["kind"] != RESULTS:
        return None
    if entry is None or type(entry.get("n")) is not int or not isinstance(entry.get("facts"), dict):
        return None
    return entry if all(isinstance(value, str) for value in entry["facts"].values()) else None


def merge_proves(marker: Marker, data: BinaryIO) -> bool:
    """Return whether an open file belongs to a merge: the marker of the merge's list has a digest of its start."""
    start = marker.get("start")
    if not (isinstance(start, list) and len(start) == 2 and type(start[0]) is int and 0 < start[0] <= _LONGEST):
        return False
    data.seek(0)
    held = data.read(start[0])
    return held.startswith(b"GGUF") and len(held) == start[0] and hashlib.sha256(held).hexdigest() == start[1]


def marker_of(path: Path) -> Path:
    """Return the path of the marker file of a file or folder."""
    return path.with_name(path.name + ENDING)


def target_of(temporary: str) -> str | None:
    """Return the final name of a temporary file, from its temporary name; None for any other name."""
    found = _NAMED.fullmatch(temporary)
    return found[1] if found else None


def marked_name(marker: Path, entry: Marker) -> str | None:
    """Return the name of the file or folder that a marker file marks.

    None where the marker belongs to another file, or where pa-lite does not give such names to temporary files of that
    type: a marker file that came with other people's files must not make a user's file removable.
    """
    name, shape = str(entry["of"]), _SHAPES.get(entry["kind"])
    is_ours = shape is not None and shape.fullmatch(name) is not None and not re.search(r"[/\\\0]", name)
    return name if is_ours and marker.name == name + ENDING else None


@contextlib.contextmanager
def claimed(path: Path, marker_type: str) -> Iterator[None]:
    """Mark `path`, which does not exist yet, as temporary during the block, which removes or renames it in the end.

    The marker file is removed only if `path` no longer exists. Raises OSError, FileExistsError where the name of the
    marker file is taken.
    """
    assert _SHAPES[marker_type].fullmatch(path.name), path.name  # else a killed run's file could not be removed later
    marker = marker_of(path)
    lock = create_file(marker, marker_line(marker_type, path.name), lock=True)
    try:
        yield
    finally:
        if os.name != "posix":
            lock.close()  # Windows cannot remove an open file
        if not os.path.lexists(path) and (lock.closed or is_at(lock.fileno(), marker)):
            marker.unlink(missing_ok=True)
        lock.close()


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Create a folder in the system's temporary folder, and remove it at the end.

    The folder of a killed process is recognised by its marker file, which no process locks.
    """
    folder = Path(tempfile.gettempdir(), f"{FOLDER_PREFIX}{os.getpid()}-{secrets.token_hex(4)}")
    with marked_folder(folder):
        yield folder


@contextlib.contextmanager
def marked_folder(folder: Path) -> Iterator[None]:
    """Create a folder that only this user can access, and remove it with its content at the end. Raises OSError."""
    with claimed(folder, FOLDER):
        folder.mkdir(mode=0o700)
        try:
            yield
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_marked(marker: Path, seen: os.stat_result | None = None) -> bool:
    """Remove what a marker file marks, then the marker file; return whether both are removed.

    Nothing is removed while a process holds the marker file, which is read again under its lock. `seen` has the facts
    of what the user agreed to remove: another file that has its name by now stays. Raises OSError.
    """
    with held(marker) as file:
        entry = read_marker(file) if file is not None else None
        name = marked_name(marker, entry) if entry is not None else None
        if file is None or entry is None or name is None:
            return False
        path = marker.with_name(name)
        try:
            facts = path.lstat()
        except FileNotFoundError:
            pass
        else:
            if seen is not None and not is_same(seen, facts):
                return False
            if not _remove(path, entry["kind"], facts):
                return False
        return remove_open(file, marker)


def is_same(one: os.stat_result, other: os.stat_result) -> bool:
    """Return whether two stat results describe the same file."""
    return (one.st_dev, one.st_ino, stat.S_IFMT(one.st_mode)) == (
        other.st_dev,
        other.st_ino,
        stat.S_IFMT(other.st_mode),
    )


def is_mine(facts: os.stat_result) -> bool:
    """Return whether a file belongs to this user; in shared folders other users can write markers too."""
    return not hasattr(os, "geteuid") or facts.st_uid == os.geteuid()


def _remove(path: Path, marker_type: str, facts: os.stat_result) -> bool:
    """Remove a marked file or folder if it is of the marked type and belongs to this user; return whether it did."""
    if not is_mine(facts):
        return False
    if marker_type == FOLDER:
        if not stat.S_ISDIR(facts.st_mode) or is_link(path):
            return False
        remove_tree(path, facts)
        return True
    if type_of(facts) is not None:
        return False
    path.unlink(missing_ok=True)
    return True


def remove_tree(folder: Path, facts: os.stat_result) -> None:
    """Remove a folder with all its content, without following links or entering other disks. Raises OSError.

    `facts` identify the folder: another one with that name by now stays, and so does what is on a disk mounted in it.
    """
    if os.name != "posix" or not shutil.rmtree.avoids_symlink_attacks:
        shutil.rmtree(folder)  # follows neither links nor junctions
        return
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(folder, flags)
    try:
        if not is_same(os.fstat(descriptor), facts):
            raise NotPlainError(folder, "it is another folder by now")
        _empty(descriptor, folder, facts.st_dev, flags)
        if is_at(descriptor, folder):
            folder.rmdir()
    finally:
        os.close(descriptor)


def _empty(descriptor: int, folder: Path, disk: int, flags: int) -> None:
    """Remove the content of an open folder."""
    for name in os.listdir(descriptor):
        facts = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        if not stat.S_ISDIR(facts.st_mode):
            os.unlink(name, dir_fd=descriptor)
            continue
        inner = os.open(name, flags, dir_fd=descriptor)
        try:
            if os.fstat(inner).st_dev != disk:
                raise NotPlainError(folder / name, "another disk is mounted there")
            _empty(inner, folder / name, disk, flags)
        finally:
            os.close(inner)
        os.rmdir(name, dir_fd=descriptor)


@contextlib.contextmanager
def held(path: Path) -> Iterator[BinaryIO | None]:
    """Open and lock a file that may begin with a marker; yield None if a process holds it or it is another user's.

    Where files cannot be locked, one that was not written to for a day counts as abandoned. Raises OSError.
    """
    try:
        file = open_own(path)
    except (FileNotFoundError, NotPlainError):
        yield None
        return
    with file:
        locked = take_lock(file.fileno())
        free = age_of(path) >= _ABANDONED if locked is None else locked
        yield file if free and is_mine(os.fstat(file.fileno())) and is_at(file.fileno(), path) else None


def is_free(path: Path) -> bool:
    """Return whether no running process holds a marker file, or a file that begins with a marker."""
    with held(path) as file:
        return file is not None


def age_of(path: Path) -> float:
    """Return the seconds since a file or folder was last written to; 0 for a time in the future."""
    return max(0.0, time.time() - path.lstat().st_mtime)


def marker_at(path: Path) -> Marker | None:
    """Return the marker at the start of a file; None for any other file or a missing one. Raises OSError."""
    try:
        if type_of(path.lstat()) is not None:
            return None
        with open_regular(path) as file:
            return read_marker(file)
    except (FileNotFoundError, NotPlainError):
        return None


def take_claim(path: Path, marker_type: str) -> BinaryIO:
    """Mark `path` as temporary, also beyond the end of this process; wait for a process that holds the marker file.

    Return the marker file, open and locked. Raises NotPlainError where another file has its name, other OSErrors.
    """
    assert _SHAPES[marker_type].fullmatch(path.name), path.name
    marker = marker_of(path)
    file, is_new = open_or_create(marker, marker_line(marker_type, path.name), float("inf"))
    try:
        entry = None if is_new else read_marker(file)
        if not is_new and (entry is None or entry["kind"] != marker_type or marked_name(marker, entry) != path.name):
            raise NotPlainError(marker, "it is not a marker of pa-lite")
    except BaseException:
        file.close()
        raise
    return file
