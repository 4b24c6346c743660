"""The corpus in the repository: for each target a zip of the fewest inputs that reach all code reached so far."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import os
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from tools import ROOT
from tools.fuzz.oracle import Finding, Judge, Target, strict

CORPUS = ROOT / "tests" / "corpus"
# packages whose code counts: ours, and jinja2; not imported here, because atheris must see the import
PACKAGES = ("pa_lite", "jinja2")
_YEAR = (2020, 1, 1, 0, 0, 0)  # of every entry, so that equal corpora are equal files
_FOUND = "found-"  # prefix of the names of inputs that once broke a promise
Steps = frozenset[tuple[CodeType, int, int]]  # within a function, from one line to another


def path_of(name: str) -> Path:
    """Return the path of a target's corpus."""
    return CORPUS / f"{name}.zip"


def load(name: str, only_found: bool = False) -> list[bytes]:
    """Return a target's kept inputs, or only those that once broke a promise; empty without a corpus."""
    if not path_of(name).exists():
        return []
    with zipfile.ZipFile(path_of(name)) as archive:
        names = [entry for entry in sorted(archive.namelist()) if entry.startswith(_FOUND) or not only_found]
        return [archive.read(entry) for entry in names]


def save(name: str, inputs: Iterable[bytes], found: Iterable[bytes] = ()) -> None:
    """Write a target's kept inputs, each named by its digest; the names of those that broke a promise have a prefix."""
    found, packed = set(found), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for data in sorted({*inputs, *found}, key=lambda data: hashlib.sha256(data).digest()):
            digest = hashlib.sha256(data).hexdigest()[:16]
            entry = zipfile.ZipInfo(_FOUND * (data in found) + digest, _YEAR)
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED, 9)
    path_of(name).parent.mkdir(exist_ok=True)
    path_of(name).write_bytes(packed.getvalue())


def keep(name: str, files: Iterable[Path]) -> None:
    """Add inputs that broke a promise to a target's corpus, permanently."""
    found = {*load(name, only_found=True), *(path.read_bytes() for path in files)}
    save(name, load(name), found)


def merge(target: Target, folder: Path, most: int) -> list[bytes]:
    """Reduce the corpus, the seeds and a folder to at most `most` inputs besides the found ones; return them."""
    found = load(target.name, only_found=True)
    pool = {*load(target.name), *target.seeds(), *(path.read_bytes() for path in sorted(folder.iterdir()))}
    reached: dict[bytes, Steps] = {}
    with Judge(target) as judge, strict():
        for data in sorted(pool.difference(found), key=len):
            with contextlib.suppress(Finding):
                reached[data] = steps_of(judge, data)
    kept = cover(reached, most)
    save(target.name, kept, found)
    return [*kept, *found]


def cover(reached: dict[bytes, Steps], most: int) -> list[bytes]:
    """Return inputs chosen greedily: the one that adds most steps for its size first, until none adds any."""
    left, seen = dict(reached), set[Any]()
    kept: list[bytes] = []
    while left and len(kept) < most:
        best = max(left, key=lambda data: (len(left[data] - seen), -len(data)))
        added = left.pop(best) - seen
        if not added:
            break
        seen |= added
        kept.append(best)
    return kept


def steps_of(judge: Judge, data: bytes) -> Steps:
    """Return the steps from line to line that a reader takes for an input. Raises Finding as the judge does."""
    found: set[tuple[CodeType, int, int]] = set()
    specs = filter(None, map(importlib.util.find_spec, PACKAGES))
    folders = tuple(f"{Path(spec.origin).parent}{os.sep}" for spec in specs if spec.origin)

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(folders):
            return None
        last = frame.f_lineno

        def local(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal last
            if event == "line":
                found.add((frame.f_code, last, frame.f_lineno))
                last = frame.f_lineno
            return local

        return local if event == "call" else None

    sys.settrace(trace)
    try:
        judge.judge(data)
    finally:
        sys.settrace(None)
    return frozenset(found)
