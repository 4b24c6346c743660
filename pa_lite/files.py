"""Files that are whole or not there, and the names that strangers may give to files. Imports only errors and texts."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import signal
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType

from pa_lite.errors import OutputError
from pa_lite.texts import one_line

_LONGEST_NAME = 255  # bytes, of one name on nearly every file system
# Windows takes these for devices, whatever ending they have; the small digits count too
_DEVICE = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³]) *(?:\..*)?", re.IGNORECASE)
_NO_NAME = re.compile(r'[\x00-\x1f/\\:*?"<>|]')
_ESCAPE = re.compile(r"[\\\x00-\x1f]|^[A-Za-z]:|(?:^|/)\.{0,2}(?:/|$)")


def escapes(path: str) -> bool:
    """Whether a relative path, `/` between its names, may name something outside of its folder on some system."""
    return _ESCAPE.search(path) is not None


def path_fault(path: str) -> str | None:
    """What is wrong with a relative path that a stranger chose; None if it is one file within its folder everywhere."""
    if escapes(path):
        return "leads out of its folder"
    for name in path.split("/"):
        if _NO_NAME.search(name) or one_line(name) != name:
            return "holds characters that no file name should"
        if name != name.rstrip(". "):
            return "ends in a dot or blank"
        if _DEVICE.fullmatch(name):
            return "is a device on Windows"
        if len(name.encode()) > _LONGEST_NAME:
            return f"is longer than {_LONGEST_NAME} bytes"
    return None


def name_fault(name: str) -> str | None:
    """As path_fault, of a name without folders."""
    return "is no plain file name" if "/" in name else path_fault(name)


def same_file(names: Iterable[str]) -> tuple[str, str] | None:
    """Two of the names that are one file where letters' case, or how accents are written, does not count."""
    seen: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", name.casefold())
        if seen.setdefault(key, name) != name:
            return seen[key], name
    return None


def file_name(text: str, longest: int = 100, otherwise: str = "unnamed") -> str:
    """A name for a file that any text becomes, such as a task's or a model's; at most `longest` characters.

    What no file name should hold becomes `-`, and what nothing is left of `otherwise`; it is never hidden or a device.
    """
    printable = "".join(c for c in text if one_line(c) == c)
    name = _NO_NAME.sub("-", printable)[:longest].lstrip(".- ").rstrip(". ")
    while len(name.encode()) > _LONGEST_NAME - 55:  # room for what callers add
        name = name[:-1].rstrip(". ")
    return f"_{name}" if _DEVICE.fullmatch(name) else name or otherwise


def leads_out(path: Path, folder: Path) -> bool:
    """Whether links lead from a path in a folder to outside of it; a Hub cache's snapshots may lead to its blobs."""
    try:
        real, home = path.resolve(), folder.resolve()
    except (OSError, RuntimeError):  # links in a circle
        return True
    blobs = (above.parent / "blobs" for above in home.parents if above.name == "snapshots")
    return not any(real.is_relative_to(root) for root in (home, *blobs))


def check_target(path: Path, force: bool = False, option: str = "-o") -> None:
    """Raise OutputError if a file cannot or must not be written there: no folder, no file of ours, or it exists.

    A folder, device, socket or pipe is refused even with `force`: a rename would put a file into its place. `option` is
    the one that names another place.
    """
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent}: there is no such folder to write {path.name} to.")
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file.")
    if path.exists() and not path.is_file():
        raise OutputError(f"{path}: is a device, socket or pipe; name a file.")
    if path.exists() and not force:
        raise OutputError(f"{path}: exists already. Use --force to overwrite it, or {option} for another name.")


def check_space(folder: Path, needed: int) -> None:
    """Raise OutputError unless the folder's disk has `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{folder}: {needed / 1e6:.0f} MB are needed there, {free / 1e6:.0f} MB are free. "
            "Free some space, or write elsewhere with -o."
        )


def existing_parent(folder: Path) -> Path:
    """The folder, or the nearest above it that exists: where its disk's free space can be asked for."""
    folder = folder.absolute()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder


def system_words(error: OSError) -> str:
    """What the system says went wrong, without a full stop; and what to do, where that says too little."""
    told = error.strerror or str(error)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{told}. Close some, or allow more (ulimit -n 4096)"
    return told


@contextlib.contextmanager
def write_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError of writing below `folder` into an OutputError that says what to do."""
    try:
        yield
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OutputError(
                f"{folder}: the disk is full ({e.strerror}); nothing was left behind. "
                "Free some space, or write elsewhere with -o."
            ) from e
        raise OutputError(f"{e.filename or folder}: cannot be written: {system_words(e)}.") from e


@contextlib.contextmanager
def uninterrupted() -> Iterator[Callable[[], bool]]:
    """Put Ctrl-C off until the block is through, which gets a function that tells whether one is due.

    Does nothing outside the main thread, which alone is interrupted.
    """
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            handler(*came[0])


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, to be written and synced by the caller; it becomes `path` if all went well.

    On any exception, Ctrl-C included, it is removed and `path` stays as it was.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        temporary.touch(exist_ok=False)  # within the try: an interrupt right behind it leaves nothing either
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole, as UTF-8. See write_bytes."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole. Raises OutputError when it cannot be written; see check_target for refusals."""
    with write_errors(path.parent), whole_file(path) as temporary, temporary.open("wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
