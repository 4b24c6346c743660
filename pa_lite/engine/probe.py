"""A stranger's GGUF file is first given to llama.cpp in a process of its own, where it can do no harm; once for a file.

`check_loadable` refuses what is known to end the process; this catches what is not. That a file passed is remembered
in the user's cache folder, by the identity of the file and of llama.cpp; what failed is tried again.
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
_VERSION = 1  # of what a verdict stands for
_REMEMBERED = 1000  # verdicts at most
_ADVICE = "Fetch or convert it again (--no-probe would load it at this program's own risk)."


@dataclass(frozen=True)
class ProbeLimits:
    """What a probe may take: seconds, and bytes of memory of its own, in which the mapped file does not count."""

    seconds: float
    memory: int


def limits_for(size: int) -> ProbeLimits:
    """Ample for a sound file of so many bytes, from a disk that reads 50 MB/s."""
    return ProbeLimits(60 + size / 50e6, (1 << 30) + size // 4)


def probe_file(path: Path, limits: ProbeLimits | None = None) -> None:
    """Check a file, then let llama.cpp load it, tokenise and decode in another process; unless it passed before.

    Raises what `check_loadable` raises, CheckpointError when that process dies, hangs, or takes too much memory,
    EngineError when llama.cpp refuses the file or no process can be started. Nothing outlives it, nor Ctrl-C.
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
    """The same for a file that this program merged itself from GGUF files: their metadata are a stranger's still.

    `header` stands for the file: what weights follow it does not matter. Raises what `probe_file` raises.
    """
    _once(["merged", hashlib.sha256(header).hexdigest()], path, limits_for(size), descriptors)


def _once(identity: Sequence[Any], path: Path, limits: ProbeLimits, descriptors: Sequence[int] = ()) -> None:
    if not _passed(identity):
        header = read_model_header(path)
        check_loadable(header)  # what these refuse needs no process to be refused in
        for part, _ in header.parts:
            check_readable(part)
        probe(path, limits, descriptors)
        _remember(identity)


def probe(path: Path, limits: ProbeLimits, descriptors: Sequence[int] = ()) -> None:
    """The same without memory; a path may be that of an open descriptor, which the process then gets."""
    llama()  # the child has the same: what is wrong with it is not the file's fault
    try:
        with LimitedProcess(_WORKER, limits.memory, descriptors) as process:
            process.ask({"file": str(path.absolute())}, limits.seconds, clock=limits.seconds)
    except ChildError as e:
        raise _explained(path, limits, e) from e


def _explained(path: Path, limits: ProbeLimits, error: ChildError) -> PaLiteError:
    """Return what to tell of a file that did not pass: EngineError where llama.cpp refuses it or nothing was tried."""
    if error.cause == "error":
        return EngineError(f"{path}: {str(error).rstrip('.')}. Fetch or convert it again.")
    if error.cause == "start":
        return EngineError(f"{path}: cannot be tried in a separate process: {error}. --no-probe does without.")
    told = {
        "time": f"llama.cpp was not done with it after {limits.seconds:.0f} seconds",
        "memory": f"llama.cpp takes more than {limits.memory / 1e6:.0f} MB beside the file to load it",
        "crash": f"llama.cpp crashed while loading it ({error.status}): {error.words}",
    }
    return CheckpointError(f"{path}: {told[error.cause]}. {_ADVICE}")


def _verdict(identity: Sequence[Any]) -> Path:
    """Where it stands that a file passed with the llama.cpp that is installed, as it was built, on such a machine."""
    build = llama().llama_print_system_info().decode("utf-8", "replace")
    everything = [_VERSION, importlib.metadata.version("llama-cpp-python"), build, sys.platform, *identity]
    return cache_folder() / "probed" / hashlib.sha256(json.dumps(everything).encode()).hexdigest()


def _passed(identity: Sequence[Any]) -> bool:
    """Whether it is noted that a file passed: by its own identity, as another file could have that name."""
    target = _verdict(identity)
    try:
        entry = marker_at(target)
    except OSError:
        return False
    return entry is not None and entry["kind"] == VERDICT and entry.get("identity") == list(identity)


def _remember(identity: Sequence[Any]) -> None:
    """Note that a file passed. Where that cannot be, it is tried again."""
    target = _verdict(identity)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(target, marker_line(VERDICT, target.name, identity=list(identity)))
        _forget(target.parent)
    except (OSError, PaLiteError) as e:
        _log.info("cannot remember that %s was tried: %s", identity[0], e)


def _forget(folder: Path) -> None:
    """Remove the oldest verdicts if there are many; nothing else in the folder is touched."""
    named = [p for p in folder.iterdir() if re.fullmatch("[0-9a-f]{64}", p.name)]
    for old in sorted(named, key=lambda p: p.lstat().st_mtime)[: max(0, len(named) - _REMEMBERED)]:
        entry = marker_at(old)
        if entry is not None and entry["kind"] == VERDICT:
            old.unlink(missing_ok=True)
