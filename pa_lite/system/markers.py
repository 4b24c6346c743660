"""Marks of ownership: whatever the program may remove later says so in content that only the program writes.

A marker is one line of JSON. Files of our own format begin with it; beside anything else, NAME, lies a file
`NAME.own` that holds it. That one is made first, removed last, and locked while its process lives. What has no
marker is not ours, whatever its name is. Imports only opening.
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

ENDING = ".own"  # of the file beside what it marks
FOLDER_PREFIX = "pa-lite-"  # of folders among the system's temporary files
FILE, FOLDER, DOWNLOAD, MERGE, RESULTS, VERDICT = "file", "folder", "download", "merge", "results", "verdict"
_MARKER_TYPES = (FILE, FOLDER, DOWNLOAD, MERGE, RESULTS, VERDICT)
_KEY, _FORMAT = "pa-lite temporary file", 1
_LONGEST = 1 << 16  # bytes of a marker
_ABANDONED = 86400.0  # seconds without a change that make a file nobody's where nothing can be locked
_NAMED = re.compile(r"\.(.+)\.[0-9a-f]{12}\.part", re.DOTALL)
INCOMPLETE = ".pa-lite.incomplete"  # ending of a download that is not whole
# the only names that a marker beside a file or folder counts for: anybody can write a marker beside anything
_SHAPES = {
    FILE: _NAMED,
    FOLDER: re.compile(rf"{FOLDER_PREFIX}[0-9]+-[0-9a-f]{{8}}|\.harness\.[0-9a-f]{{12}}\.part"),
    DOWNLOAD: re.compile(rf".+{re.escape(INCOMPLETE)}", re.DOTALL),
}

Marker = dict[str, Any]


def marker_line(marker_type: str, of: str, **more: Any) -> bytes:
    """Return the line that marks `of`, a file's or folder's name, as ours; `more` is written with it."""
    assert marker_type in _MARKER_TYPES
    whole = {_KEY: _FORMAT, "kind": marker_type, "of": of, "pid": os.getpid(), "host": platform.node(), **more}
    return json.dumps(whole).encode("ascii") + b"\n"


def parse_marker(line: bytes) -> Marker | None:
    """Return what a whole line says if it is a marker, else None."""
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
    """Return the marker with which an open file begins; None where there is none. Leaves the file after it."""
    file.seek(0)
    return parse_marker(file.readline(_LONGEST + 1))


# of journals of pa-lite 0.1.0, which have no marker: all that their first line holds beside a number
_FACTS_THEN = (
    {"model", "chat template", "system prompt", "prompts", "options"},
    {"judge", "judge's prompt", "context", "outputs", "order"},
)


def read_results_head(file: BinaryIO) -> Marker | None:
    """Return the first line of an open journal of results, `facts` and `n` in it; None for any other file.

    Leaves the file after that line. Journals of pa-lite 0.1.0 are known by the very facts that they hold.
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
    """Return whether the marker of a merge's list tells how an open file begins: it is the merge's own then."""
    start = marker.get("start")
    if not (isinstance(start, list) and len(start) == 2 and type(start[0]) is int and 0 < start[0] <= _LONGEST):
        return False
    data.seek(0)
    held = data.read(start[0])
    return held.startswith(b"GGUF") and len(held) == start[0] and hashlib.sha256(held).hexdigest() == start[1]


def marker_of(path: Path) -> Path:
    """Return where the marker of a file or folder lies."""
    return path.with_name(path.name + ENDING)


def target_of(temporary: str) -> str | None:
    """Return the name of the file that a temporary one is to become, by its name; None for any other name."""
    found = _NAMED.fullmatch(temporary)
    return found[1] if found else None


def marked_name(marker: Path, entry: Marker) -> str | None:
    """Return the name that a marker's file marks.

    None where the marker belongs to another file, or where the name is not one that pa-lite gives to that type of
    temporary file: a marker that came with somebody's files must not make a file of the user's removable.
    """
    name, shape = str(entry["of"]), _SHAPES.get(entry["kind"])
    is_ours = shape is not None and shape.fullmatch(name) is not None and not re.search(r"[/\\\0]", name)
    return name if is_ours and marker.name == name + ENDING else None


