"""Check untrusted file names and paths, and make file names from any text."""

from __future__ import annotations

import errno
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from pa_lite.sanitize import one_line

_LONGEST_NAME = 255  # bytes of one name on nearly every file system
# device names on Windows, with any extension; superscript digits count too
_DEVICE = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³]) *(?:\..*)?", re.IGNORECASE)
_NO_NAME = re.compile(r'[\x00-\x1f/\\:*?"<>|]')
_ESCAPE = re.compile(r"[\\\x00-\x1f]|^[A-Za-z]:|(?:^|/)\.{0,2}(?:/|$)")


def escapes(path: str) -> bool:
    """Return whether a relative path with `/` as separator may lead out of its folder on some system."""
    return _ESCAPE.search(path) is not None


def path_fault(path: str) -> str | None:
    """Return what is wrong with an untrusted relative path; None if it names one file in its folder on all systems."""
    if escapes(path):
        return "leads out of its folder"
    for name in path.split("/"):
        if _NO_NAME.search(name) or one_line(name) != name:
            return "contains characters that are not allowed in file names"
        if name != name.rstrip(". "):
            return "ends with a dot or space"
        if _DEVICE.fullmatch(name):
            return "is a device on Windows"
        if len(name.encode()) > _LONGEST_NAME:
            return f"is longer than {_LONGEST_NAME} bytes"
    return None


def name_fault(name: str) -> str | None:
    """Return what is wrong with an untrusted file name without folders; None if nothing is."""
    return "is not a plain file name" if "/" in name else path_fault(name)


def same_file(names: Iterable[str]) -> tuple[str, str] | None:
    """Return two of the names that are the same file where case or Unicode normalisation is ignored, or None."""
    seen: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", name.casefold())
        if seen.setdefault(key, name) != name:
            return seen[key], name
    return None


def file_name(text: str, longest: int = 100, otherwise: str = "unnamed") -> str:
    """Return a valid file name made from any text, such as a task's or model's name; at most `longest` characters.

    Characters that are not allowed become `-`. If nothing is left, the name is `otherwise`. It is never that of a
    hidden file or a device.
    """
    printable = "".join(c for c in text if one_line(c) == c)
    name = _NO_NAME.sub("-", printable)[:longest].lstrip(".- ").rstrip(". ")
    while len(name.encode()) > _LONGEST_NAME - 55:  # leaves room for the callers' suffixes
        name = name[:-1].rstrip(". ")
    return f"_{name}" if _DEVICE.fullmatch(name) else name or otherwise


def _is_circular(path: Path) -> bool:
    try:
        path.stat()
    except OSError as e:
        return e.errno == errno.ELOOP
    return False


def leads_out(path: Path, folder: Path) -> bool:
    """Return whether links lead from a path in a folder out of it; snapshots in a Hub cache may link to its blobs."""
    if _is_circular(path):
        return True
    real, home = (Path(os.path.realpath(p)) for p in (path, folder))  # Path.resolve's errors differ between Pythons
    blobs = (above.parent / "blobs" for above in home.parents if above.name == "snapshots")
    return not any(real.is_relative_to(root) for root in (home, *blobs))
