"""Whether a model's file can be read at all, asked before it is mapped. Loads nothing."""

from __future__ import annotations

import os
from pathlib import Path

from pa_lite.errors import CheckpointError
from pa_lite.system.machine import available_memory
from pa_lite.system.opening import open_regular

_PIECE = 1 << 24  # bytes


def check_readable(path: Path) -> None:
    """Read a file once, on Linux, if it goes into memory, where it then lies when it is mapped: no second read.

    Where llama.cpp maps a file, a part that the disk cannot give is no error that anybody could catch: the kernel tries
    for ever to fill the map, or ends the process. Raises CheckpointError that names the file and the byte.
    """
    if not hasattr(os, "sendfile") or not hasattr(os, "memfd_create"):
        return  # no Linux: there maps are filled when they are used
    offset = 0
    try:
        with open_regular(path) as file, open(os.devnull, "wb") as nowhere:
            size = os.fstat(file.fileno()).st_size
            if size > available_memory():
                return
            while offset < size:
                n = os.sendfile(nowhere.fileno(), file.fileno(), offset, _PIECE)  # nothing is copied
                if not n:
                    return  # it became shorter, which is told by whoever needs the rest
                offset += n
    except OSError as e:
        raise CheckpointError(
            f"{path}: cannot be read at byte {offset}: {e.strerror}. Look at its disk, or fetch it again."
        ) from e
