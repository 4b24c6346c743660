"""Disks that misbehave: a small one that fills up, and one with read errors inside files. Linux only.

The second is a file system in user space that uses /dev/fuse; the kernel's `include/uapi/linux/fuse.h` defines the
messages. It shows a folder, read-only, and answers reads at chosen offsets with an error.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from tools.chaos.runs import ChaosError

_IN, _OUT = struct.Struct("<IIQQIIII"), struct.Struct("<IiQ")
_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _STATFS, _RELEASE, _FLUSH, _INIT = 1, 2, 3, 14, 15, 17, 18, 25, 26
_OPENDIR, _READDIR, _RELEASEDIR, _INTERRUPT, _BATCH_FORGET = 27, 28, 29, 36, 42
_MESSAGE = 1 << 18  # bytes of the longest message


def can_mount() -> bool:
    """Return whether this process may mount; see `own_namespace`."""
    return "PA_LITE_CHAOS" in os.environ


def own_namespace(words: list[str]) -> None:
    """Restart the campaign in a namespace where it may mount; return only if that is not possible."""
    if can_mount():
        return
    options = ["--mount"] if os.geteuid() == 0 else ["--mount", "--user", "--map-root-user"]
    probe = ["unshare", *options, "mount", "-t", "tmpfs", "none", "/mnt"]
    with contextlib.suppress(OSError):
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            os.environ["PA_LITE_CHAOS"] = "1"
            os.execvp("unshare", ["unshare", *options, *words])


def _mount(*words: str, descriptor: int = -1) -> None:
    kept = (descriptor,) if descriptor >= 0 else ()
    ended = subprocess.run(["mount", "-i", *words], capture_output=True, text=True, pass_fds=kept, check=False)
    if ended.returncode:
        raise ChaosError(f"{words[-1]}: cannot be mounted: {ended.stderr.strip()}")


class SmallDisk:
    """A disk of limited size in memory. A context manager."""

    def __init__(self, folder: Path, nbytes: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        _mount("-t", "tmpfs", "-o", f"size={max(nbytes, 4096)}", "chaos", str(folder))

    def __enter__(self) -> SmallDisk:
        return self

    def __exit__(self, *exc: object) -> None:
        subprocess.run(["umount", "-l", self.folder], check=True)

    def fill(self, spare: int = 0) -> None:
        """Let another program use the free space, except for `spare` bytes."""
        free = os.statvfs(self.folder)
        with contextlib.suppress(OSError), (self.folder / "filler").open("wb") as f:
            os.posix_fallocate(f.fileno(), 0, max(1, free.f_bavail * free.f_frsize - spare))

    def grow(self, nbytes: int) -> None:
        """Remove the other program's file, and resize the disk to `nbytes`."""
        (self.folder / "filler").unlink(missing_ok=True)
        _mount("-o", f"remount,size={nbytes}", str(self.folder))


class SickDisk:
    """A folder's files shown at another path, where the bytes in `sick` cannot be read. A context manager."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.source, self.folder = source, folder
        self.sick: dict[Path, int] = {}  # file below the folder -> a byte of it that cannot be read
        self.n_failed = 0
        self._paths = [source]  # by number of the node, from 1
        folder.mkdir(parents=True)
        self._device = os.open("/dev/fuse", os.O_RDWR)
        _mount(
            "-t", "fuse", "-o", f"fd={self._device},rootmode=40000,user_id=0,group_id=0,ro", "chaos", str(folder),
            descriptor=self._device,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> SickDisk:
        return self

    def __exit__(self, *exc: object) -> None:
        subprocess.run(["umount", "-l", self.folder], check=True)
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                message = os.read(self._device, _MESSAGE)
            except OSError as e:
                if e.errno == errno.EINTR:
                    continue
                os.close(self._device)
                return  # it was unmounted
            _, code, unique, node, *_ = _IN.unpack_from(message)
            if code in (_FORGET, _BATCH_FORGET, _INTERRUPT):
                continue
            try:
                body, status = self._answer(code, node, message[_IN.size :]), 0
            except OSError as e:
                body, status = b"", -(e.errno or errno.EIO)
            with contextlib.suppress(OSError):  # the reader may have been killed
                os.write(self._device, _OUT.pack(_OUT.size + len(body), status, unique) + body)

    def _answer(self, code: int, node: int, body: bytes) -> bytes:
        if code == _INIT:
            return struct.pack("<IIIIHHIIHHI28x", 7, 31, 1 << 17, 0, 16, 12, 1 << 17, 1, 32, 0, 0)
        path = self._paths[node - 1]
        if code == _LOOKUP:
            return self._entry(path / os.fsdecode(body.rstrip(b"\0")))
        if code == _GETATTR:
            return struct.pack("<QII", 0, 0, 0) + _attributes(path, node)
        if code in (_OPEN, _OPENDIR):
            return struct.pack("<QII", node, 0, 0)
        if code == _READ:
            _, offset, size, *_ = struct.unpack_from("<QQI", body)
            return self._read(path, offset, size)
        if code == _READDIR:
            _, offset, size, *_ = struct.unpack_from("<QQI", body)
            return _names(path, offset, size)
        if code in (_RELEASE, _RELEASEDIR, _FLUSH):
            return b""
        if code == _STATFS:
            return struct.pack("<QQQQQIIII24x", 1 << 20, 0, 0, 1 << 20, 0, 4096, 255, 4096, 0)
        raise OSError(errno.ENOSYS, "not known")

    def _entry(self, path: Path) -> bytes:
        os.stat(path)
        if path not in self._paths:
            self._paths.append(path)
        node = self._paths.index(path) + 1
        return struct.pack("<QQQQII", node, 0, 1, 0, 0, 0) + _attributes(path, node)

    def _read(self, path: Path, offset: int, size: int) -> bytes:
        sick = self.sick.get(path.relative_to(self.source), -1)
        if offset <= sick < offset + size:
            self.n_failed += 1
            raise OSError(errno.EIO, "sick")
        with path.open("rb", buffering=0) as f:
            return os.pread(f.fileno(), size, offset)


def _attributes(path: Path, node: int) -> bytes:
    facts = os.stat(path)
    seconds, parts = divmod(facts.st_mtime_ns, 10**9)
    mode = (stat.S_IFDIR | 0o555) if stat.S_ISDIR(facts.st_mode) else (stat.S_IFREG | 0o444)
    return struct.pack(
        "<QQQQQQIIIIIIIIII", node, facts.st_size, facts.st_blocks, seconds, seconds, seconds, parts, parts, parts, mode,
        1, 0, 0, 0, 4096, 0,
    )  # fmt: skip


def _names(folder: Path, offset: int, size: int) -> bytes:
    out = b""
    for i, name in enumerate(sorted(os.listdir(folder))):
        raw = os.fsencode(name)
        entry = struct.pack("<QQII", i + 2, i + 1, len(raw), 0) + raw
        entry += bytes(-len(entry) % 8)
        if i >= offset and len(out) + len(entry) <= size:
            out += entry
    return out


@contextlib.contextmanager
def sick_disk(source: Path, folder: Path) -> Iterator[SickDisk]:
    """Show a folder as a sick disk within the block."""
    with SickDisk(source, folder) as disk:
        yield disk
