"""What killed processes left behind: temporary files of ours that nobody holds, found and removed.

Only what is surely ours counts: a name that we give, and where the name alone could be another's, the content too.
Imports only errors and files.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pa_lite.errors import InputError, OutputError
from pa_lite.files import FOLDER_PREFIX, age_of, is_free, remove_if_free, target_of

_PARTIAL = re.compile(r"\.(.+)\.part")
_DONE = ".done"  # ending of the list of a merge's whole tensors
_HARNESS = re.compile(r"\.harness\.[0-9a-f]{12}\.part")
_FOLDER = re.compile(rf"{FOLDER_PREFIX}\d+-\w+")
_BLOB = re.compile(r"[\w.-]{8,128}\.pa-lite\.incomplete")
_DIGEST = re.compile(rb"[0-9a-f]{64}\n")
_MOST_READ = 1 << 26  # bytes of a journal that are looked at


@dataclass(frozen=True)
class Leftover:
    """A temporary file or folder and what belongs to it; size in bytes, `age` in seconds since it was written to.

    `loses` tells what goes with it, empty where nobody could make use of it. `in_use`: a process holds it.
    """

    path: Path
    companions: tuple[Path, ...]
    what: str
    nbytes: int
    age: float
    loses: str
    in_use: bool


def temporary_files() -> Path:
    """The system's folder for temporary files."""
    return Path(tempfile.gettempdir())


def find_leftovers(folders: Sequence[Path], deep: bool = False) -> list[Leftover]:
    """Our temporary files in folders, with `deep` in all below them too; by path, each once.

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
                found[path.resolve()] = leftover
    return [found[path] for path in sorted(found)]


def find_downloads(cache: Path) -> list[Leftover]:
    """Downloads of ours that broke off, in a cache of the Hub's layout; none where there is no cache."""
    return find_leftovers([folder for folder in cache.glob("*--*") if folder.is_dir()], deep=True)


def remove(leftover: Leftover) -> bool:
    """Remove one, unless a process holds it by now; whether it was removed. Raises OutputError when it cannot be."""
    try:
        return remove_if_free(leftover.path, *leftover.companions)
    except OSError as e:
        raise OutputError(f"{e.filename or leftover.path}: cannot be removed: {e.strerror}.") from e


def _entries(folder: Path, deep: bool) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        yield from (Path(parent, name) for name in (*folders, *files))
        if not deep:
            return
        folders[:] = [name for name in folders if not _is_folder_of_ours(name)]


def _is_folder_of_ours(name: str) -> bool:
    return bool(_FOLDER.fullmatch(name) or _HARNESS.fullmatch(name))


def _leftover(path: Path) -> Leftover | None:
    """What an entry of a folder is, None for what is not ours. Raises OSError."""
    if path.is_symlink():
        return None
    if path.is_dir():
        return _described(path, "temporary folder") if _is_folder_of_ours(path.name) else None
    if not path.is_file():
        return None
    if _BLOB.fullmatch(path.name):
        return _described(path, "download that broke off", loses=f"{_size(path) / 1e6:.1f} MB fetched")
    if target_of(path) is not None:
        return _described(path, "file that was being written")
    if path.name.endswith(".part" + _DONE):
        return _lonely_list(path)
    found = _PARTIAL.fullmatch(path.name)
    return _partial(path, found[1]) if found else None


def _partial(path: Path, target: str) -> Leftover | None:
    """A merge's or a run's partial file, told by its content; an empty one is of a process that had just begun."""
    listed = path.with_name(path.name + _DONE)
    if _is_list(listed):
        n = _lines(listed) - 1
        loses = f"{n} tensors that are merged; merge --resume would go on from there" if n > 0 else ""
        return _described(path, f"merge of {target}", (listed,), loses)
    with path.open("rb") as f:
        start = f.read(4)
        if start.startswith(b"{"):
            counts = _results(start + f.read(_MOST_READ))
            if counts is None:
                return None
            loses = "{} of {} results; --resume would go on from there".format(*counts) if counts[0] else ""
            return _described(path, f"run of {target}", (), loses)
    return _described(path, f"file {target} that was begun") if start in (b"", b"GGUF") else None


def _is_list(path: Path) -> bool:
    """Whether a file is a merge's list of whole tensors: it begins with a digest."""
    try:
        with path.open("rb") as f:
            return bool(_DIGEST.match(f.read(65)))
    except OSError:
        return False


def _lonely_list(path: Path) -> Leftover | None:
    """A list whose merge is gone; one that is not alone belongs to its partial file."""
    if path.with_name(path.name.removesuffix(_DONE)).exists() or not (_is_list(path) or not _size(path)):
        return None
    return _described(path, "list of a merge that is gone")


def _results(start: bytes) -> tuple[int, int] | None:
    """How many results a journal holds, and of how many; None for a file that is no journal."""
    head, *lines = start.split(b"\n")
    try:
        entry = json.loads(head)
        of = entry["n"]
        if not isinstance(entry["facts"], dict) or not isinstance(of, int):
            return None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return sum(line.startswith(b'{"place"') for line in lines[:-1]), of


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def _size(path: Path) -> int:
    """Bytes that a file, or all files of a folder, take on the disk, about."""
    if not path.is_dir():
        facts = path.lstat()
        return min(facts.st_size, getattr(facts, "st_blocks", facts.st_size) * 512) or facts.st_size
    return sum(_size(Path(parent, name)) for parent, _, names in os.walk(path) for name in names)


def _described(path: Path, what: str, companions: tuple[Path, ...] = (), loses: str = "") -> Leftover:
    nbytes = _size(path) + sum(_size(each) for each in companions)
    return Leftover(path, companions, what, nbytes, age_of(path), loses, not is_free(path))
