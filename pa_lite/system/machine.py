"""Facts about the machine: cores, memory, limits of this process, and the user's folders."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

# bytes of address space and of data that Python and numpy need at least, with one OpenBLAS thread
_LEAST_ADDRESSES, _LEAST_DATA = 400_000_000, 100_000_000


def cores() -> int:
    """Return the number of cores that this process may use, at least 1.

    That can be fewer than the machine has: the process may be bound to some of them, or a container may limit its
    processor time (rounded up to whole cores). More threads than that would wait for each other.
    """
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _container_cores()
    return max(1, min(n, math.ceil(quota))) if quota else n


def _container_cores() -> float:
    """Return the processor seconds per second that this process's control group may use; 0 without a limit."""
    for names in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):  # control groups version 2, then 1
        try:
            limit, period = " ".join(Path(f"/sys/fs/cgroup/{name}").read_text("ascii") for name in names).split()
            return max(0.0, int(limit) / int(period))  # no limit is "max" in version 2, -1 in version 1
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return 0.0


def resident_bytes() -> int:
    """Return the memory that this process holds, or its peak where the system reports only that; 0 on Windows."""
    try:
        with open("/proc/self/statm", encoding="ascii") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak_bytes()


def peak_bytes() -> int:
    """Return the peak memory of this process in bytes; 0 on Windows."""
    if peak := status_bytes("VmHWM"):
        return peak  # on Linux getrusage would also count what the parent held when it started this process
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def status_bytes(field: str, pid: int | str = "self") -> int:
    """Return a field of a process's status on Linux, such as `VmHWM`, in bytes; 0 where it is unknown."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as f:
            return next((int(line.split()[1]) * 1024 for line in f if line.startswith(f"{field}:")), 0)
    except (OSError, ValueError):
        return 0


def allow_open_files(n: int) -> None:
    """Raise this process's limit of open files to about n, up to the system's hard limit. POSIX only."""
    try:
        import resource
    except ImportError:
        return
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if now < n:
        resource.setrlimit(resource.RLIMIT_NOFILE, (n if most == resource.RLIM_INFINITY else min(n, most), most))


def soft_limit(name: str) -> int | None:
    """Return this process's soft limit of a resource such as `RLIMIT_FSIZE`; None where there is none."""
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrlimit(getattr(resource, name))[0] if hasattr(resource, name) else resource.RLIM_INFINITY
    return None if most == resource.RLIM_INFINITY else most


def little_memory() -> str:
    """Return an error message if a limit leaves this process too little memory to load numpy; else an empty string.

    Without this check, numpy's OpenBLAS would print its own message and exit.
    """
    for name, least, option in (("RLIMIT_AS", _LEAST_ADDRESSES, "-v"), ("RLIMIT_DATA", _LEAST_DATA, "-d")):
        most = soft_limit(name)
        if most is not None and most < least:
            return (
                f"memory is limited to {most / 1e6:.0f} MB (ulimit {option}), and every command needs at least "
                f"{least / 1e6:.0f} MB. Allow more (ulimit {option} unlimited)."
            )
    return ""


def total_memory() -> int:
    """Return the machine's memory in bytes, or the container's limit if that is lower; 0 where it is unknown."""
    if sys.platform == "win32":
        return _windows_memory()[0]
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
    limit, _ = _container_memory()
    return min(total, limit) if limit else total


def available_memory() -> int:
    """Return the bytes of memory that programs can allocate now without swapping; on macOS, the total memory."""
    if sys.platform == "win32":
        return _windows_memory()[1]
    try:
        with open("/proc/meminfo", encoding="ascii") as f:
            fields = dict(line.split(":", 1) for line in f)
        available = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return total_memory()
    limit, used = _container_memory()
    return max(0, min(available, limit - used)) if limit else available


def _container_memory() -> tuple[int, int]:
    """Return limit and use of this process's control group, in bytes; a limit of 0 means none."""
    for limit, use in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            values = [int(Path(name).read_text("ascii")) for name in (limit, use)]
        except (OSError, ValueError):
            continue
        return (values[0], values[1]) if values[0] < 1 << 60 else (0, 0)
    return 0, 0


def _windows_memory() -> tuple[int, int]:
    """Return total and available memory in bytes, from GlobalMemoryStatusEx."""
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = (("length", ctypes.c_uint32), ("load", ctypes.c_uint32), ("total", ctypes.c_uint64),
                    ("available", ctypes.c_uint64), ("rest", ctypes.c_uint64 * 5))  # fmt: skip

    status = Status(length=ctypes.sizeof(Status))
    library = getattr(ctypes, "windll", None)
    if library is None or not library.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return 0, 0
    return int(status.total), int(status.available)


def config_folder() -> Path:
    """Return the folder for the user's settings of pa-lite; it need not exist.

    XDG_CONFIG_HOME or ~/.config, ~/Library/Application Support on macOS, APPDATA on Windows.
    """
    return _user_folder("XDG_CONFIG_HOME", ".config", "Application Support", "APPDATA", "Roaming") / "pa-lite"


def cache_folder() -> Path:
    """Return the folder for files that can be created again; it need not exist.

    XDG_CACHE_HOME or ~/.cache, ~/Library/Caches on macOS, LOCALAPPDATA on Windows.
    """
    folder = _user_folder("XDG_CACHE_HOME", ".cache", "Caches", "LOCALAPPDATA", "Local") / "pa-lite"
    return folder / "Cache" if sys.platform == "win32" else folder


def state_folder() -> Path:
    """Return the folder for what is kept between runs, such as the history of chats; it need not exist.

    XDG_STATE_HOME or ~/.local/state, ~/Library/Application Support on macOS, LOCALAPPDATA on Windows.
    """
    return _user_folder("XDG_STATE_HOME", ".local/state", "Application Support", "LOCALAPPDATA", "Local") / "pa-lite"


def _user_folder(xdg: str, name: str, library: str, windows: str, app_data: str) -> Path:
    """Return a folder for the current system, from an environment variable or its usual name."""
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get(windows) or home / "AppData" / app_data)
    if sys.platform == "darwin":
        return home / "Library" / library
    chosen = os.environ.get(xdg, "")
    return Path(chosen) if os.path.isabs(chosen) else home / name
