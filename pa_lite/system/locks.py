"""Lock open files: one process holds the lock, and the system releases it when that process ends for any reason."""

from __future__ import annotations

import errno
import time

PATIENCE = 0.5  # seconds for which a process that only checks whether a file is locked may hold the lock
_PAUSE = 0.02  # seconds
# errors of file systems that cannot lock or sync; NFS does not lock files that are open for reading only (EBADF)
UNABLE = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF)


def take_lock(descriptor: int, patience: float = 0.0) -> bool | None:
    """Lock an open file or folder against other processes until it is closed or this process ends.

    Return False when another process holds the lock for longer than `patience` (seconds), None where the system or the
    file system does not support locks.
    """
    try:
        import fcntl
    except ImportError:
        return None
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(_PAUSE)
        except OSError as e:
            if e.errno in UNABLE:
                return None
            raise
        else:
            return True
