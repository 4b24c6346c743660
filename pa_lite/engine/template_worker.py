"""A program of its own that renders a chat template, a stranger's code: limited in time, memory and output.

Reads one JSON request on stdin and answers with one on stdout: {"texts": [...]} or {"error": "..."}. llama-cpp-python's
sandbox keeps templates from Python's insides, but not from endless loops or 'a' * 10 ** 10: the limits here do.
Imports nothing of pa_lite, so that it starts fast.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def limit(memory: int, seconds: int) -> None:
    """Bound further memory (bytes) and processor time; files and processes cannot be made at all. POSIX only."""
    try:
        import resource
    except ImportError:
        return  # Windows: the parent's clock alone
    try:
        with open("/proc/self/statm", encoding="ascii") as f:
            held = int(f.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        held = 0
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    bounds = {resource.RLIMIT_CPU: int(used) + seconds + 1, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0}
    if held:
        bounds[resource.RLIMIT_AS] = held + memory
    for kind, bound in bounds.items():
        most = resource.getrlimit(kind)[1]
        if most == resource.RLIM_INFINITY or bound < most:
            resource.setrlimit(kind, (bound, bound))


def render(request: dict[str, Any]) -> list[str]:
    """The text of every conversation. Raises whatever the template raises, ValueError for one that is too long."""
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    limit(request["memory"], request["seconds"])
    formatter = Jinja2ChatFormatter(
        template=request["template"], bos_token=request["bos"], eos_token=request["eos"], add_generation_prompt=True
    )
    texts = []
    for messages in request["conversations"]:
        text = formatter(messages=messages).prompt
        most = request["characters"] + 4 * sum(len(m["content"]) for m in messages)
        if len(text) > most:
            raise ValueError(f"it makes a text of {len(text)} characters, more than {most}")
        texts.append(text)
    return texts


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    sys.path[:] = request["path"]
    try:
        answer: dict[str, Any] = {"texts": render(request)}
    except MemoryError:
        answer = {"error": "it takes more memory than templates get"}
    except RecursionError:
        answer = {"error": "it calls itself without end"}
    except Exception as e:  # noqa: BLE001 - whatever a stranger's template raises is its own fault
        answer = {"error": f"{type(e).__name__}: {str(e)[:300]}"}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
