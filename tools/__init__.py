"""Programs for developers: benchmarks, fuzzers, fault campaigns, generated references, the making of the demo pair.

Run them from the repository's folder: `python -m tools.bench merge`, `python -m tools.chaos`, `python -m tools.fuzz`,
`python -m tools.demo train`, `python -m tools.docs`. tools/README.md describes them.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # the repository


def program(module: str) -> list[str]:
    """Return the command that runs a module of `tools` as a program, from any folder."""
    start = f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); "
    return [sys.executable, "-c", f"{start}runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"]
