"""A program of its own that encodes a text with a stranger's tokenizer.json, limited in time and memory.

The package `tokenizers` does all that such a file says: it pads texts to any length, matches any expression, and what
it cannot do may end the process. Reads one JSON request from stdin; prints the lists of ids as JSON, with special
tokens and without, or nothing. Imports nothing of pa_lite, so that it starts fast.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def limit(memory: int, seconds: int) -> None:
    """Bound memory beyond what is held now (bytes) and processor time; files cannot be made. POSIX only."""
    try:
        import resource
    except ImportError:
        return  # Windows: the parent's clock alone
    try:
        with open("/proc/self/statm", encoding="ascii") as f:
            held = int(f.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        held = 0
    bounds = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CPU, seconds)]
    for kind, bound in (*bounds, *([(resource.RLIMIT_AS, held + memory)] if held else [])):
        most = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (bound if most == resource.RLIM_INFINITY else min(bound, most), most))


def encode(file: str, text: str) -> list[list[int]]:
    """The ids of a text, with special tokens and without. Raises whatever `tokenizers` raises."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(file)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return [tokenizer.encode(text, add_special_tokens=special).ids for special in (True, False)]


def main() -> None:
    """Answer one request."""
    request: dict[str, Any] = json.loads(sys.stdin.readline())
    sys.path[:] = request["path"]
    import tokenizers  # noqa: F401 - its own memory is not the file's

    limit(request["memory"], request["seconds"])
    print(json.dumps(encode(request["file"], request["text"])))  # noqa: T201 - it is how it answers


if __name__ == "__main__":
    main()
