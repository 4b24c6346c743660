"""Python's compiled files (`.pyc`), kept whole where files may not grow. Imports nothing.

Python writes them without looking whether all of a file was written. Under a limit of file sizes (`ulimit -f`) it
leaves files that are cut off, and from then on no command starts, with or without the limit.
"""

from __future__ import annotations

import sys

_LARGEST = 1 << 24  # bytes of a compiled file, at most


def keep_compiled_files_whole() -> None:
    """Let this process write no compiled files if a limit of file sizes may cut them off. POSIX only."""
    try:
        import resource
    except ImportError:
        return
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if most != resource.RLIM_INFINITY and most < _LARGEST:
        sys.dont_write_bytecode = True
