"""Versions of installed packages, without importlib.metadata where that can be."""

from __future__ import annotations

import functools
import re
import sys
from pathlib import Path

_VERSION = re.compile(r"^Version: (\S+)$", re.MULTILINE)


@functools.cache
def installed_version(name: str) -> str:
    """Return the version of an installed package. Raises PackageNotFoundError as `importlib.metadata.version` does.

    That takes a twentieth of a small merge to import, for one line of one file, which is read here. A package that is
    not installed as wheels are is left to it.
    """
    for folder in sys.path:
        for path in Path(folder).glob(f"{name.replace('-', '_')}-*.dist-info/METADATA"):
            if found := _VERSION.search(path.read_text("utf-8")):
                return found[1]
    import importlib.metadata

    return importlib.metadata.version(name)
