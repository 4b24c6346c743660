"""A stranger's GGUF file is first given to llama.cpp in a process of its own, where it can do no harm; once for a file.

`check_loadable` refuses what is known to end the process; this catches what is not. That a file passed is remembered
in the user's cache folder, by the identity of the file and of llama.cpp; what failed is tried again.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pa_lite.checkpoints.gguf_model import check_first_part, part_names, read_model_header
from pa_lite.engine.llama import llama
from pa_lite.engine.readable import check_readable
from pa_lite.engine.refusals import check_loadable
from pa_lite.errors import CheckpointError, EngineError, PaLiteError
from pa_lite.system.atomic import write_bytes
from pa_lite.system.machine import cache_folder
from pa_lite.system.markers import VERDICT, marker_at, marker_line

_log = logging.getLogger(__name__)
_WORKER = Path(__file__).with_name("probe_worker.py")
_VERSION = 1  # of what a verdict stands for
_POLL = 0.02  # seconds between two looks at the worker
_REMEMBERED = 1000  # verdicts at most
_ADVICE = "Fetch or convert it again (--no-probe would load it at this program's own risk)."
# a GPU is not to be touched: the worker asks for none, and none is shown to it
_HIDDEN = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "ROCR_VISIBLE_DEVICES": "", "GGML_NO_BACKTRACE": "1"}


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
    llama()  # the worker has the same: what is wrong with it is not the file's fault
    started = time.monotonic()
    with _worker(path, limits, descriptors) as (process, said):
        assert process.stdout is not None
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_POLL)
                break
            if time.monotonic() - started > limits.seconds:
                raise _too_long(path, limits)
            if _own_memory(process.pid) > limits.memory:
                raise _too_much(path, limits)
        answer = process.stdout.read()
        said.seek(max(0, said.seek(0, os.SEEK_END) - 4096))
        words = said.read().decode("utf-8", "replace")
    _judge(path, limits, process.returncode, answer, words)


@contextlib.contextmanager
def _worker(
    path: Path, limits: ProbeLimits, descriptors: Sequence[int]
) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """The process, its request written, and a file of what it says; killed and gone at the end, however that comes."""
    request = {"path": sys.path, "file": str(path.absolute()), "memory": limits.memory, "seconds": int(limits.seconds)}
    pipe = subprocess.PIPE
    with contextlib.ExitStack() as stack:
        try:
            said = stack.enter_context(tempfile.TemporaryFile())
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-I", "-B", str(_WORKER)], stdin=pipe, stdout=pipe, stderr=said,
                    env={**os.environ, **_HIDDEN}, pass_fds=tuple(descriptors),
                )
            )  # fmt: skip
        except OSError as e:
            raise EngineError(
                f"{path}: no process can be started to try it in: {e.strerror}. --no-probe does without."
            ) from e
        stack.callback(process.wait)
        stack.callback(process.kill)
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # it is gone already: why, its exit tells
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()  # and it stays open: the worker ends when it closes
        yield process, said


def _own_memory(pid: int) -> int:
    """Memory of a process that is no mapped file, in bytes; 0 where the system does not tell."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as f:
            return next((int(line.split()[1]) * 1024 for line in f if line.startswith("RssAnon:")), 0)
    except (OSError, ValueError):
        return 0


def _judge(path: Path, limits: ProbeLimits, status: int, answer: bytes, words: str) -> None:
    """Nothing when the worker was content; else raise what to tell."""
    try:
        told = json.loads(answer)
    except ValueError:
        told = {}
    if status == 0 and told.get("ok") is True:
        return
    last = _last_words(words)
    if "error" in told:
        raise EngineError(f"{path}: {told['error'].rstrip('.')}. Fetch or convert it again.")
    if status == -getattr(signal, "SIGXCPU", 0):
        raise _too_long(path, limits)
    if "bad_alloc" in words or "MemoryError" in words:
        raise _too_much(path, limits)
    if status > 0 and "Traceback" in words:
        raise EngineError(f"{path}: it cannot be tried in a process of its own: {last}. --no-probe does without.")
    raise CheckpointError(f"{path}: llama.cpp ends the process that loads it ({_name(status)}): {last}. {_ADVICE}")


def _too_long(path: Path, limits: ProbeLimits) -> CheckpointError:
    return CheckpointError(f"{path}: llama.cpp was not done with it after {limits.seconds:.0f} seconds. {_ADVICE}")


def _too_much(path: Path, limits: ProbeLimits) -> CheckpointError:
    return CheckpointError(
        f"{path}: llama.cpp takes more than {limits.memory / 1e6:.0f} MB beside the file to load it. {_ADVICE}"
    )


def _name(status: int) -> str:
    try:
        return signal.Signals(-status).name if status < 0 else f"status {status}"
    except ValueError:
        return f"signal {-status}"


def _last_words(words: str) -> str:
    """The line that says most: an assertion, what an exception was, else the last."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    said = [line for line in lines if "GGML_ASSERT" in line or "what():" in line or "error" in line.lower()]
    last = (said or lines or ["it gives no reason"])[-1]
    return re.sub(r"\S*/(?=[\w.-]+:\d+: )", "", last[:2000])[:300].rstrip(".")  # not the folder it was built in


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
