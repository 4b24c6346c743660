"""Check that a model's file can be read before it is mapped."""

from __future__ import annotations

import os
from pathlib import Path

from pa_lite.errors import CheckpointError
from pa_lite.system.machine import available_memory
from pa_lite.system.opening import open_regular

_PIECE = 1 << 24  # bytes


def check_readable(path: Path) -> None:
    """Read a file once, on Linux, if it fits in memory; it then stays in the page cache until it is mapped.

    In a mapped file, a read error of the disk cannot be caught: the kernel retries forever or kills the process. Raises
    CheckpointError that names the file and the byte.
    """
    if not hasattr(os, "sendfile") or not hasattr(os, "memfd_create"):
        return  # not Linux
    offset = 0
    try:
        with open_regular(path) as file, open(os.devnull, "wb") as nowhere:
            size = os.fstat(file.fileno()).st_size
            if size > available_memory():
                return
            while offset < size:
                n = os.sendfile(nowhere.fileno(), file.fileno(), offset, _PIECE)  # copies nothing
                if not n:
                    return  # it became shorter: reading the rest will fail with a better message
                offset += n
    except OSError as e:
        raise CheckpointError(
            f"{path}: cannot be read at byte {offset}: {e.strerror}. Check its disk, or fetch it again."
        ) from e
