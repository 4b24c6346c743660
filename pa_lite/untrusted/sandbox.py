"""A process of its own for what strangers' templates, patterns and tokenizers say to do, ended when it takes too long.

It is asked in lines of JSON and answers so. Time and memory it bounds itself where the system can (see
`limited_worker.serve`); the clock here ends it everywhere.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pa_lite.errors import EngineError

# by its file: importing it would import the packages that it lies in, which takes longer than most requests
_START = (
    "import sys, json, runpy; sys.path[:] = json.loads(sys.argv[1]); runpy.run_path(sys.argv[2], run_name='')['main']()"
)
_PATIENCE = 3  # times the processor time that a request may take, as other programs may have the processor
_LOOK = 0.2  # seconds between looks at the clock


class LimitedProcess:
    """The program of a module's `main`, started when it is first asked and up until `close`. A context manager."""

    def __init__(self, module: str, memory: int) -> None:
        """`memory` bounds, in bytes, what it takes beyond what it holds when it is first asked."""
        spec = importlib.util.find_spec(module)
        assert spec is not None
        assert spec.origin is not None
        self._command = [sys.executable, "-I", "-B", "-c", _START, json.dumps(sys.path), spec.origin]
        self._memory = memory
        self._running: _Running | None = None

    def __enter__(self) -> LimitedProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """The answer to a request that may take so many seconds of processor time.

        Raises EngineError with what went wrong, without a full stop; a process that had to be ended starts anew then.
        """
        if self._running is None:
            self._running = _Running(self._command)
        limits = {"memory": self._memory, "seconds": seconds}
        line = self._running.ask(json.dumps({**request, **limits}).encode("ascii") + b"\n", _PATIENCE * seconds)
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError as e:
            running, self._running = self._running, None
            status, said = running.end(_LOOK)
            if running.is_late or status < 0:  # what a limit of the system does
                raise EngineError(f"it was ended after {seconds:g} seconds, or for its use of memory") from e
            raise EngineError(f"the process that it runs in ended: {said}") from e
        if "error" in answer:
            raise EngineError(" ".join(str(answer["error"]).split()))
        return answer

    def close(self) -> None:
        """End the process; more than once does no harm."""
        if self._running is not None:
            self._running.end(0.0)  # it has answered all, and has nothing to bring to an end
            self._running = None


class _Running:
    """The process, and a thread that ends it when an answer is late."""

    def __init__(self, command: Sequence[str]) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
        self.is_late = False
        self._due = math.inf
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK):
            if time.monotonic() > self._due:
                self.is_late = True
                self._process.kill()
                return

    def ask(self, line: bytes, patience: float) -> bytes:
        """The line that is answered; empty when the process is gone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._due = time.monotonic() + patience
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
            return self._process.stdout.readline()
        except OSError:
            return b""  # it is gone: why, its exit tells
        finally:
            self._due = math.inf

    def end(self, patience: float) -> tuple[int, str]:
        """End it, after so many seconds in which it may do so itself; its exit status, and the last that it said.

        The status is negative for a signal.
        """
        self._ended.set()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # it ends by itself when nothing is asked any more
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
        with self._process as process:
            assert process.stderr is not None
            said = process.stderr.read().decode("utf-8", "replace").strip().splitlines()
        return self._process.returncode, said[-1][:300] if said else "it gives no reason"
