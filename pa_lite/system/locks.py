"""Locks on open files: held by one process, given back when it ends, however it ends."""

from __future__ import annotations

import errno
import time

PATIENCE = 0.5  # seconds for which a lock may be held by who only looks whether it is
_PAUSE = 0.02  # seconds
# what file systems answer that cannot lock or sync such a thing; NFS locks nothing that is open to read alone (EBADF)
UNABLE = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF)


def take_lock(descriptor: int, patience: float = 0.0) -> bool | None:
    """Lock an open file or folder against other processes until it is closed, also by the process' death.

    False when another has it for longer than `patience`, in seconds; None where the system or the file system has no
    such locks.
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