@contextlib.contextmanager
def claimed(path: Path, marker_type: str) -> Iterator[None]:
    """Mark `path`, which does not exist yet, as temporary and ours while the block runs; it is gone at the end.

    The marker goes only with what it marks: what could not be removed stays marked. Raises OSError, FileExistsError
    where the marker's name is taken.
    """
    assert _SHAPES[marker_type].fullmatch(path.name), path.name  # else nobody could remove what a killed run leaves
    marker = marker_of(path)
    lock = create_file(marker, marker_line(marker_type, path.name), lock=True)
    try:
        yield
    finally:
        if os.name != "posix":
            lock.close()  # there nobody can remove a file that is open
        if not os.path.lexists(path) and (lock.closed or is_at(lock.fileno(), marker)):
            marker.unlink(missing_ok=True)
        lock.close()


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder among the system's temporary files, ours as long as we live, and remove it at the end.

    One that a killed process left is known by its marker, which nobody holds.
    """
    folder = Path(tempfile.gettempdir(), f"{FOLDER_PREFIX}{os.getpid()}-{secrets.token_hex(4)}")
    with marked_folder(folder):
        yield folder


@contextlib.contextmanager
def marked_folder(folder: Path) -> Iterator[None]:
    """Make a folder that is not there, for this user alone, and remove it and all in it at the end. Raises OSError."""
    with claimed(folder, FOLDER):
        folder.mkdir(mode=0o700)
        try:
            yield
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_marked(marker: Path, seen: os.stat_result | None = None) -> bool:
    """Remove what a marker's file marks, and that file, unless a process holds it; whether both are gone.

    Reads the marker itself, under its lock. `seen` are the facts of the marked thing that a person was shown: anything
    else that has its name by now stays. Raises OSError.
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
    """Return whether two facts are of one file."""
    return (one.st_dev, one.st_ino, stat.S_IFMT(one.st_mode)) == (
        other.st_dev,
        other.st_ino,
        stat.S_IFMT(other.st_mode),
    )


def is_mine(facts: os.stat_result) -> bool:
    """Return whether a file belongs to this user: others may write markers too, in folders that many share."""
    return not hasattr(os, "geteuid") or facts.st_uid == os.geteuid()


def _remove(path: Path, marker_type: str, facts: os.stat_result) -> bool:
    """Remove a marked file or folder, if it is of the marked type and this user's; whether it was removed."""
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
    """Remove a folder with all in it: no link is followed and no other disk entered. Raises OSError.

    `facts` are those of the folder that is meant; another one by that name stays, and so does what lies on a disk that
    is mounted in it.
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
    """Remove all that an open folder holds."""
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
    """Open and lock a file that begins with a marker; None where a process has it, or it is not one of ours.

    Where nothing can be locked, what was not written to for a day counts as nobody's. Raises OSError.
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
    """Return whether no living process holds a marker's file, or a file that begins with one."""
    with held(path) as file:
        return file is not None


def age_of(path: Path) -> float:
    """Return the seconds since a file or folder was written to, by the clock; 0 for one of the future."""
    return max(0.0, time.time() - path.lstat().st_mtime)


def marker_at(path: Path) -> Marker | None:
    """Return the marker with which a file begins; None for any other file, and for none. Raises OSError."""
    try:
        if type_of(path.lstat()) is not None:
            return None
        with open_regular(path) as file:
            return read_marker(file)
    except (FileNotFoundError, NotPlainError):
        return None


def take_claim(path: Path, marker_type: str) -> BinaryIO:
    """Mark `path` as ours until it is finished, also after this process' death; waits for a process that has it.

    Returns the marker's file, open and locked. Raises NotPlainError for a file at its name that is not such a marker,
    other OSErrors.
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
