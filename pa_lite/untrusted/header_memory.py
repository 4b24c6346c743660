"""Limit the memory of all headers of a checkpoint together: each may be small, and their sum too large."""

from __future__ import annotations

from pa_lite.errors import CheckpointError
from pa_lite.system.byte_source import ByteSource

MOST = 1 << 30  # bytes; the headers of the largest published checkpoints (150,000 tensors) take a fifth of it


class HeaderMemory:
    """Adds up estimated bytes of memory, and refuses more than `MOST`."""

    def __init__(self) -> None:
        self._left = self._most = MOST

    def add(self, n: int, path: ByteSource) -> None:
        """Count n bytes that are about to be read from a file. Raises CheckpointError when the sum is too large."""
        self._left -= n
        if self._left < 0:
            raise CheckpointError(
                f"{path}: up to this file, the headers of the checkpoint take more than {self._most >> 20} MB of "
                "memory, the limit for all its files. Fetch it again, or use another copy of the model."
            )
