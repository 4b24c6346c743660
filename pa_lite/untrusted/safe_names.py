"""Names that strangers, or any text, may give to files: one rule for all that reads them. Imports only texts."""

from __future__ import annotations

import errno
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from pa_lite.sanitize import one_line

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


def _is_circle(path: Path) -> bool:
    try:
        path.stat()
    except OSError as e:
        return e.errno == errno.ELOOP
    return False


def leads_out(path: Path, folder: Path) -> bool:
    """Whether links lead from a path in a folder to outside of it; a Hub cache's snapshots may lead to its blobs."""
    if _is_circle(path):
        return True
    real, home = (Path(os.path.realpath(p)) for p in (path, folder))  # Path.resolve's errors differ between Pythons
    blobs = (above.parent / "blobs" for above in home.parents if above.name == "snapshots")
    return not any(real.is_relative_to(root) for root in (home, *blobs))
