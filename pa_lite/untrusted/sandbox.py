"""Run untrusted work in a child Python with limits: templates, patterns, tokenizers, parquet pages, and GGUF files.

The child runs isolated (`-I`), without the user's secrets and without GPUs. Requests and answers are lines of JSON. The
child limits its own memory and processor time where the system can (see `pa_lite.untrusted.sandbox_worker`); this side
watches the clock everywhere, and memory on Linux. The child exits when its stdin closes, so it never outlives this
process.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pa_lite.errors import EngineError
from pa_lite.system.machine import status_bytes

Cause = Literal["start", "time", "memory", "crash", "error"]
_START = Path(__file__).with_name("sandbox_worker.py")
_PATIENCE = 3  # seconds on the clock for each second of processor time: other programs may have the processor
_LOOK = 0.1  # seconds between two looks at the clock and at memory
_LONGEST_ANSWER = 1 << 29  # bytes: one row of parquet may have 64 MB, and JSON escapes take up to six times as much
_LAST_WORDS = 4096  # bytes of stderr that are kept
_INTERPRETER = 128 << 20  # bytes that Python and its imports may hold in addition to the limit
_SECRET = re.compile(r"PASSW|(?:^|_)(?:TOKEN|KEY|SECRET|CREDENTIALS?|COOKIE|PROXY)(?:_|$)", re.IGNORECASE)
_NO_GPU = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "ROCR_VISIBLE_DEVICES": "", "GGML_NO_BACKTRACE": "1"}


class ChildError(EngineError):
    """A request that a child process did not answer; the message has no full stop.

    `cause` is `start` (the child could not be started), `time` or `memory` (a limit was exceeded), `crash`, or `error`
    (the child answered with an error). For a crash, `status` names the signal or exit status and `words` is the most
    telling line of stderr.
    """

    def __init__(self, message: str, cause: Cause = "error", status: str = "", words: str = "") -> None:
        super().__init__(message)
        self.cause, self.status, self.words = cause, status, words


class LimitedProcess:
    """A module's `main` in a child Python, started by the first request and running until `close`. A context manager.

    One thread at a time may ask.
    """

    def __init__(self, module: str, memory: int, descriptors: Sequence[int] = ()) -> None:
        """Limit the child to `memory` bytes beyond what it holds at the first request, mapped files not counted.

        `descriptors` are open files that the child inherits (POSIX only).
        """
        spec = importlib.util.find_spec(module)
        assert spec is not None
        assert spec.origin is not None
        # the module runs by its file: importing it by name would also import its package
        self._command = [sys.executable, "-I", "-B", str(_START), json.dumps(sys.path), spec.origin]
        self._memory, self._descriptors = memory, tuple(descriptors)
        self._child: _Child | None = None

    def __enter__(self) -> LimitedProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def ask(self, request: Mapping[str, Any], seconds: float, clock: float | None = None) -> dict[str, Any]:
        """Return the answer to a request that may take `seconds` of processor time.

        `clock` is the limit in seconds on the clock, by default three times `seconds`. Raises ChildError; a child that
        did not answer is ended, and the next request starts another.
        """
        if self._child is None:
            self._child = _Child(self._command, self._memory + _INTERPRETER, self._descriptors)
        line = json.dumps({**request, "memory": self._memory, "seconds": seconds}).encode("ascii") + b"\n"
        try:
            answer = self._child.ask(line, _PATIENCE * seconds if clock is None else clock)
        except BaseException:  # Ctrl-C: the next request must not get the late answer to this one
            self.close()
            raise
        if answer is None:
            child, self._child = self._child, None
            raise child.end(seconds, self._memory)
        if "error" in answer:
            raise ChildError(" ".join(str(answer["error"]).split()))
        if answer.get("exceeded") == "memory":
            raise _too_much(self._memory)
        return answer

    def close(self) -> None:
        """End the child. Closing twice does no harm."""
        if self._child is not None:
            self._child.kill()
            self._child = None


class _Child:
    """A running child, a thread that keeps the end of its stderr, and one that ends it when it exceeds a limit."""

    def __init__(self, command: Sequence[str], memory: int, descriptors: tuple[int, ...]) -> None:
        """Start it. `memory` limits its memory without mapped files, in bytes. Raises ChildError."""
        errors, theirs = os.pipe()
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=theirs, pass_fds=descriptors,
                env={**{name: value for name, value in os.environ.items() if not _SECRET.search(name)}, **_NO_GPU},
            )  # fmt: skip
        except OSError as e:
            os.close(errors)
            raise ChildError(f"no process can be started: {e.strerror or e}", "start") from e
        finally:
            os.close(theirs)
        self._memory = memory
        self._exceeded: Literal["", "time", "memory"] = ""
        self._words = b""
        self._due = math.inf
        self._ended = threading.Event()
        self._listener = threading.Thread(target=self._listen, args=(errors,), daemon=True)
        self._listener.start()
        threading.Thread(target=self._watch, daemon=True).start()

    def _listen(self, errors: int) -> None:
        while chunk := os.read(errors, _LAST_WORDS):
            self._words = (self._words + chunk)[-_LAST_WORDS:]
        os.close(errors)

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK):
            if time.monotonic() > self._due:
                self._exceeded = "time"
            elif self._due < math.inf and status_bytes("RssAnon", self._process.pid) > self._memory:
                self._exceeded = "memory"
            else:
                continue
            self._process.kill()
            return

    def ask(self, line: bytes, seconds: float) -> dict[str, Any] | None:
        """Return the answer to a request; None when the child died, or wrote what is not an answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._due = time.monotonic() + seconds
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline(_LONGEST_ANSWER))
        except (OSError, ValueError, RecursionError):
            return None
        finally:
            self._due = math.inf
        return answer if isinstance(answer, dict) else None

    def kill(self) -> None:
        """End the child and wait until it is gone."""
        self._ended.set()
        self._process.kill()
        self._process.wait()
        self._listener.join(1)  # longer only where something else holds the child's stderr open
        with contextlib.suppress(OSError), self._process:  # a request may be left in the pipe's buffer
            pass

    def end(self, seconds: float, memory: int) -> ChildError:
        """End a child that gave no answer; return why, given the limits of its request (seconds and bytes)."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2 * _LOOK)  # it may be crashing just now
        is_dead = self._process.returncode is not None
        self.kill()
        status, text = self._process.returncode, self._words.decode("utf-8", "replace")
        words = _most_telling(text)
        if self._exceeded == "time" or status == -getattr(signal, "SIGXCPU", 0):
            return ChildError(f"it took more than {seconds:g} seconds", "time")
        if self._exceeded == "memory" or any(mark in text for mark in ("bad_alloc", "MemoryError", "memory alloc")):
            return _too_much(memory)
        if not is_dead:
            return ChildError(f"its answer is not one JSON object of up to {_LONGEST_ANSWER} bytes")
        if "Traceback" in text:  # exceptions of the work are answers, so this one came before
            return ChildError(f"no process can be started: {words}", "start")
        name = _status_name(status)
        return ChildError(f"its process crashed ({name}): {words}", "crash", name, words)


def _too_much(memory: int) -> ChildError:
    return ChildError(f"it needs more than {memory / 1e6:.0f} MB of memory", "memory")


def _status_name(status: int) -> str:
    try:
        return signal.Signals(-status).name if status < 0 else f"status {status}"
    except ValueError:
        return f"signal {-status}"


def _most_telling(text: str) -> str:
    """Return the last line that names an assertion, exception or error, else the last line; without a full stop."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line for line in lines if "GGML_ASSERT" in line or "what():" in line or "error" in line.lower()]
    last = (said or lines or ["no reason given"])[-1]
    return re.sub(r"\S*/(?=[\w.-]+:\d+: )", "", last)[:300].rstrip(".")  # without the folder it was compiled in
