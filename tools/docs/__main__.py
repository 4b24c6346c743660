"""Write pa_lite/API.md and pa_lite/COMMANDS.md from docstrings, signatures and the commands' help.

python -m tools.docs [--check]
"""

from __future__ import annotations

import sys

from tools.docs.reference import FILES, stale


def main() -> None:
    """Write the references, or with --check name those that are out of date and exit with 1."""
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(__doc__)
    found = stale()
    if sys.argv[1:]:
        for path in found:
            print(f"{path.name} is out of date: run python -m tools.docs")
        sys.exit(1 if found else 0)
    for path, make in FILES.items():
        path.write_text(make(), "utf-8")


if __name__ == "__main__":
    main()
