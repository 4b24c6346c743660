"""What a program that `pa_lite.untrusted.sandbox` starts does: it bounds itself, and answers lines of JSON.

Imports nothing of pa_lite.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from typing import Any


@functools.lru_cache(maxsize=1)
def limit_once(memory: int) -> None:
    """Bound memory beyond what is held now (bytes); files and processes cannot be made at all. POSIX only."""
    try:
        import resource
    except ImportError:
        return  # Windows: the parent's clock alone
    try:
        with open("/proc/self/statm", encoding="ascii") as f:
            held = int(f.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        held = 0
    bound(resource.RLIMIT_FSIZE, 0)
    bound(resource.RLIMIT_CORE, 0)
    if held:
        bound(resource.RLIMIT_AS, held + memory)


def limit_time(seconds: float) -> None:
    """Bound processor time from now on; a later call moves the bound. POSIX only."""
    try:
        import resource
    except ImportError:
        return
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    bound(resource.RLIMIT_CPU, int(used + seconds) + 1)


def bound(kind: int, most_wanted: int) -> None:
    """Set the limit that counts; the one that it may be raised to stays."""
    import resource

    most = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (most_wanted if most == resource.RLIM_INFINITY else min(most_wanted, most), most))


def serve(do: Callable[[dict[str, Any]], dict[str, Any]], default: Callable[[Any], Any] | None = None) -> None:
    """Answer each line of stdin, a JSON request, by a line on stdout: what `do` makes of it, or {"error": "..."}.

    Limits of memory and time come with the request. `default` stands in for what is no JSON.
    """
    for line in sys.stdin:
        request = json.loads(line)
        limit_once(request["memory"])
        limit_time(request["seconds"])
        try:
            answer = json.dumps(do(request), default=default)
        except MemoryError:
            answer = json.dumps({"error": "it takes more memory than it gets"})
        except RecursionError:
            answer = json.dumps({"error": "it calls itself without end"})
        except Exception as e:  # noqa: BLE001 - what a stranger's code raises is its own fault
            answer = json.dumps({"error": f"{type(e).__name__}: {str(e)[:300]}"})
        print(answer, flush=True)  # noqa: T201 - it is how it answers
