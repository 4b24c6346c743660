"""What this machine gives us: cores and memory. Imports only errors."""

from __future__ import annotations

import os
import sys


def cores() -> int:
    """Cores that this process may use: fewer than the machine has where it was bound to some of them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def resident_bytes() -> int:
    """The memory that this process holds, or the most it ever held where the system tells no more; 0 on Windows."""
    try:
        with open("/proc/self/statm", encoding="ascii") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak_bytes()


def available_bytes() -> int:
    """Memory that programs may still take without others' being swapped out; 0 where the system does not tell."""
    try:
        with open("/proc/meminfo", encoding="ascii") as f:
            for line in f:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def peak_bytes() -> int:
    """The most memory that this process ever held; 0 on Windows."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
