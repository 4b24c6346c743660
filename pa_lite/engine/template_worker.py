"""A program of its own that renders a chat template, a stranger's code: limited in time, memory and output.

Each line of stdin is a JSON request, answered by a line on stdout: {"texts": [...]} or {"error": "..."}.
llama-cpp-python's sandbox keeps templates from Python's insides, but not from endless loops or 'a' * 10 ** 10: the
limits here do. Imports nothing of pa_lite, so that it starts fast.
"""

from __future__ import annotations

import functools
import json
import os
import sys
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


def limit_time(seconds: int) -> None:
    """Bound processor time from now on; a later call moves the bound. POSIX only."""
    try:
        import resource
    except ImportError:
        return
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    _bound(resource.RLIMIT_CPU, int(used) + seconds + 1)


def _bound(kind: int, bound: int) -> None:
    """Set the limit that counts; the one that it may be raised to stays."""
    import resource

    most = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (bound if most == resource.RLIM_INFINITY else min(bound, most), most))


@functools.lru_cache(maxsize=2)
def formatter(template: str, bos: str, eos: str, add_generation_prompt: bool) -> Any:
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    return Jinja2ChatFormatter(
        template=template, bos_token=bos, eos_token=eos, add_generation_prompt=add_generation_prompt
    )


def render(request: dict[str, Any]) -> list[str]:
    """The text of every conversation. Raises whatever the template raises, ValueError for one that is too long."""
    import llama_cpp.llama_chat_format  # noqa: F401 - its own memory is not the template's

    limit_once(request["memory"])
    limit_time(request["seconds"])
    fill = formatter(request["template"], request["bos"], request["eos"], request["add_generation_prompt"])
    texts = []
    for messages in request["conversations"]:
        text = fill(messages=messages).prompt
        most = request["characters"] + 4 * sum(len(m["content"]) for m in messages)
        if len(text) > most:
            raise ValueError(f"it makes a text of {len(text)} characters, more than {most}")
        texts.append(text)
    return texts


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What is printed for a request."""
    sys.path[:] = request["path"]
    try:
        return {"texts": render(request)}
    except MemoryError:
        return {"error": "it takes more memory than templates get"}
    except RecursionError:
        return {"error": "it calls itself without end"}
    except Exception as e:  # noqa: BLE001 - whatever a stranger's template raises is its own fault
        return {"error": f"{type(e).__name__}: {str(e)[:300]}"}


def main() -> None:
    """Answer requests until there are no more."""
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)  # noqa: T201 - it is how it answers


if __name__ == "__main__":
    main()
