"""Keep Python from writing truncated `.pyc` files under a limit of file sizes. Imports nothing of pa_lite.

Python does not check whether a `.pyc` file was written completely. Under such a limit (`ulimit -f`) it leaves truncated
ones, and from then on no command starts, with or without the limit.
"""

from __future__ import annotations

import sys

_LARGEST = 1 << 24  # bytes of a compiled file, at most


def keep_compiled_files_whole() -> None:
    """Stop this process from writing `.pyc` files if a limit of file sizes may truncate them. POSIX only."""
    try:
        import resource
    except ImportError:
        return
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if most != resource.RLIM_INFINITY and most < _LARGEST:
        sys.dont_write_bytecode = True
