"""A program of its own that renders a chat template, a stranger's code: limited in time, memory and output.

llama-cpp-python's sandbox keeps templates from Python's insides, but not from endless loops or 'a' * 10 ** 10: the
limits here do. See `pa_lite.engine.limited`, which starts it.
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
    _bound(resource.RLIMIT_FSIZE, 0)
    _bound(resource.RLIMIT_CORE, 0)
    if held:
        _bound(resource.RLIMIT_AS, held + memory)


def limit_time(seconds: float) -> None:
    """Bound processor time from now on; a later call moves the bound. POSIX only."""
    try:
        import resource
    except ImportError:
        return
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    _bound(resource.RLIMIT_CPU, int(used + seconds) + 1)


def _bound(kind: int, bound: int) -> None:
    """Set the limit that counts; the one that it may be raised to stays."""
    import resource

    most = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (bound if most == resource.RLIM_INFINITY else min(bound, most), most))


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
            answer = json.dumps({"error": "it takes more memory than templates get"})
        except RecursionError:
            answer = json.dumps({"error": "it calls itself without end"})
        except Exception as e:  # noqa: BLE001 - whatever a stranger's template raises is its own fault
            answer = json.dumps({"error": f"{type(e).__name__}: {str(e)[:300]}"})
        print(answer, flush=True)  # noqa: T201 - it is how it answers


@functools.lru_cache(maxsize=2)
def formatter(template: str, bos: str, eos: str, add_generation_prompt: bool) -> Any:
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    return Jinja2ChatFormatter(
        template=template, bos_token=bos, eos_token=eos, add_generation_prompt=add_generation_prompt
    )


def render(request: dict[str, Any]) -> dict[str, Any]:
    """The text of every conversation. Raises whatever the template raises, ValueError for one that is too long."""
    fill = formatter(request["template"], request["bos"], request["eos"], request["add_generation_prompt"])
    texts = []
    for messages in request["conversations"]:
        text = fill(messages=messages).prompt
        most = request["characters"] + 4 * sum(len(m["content"]) for m in messages)
        if len(text) > most:
            raise ValueError(f"it makes a text of {len(text)} characters, more than {most}")
        texts.append(text)
    return {"texts": texts}


def main() -> None:
    """Render until there are no more requests."""
    import llama_cpp.llama_chat_format  # noqa: F401 - its own memory is not the template's

    serve(render)
