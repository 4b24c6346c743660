"""The child's side of `pa_lite.untrusted.sandbox`: it limits itself and answers lines of JSON.

Imports nothing of pa_lite.
"""

from __future__ import annotations

import functools
import json
import os
import queue
import runpy
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any


@functools.lru_cache(maxsize=1)
def limit_once(memory: int) -> None:
    """Limit memory beyond what is held now (bytes; mapped files do not count), and forbid writing files.

    POSIX only; memory on Linux only.
    """
    try:
        import resource
    except ImportError:
        return  # Windows: the parent's clock alone
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    if sys.platform == "linux":
        with open("/proc/self/status", encoding="ascii", errors="replace") as f:
            held = next((int(line.split()[1]) * 1024 for line in f if line.startswith("VmData:")), 0)
        _limit(resource.RLIMIT_DATA, held + memory)


def limit_time(seconds: float) -> None:
    """Limit processor time from now on; a later call replaces the limit. POSIX only."""
    try:
        import resource
    except ImportError:
        return
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    _limit(resource.RLIMIT_CPU, int(used + seconds) + 1)


def _limit(kind: int, wanted: int) -> None:
    """Set the soft limit; the hard one stays, so that a later call can raise it again."""
    import resource

    most = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))


def serve(do: Callable[[dict[str, Any]], dict[str, Any]], default: Callable[[Any], Any] | None = None) -> None:
    """Answer each line of stdin, a JSON request, with a line of JSON: what `do` returns, or {"error": "..."}.

    Limits of memory and time come with each request. `default` replaces values that JSON does not have. The process
    ends when stdin closes.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print to stdout is not an answer
    for line in _requests():
        request = json.loads(line)
        limit_once(request["memory"])
        limit_time(request["seconds"])
        try:
            answer = json.dumps(do(request), default=default)
        except MemoryError:
            answer = json.dumps({"exceeded": "memory"})
        except RecursionError:
            answer = json.dumps({"error": "infinite recursion"})
        except Exception as e:  # noqa: BLE001 - untrusted code may raise anything
            answer = json.dumps({"error": f"{type(e).__name__}: {str(e)[:300]}"})
        answers.write(answer.encode("ascii") + b"\n")
        answers.flush()


def _requests() -> Iterator[bytes]:
    """Yield lines of stdin. When it closes, the parent is gone, and the process exits even in the middle of work."""
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin.buffer:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield lines.get()


def _start(path: str, file: str) -> None:
    """Run the function `main` of a Python file; `path` is the parent's sys.path, as JSON."""
    if os.name == "posix":
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the parent's to handle
    sys.path[:] = json.loads(path)
    runpy.run_path(file, run_name="")["main"]()


if __name__ == "__main__":
    _start(*sys.argv[1:])
