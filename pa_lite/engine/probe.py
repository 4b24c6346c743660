"""Load an untrusted GGUF file in a separate process first, where a crash of llama.cpp does no harm.

`check_loadable` refuses files that are known to crash llama.cpp; this catches the unknown ones. A file that passed is
remembered in the user's cache folder, by the identity of the file and of llama.cpp, and not probed again.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pa_lite.checkpoints.gguf_model import check_first_part, part_names, read_model_header
from pa_lite.engine.llama import llama
from pa_lite.engine.readable import check_readable
from pa_lite.engine.refusals import check_loadable
from pa_lite.errors import CheckpointError, EngineError, PaLiteError
from pa_lite.system.atomic import write_bytes
from pa_lite.system.machine import cache_folder
from pa_lite.system.markers import VERDICT, marker_at, marker_line
from pa_lite.untrusted.sandbox import ChildError, LimitedProcess

_log = logging.getLogger(__name__)
_WORKER = "pa_lite.engine.probe_worker"
_VERSION = 1  # of the probe; verdicts of other versions do not count
_REMEMBERED = 1000  # verdicts that are kept
_ADVICE = "Fetch or convert it again (--no-probe loads it anyway, and may crash pa-lite)."


@dataclass(frozen=True)
class ProbeLimits:
    """The limits of a probe: seconds, and bytes of memory without the mapped file."""

    seconds: float
    memory: int


def limits_for(size: int) -> ProbeLimits:
    """Return generous limits for a valid file of `size` bytes, on a disk that reads 50 MB/s."""
    return ProbeLimits(60 + size / 50e6, (1 << 30) + size // 4)


def probe_file(path: Path, limits: ProbeLimits | None = None) -> None:
    """Check a file, then let llama.cpp load it, tokenise and decode in another process, unless it passed before.

    Raises what `check_loadable` raises, CheckpointError when that process crashes, hangs, or takes too much memory,
    EngineError when llama.cpp refuses the file or no process can be started. The process never outlives the call.
    """
    check_first_part(path)
    parts = [path.with_name(name) for name in part_names(path.name)]
    try:
        states = [part.stat() for part in parts]
    except OSError as e:
        raise CheckpointError(f"{e.filename or path}: cannot be read: {e.strerror}") from e
    identity: list[str | int] = [str(path.resolve())]
    for s in states:
        identity += [s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns]
    _once(identity, path, limits or limits_for(sum(s.st_size for s in states)))


def probe_merged(path: Path, header: bytes, size: int, descriptors: Sequence[int] = ()) -> None:
    """Probe a file that pa-lite merged from GGUF files: their metadata are still untrusted.

    A header that passed is not probed again, whatever weights follow it. Raises what `probe_file` raises.
    """
    _once(["merged", hashlib.sha256(header).hexdigest()], path, limits_for(size), descriptors)


def _once(identity: Sequence[Any], path: Path, limits: ProbeLimits, descriptors: Sequence[int] = ()) -> None:
    if not _passed(identity):
        header = read_model_header(path)
        check_loadable(header)  # what these refuse needs no process
        for part, _ in header.parts:
            check_readable(part)
        probe(path, limits, descriptors)
        _remember(identity)


def probe(path: Path, limits: ProbeLimits, descriptors: Sequence[int] = ()) -> None:
    """Probe a file, whether or not it passed before. The process inherits the open files `descriptors`."""
    llama()  # an error of llama.cpp itself is raised here, and not blamed on the file
    try:
        with LimitedProcess(_WORKER, limits.memory, descriptors) as process:
            process.ask({"file": str(path.absolute())}, limits.seconds, clock=limits.seconds)
    except ChildError as e:
        raise _explained(path, limits, e) from e


def _explained(path: Path, limits: ProbeLimits, error: ChildError) -> PaLiteError:
    """Return the error for a file that did not pass: EngineError if llama.cpp refuses it or could not try."""
    if error.cause == "error":
        return EngineError(f"{path}: {str(error).rstrip('.')}. Fetch or convert it again.")
    if error.cause == "start":
        return EngineError(f"{path}: cannot be tried in a separate process: {error}. --no-probe does without.")
    reasons = {
        "time": f"llama.cpp took more than {limits.seconds:.0f} seconds to load it",
        "memory": f"llama.cpp needs more than {limits.memory / 1e6:.0f} MB in addition to the file to load it",
        "crash": f"llama.cpp crashed while loading it ({error.status}): {error.words}",
    }
    return CheckpointError(f"{path}: {reasons[error.cause]}. {_ADVICE}")


def _verdict(identity: Sequence[Any]) -> Path:
    """Return the path of the verdict on a file with the installed version and build of llama.cpp."""
    build = llama().llama_print_system_info().decode("utf-8", "replace")
    everything = [_VERSION, importlib.metadata.version("llama-cpp-python"), build, sys.platform, *identity]
    return cache_folder() / "probed" / hashlib.sha256(json.dumps(everything).encode()).hexdigest()


def _passed(identity: Sequence[Any]) -> bool:
    """Return whether a file passed before; its full identity is compared, not only the verdict's file name."""
    target = _verdict(identity)
    try:
        entry = marker_at(target)
    except OSError:
        return False
    return entry is not None and entry["kind"] == VERDICT and entry.get("identity") == list(identity)


def _remember(identity: Sequence[Any]) -> None:
    """Store that a file passed. If that fails, the file is probed again next time."""
    target = _verdict(identity)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(target, marker_line(VERDICT, target.name, identity=list(identity)))
        _forget(target.parent)
    except (OSError, PaLiteError) as e:
        _log.info("cannot store that %s was probed: %s", identity[0], e)


def _forget(folder: Path) -> None:
    """Remove the oldest verdicts if there are too many; other files in the folder stay."""
    named = [p for p in folder.iterdir() if re.fullmatch("[0-9a-f]{64}", p.name)]
    for old in sorted(named, key=lambda p: p.lstat().st_mtime)[: max(0, len(named) - _REMEMBERED)]:
        entry = marker_at(old)
        if entry is not None and entry["kind"] == VERDICT:
            old.unlink(missing_ok=True)
