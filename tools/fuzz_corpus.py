"""The corpus that is kept: for each target one zip file of the fewest inputs that reach all code that was reached."""

from __future__ import annotations

import contextlib
import hashlib
import io
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from fuzz_oracle import Finding, Judge, Target, strict

CORPUS = Path(__file__).resolve().parents[1] / "tests" / "corpus"
_PACKAGE = f"{Path(__file__).resolve().parents[1] / 'pa_lite'}"
_YEAR = (2020, 1, 1, 0, 0, 0)  # in every entry, so that equal corpora are equal files
Steps = frozenset[tuple[CodeType, int, int]]  # within a function, from one line to another


def path_of(name: str) -> Path:
    """Where a target's corpus lies."""
    return CORPUS / f"{name}.zip"


def load(name: str) -> list[bytes]:
    """A target's kept inputs; none where it has no corpus."""
    if not path_of(name).exists():
        return []
    with zipfile.ZipFile(path_of(name)) as archive:
        return [archive.read(entry) for entry in sorted(archive.namelist())]


def save(name: str, inputs: Iterable[bytes]) -> None:
    """Make these a target's kept inputs, each under a digest of it."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for data in sorted(set(inputs), key=lambda data: hashlib.sha256(data).digest()):
            entry = zipfile.ZipInfo(hashlib.sha256(data).hexdigest()[:16], _YEAR)
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED, 9)
    path_of(name).parent.mkdir(exist_ok=True)
    path_of(name).write_bytes(packed.getvalue())


def merge(target: Target, folder: Path, keep: int) -> list[bytes]:
    """Keep what is needed of the kept corpus, the seeds and a folder, at most `keep` inputs; returns them."""
    pool = {*load(target.name), *target.seeds(), *(path.read_bytes() for path in sorted(folder.iterdir()))}
    reached: dict[bytes, Steps] = {}
    with Judge(target) as judge, strict():
        for data in sorted(pool, key=len):
            with contextlib.suppress(Finding):
                reached[data] = steps_of(judge, data)
    kept = cover(reached, keep)
    save(target.name, kept)
    return kept


def cover(reached: dict[bytes, Steps], keep: int) -> list[bytes]:
    """The inputs that, one after the other, add most steps for their size, until nothing is added."""
    left, seen = dict(reached), set[Any]()
    kept: list[bytes] = []
    while left and len(kept) < keep:
        best = max(left, key=lambda data: (len(left[data] - seen), -len(data)))
        added = left.pop(best) - seen
        if not added:
            break
        seen |= added
        kept.append(best)
    return kept


def steps_of(judge: Judge, data: bytes) -> Steps:
    """The steps from line to line in pa_lite that an input makes a reader go. Raises Finding as the judge does."""
    found: set[tuple[CodeType, int, int]] = set()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(_PACKAGE):
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
