"""Rules that a reader must keep for every input: one clear error at most, limited time and memory, no other files.

Works without atheris: tests replay the corpus through the same `Judge`.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pa_lite
from pa_lite.errors import PaLiteError
from pa_lite.sanitize import one_line
from pa_lite.system.markers import FOLDER_PREFIX

_LONGEST_MESSAGE = 2000  # characters
_SECONDS, _SECONDS_A_MEGABYTE = 2.0, 4.0  # instrumented code is several times slower than what users run
_BYTES, _BYTES_A_BYTE = 16 << 20, 400  # a Python object takes dozens of bytes, and a list of objects as much again
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# audit events of actions that no reader takes
_FORBIDDEN = frozenset((
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.system",
    "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.kill", "subprocess.Popen", "socket.connect",
    "socket.bind", "socket.getaddrinfo", "socket.sendto", "pickle.find_class", "shutil.rmtree", "shutil.copyfile",
    "tempfile.mkstemp", "tempfile.mkdtemp", "sqlite3.connect",
))  # fmt: skip
# folders with our own modules and data, Python's and the system's
_OWN = tuple(
    {f"{path}{os.sep}" for path in (Path(pa_lite.__file__).resolve().parents[1], sys.base_prefix, *sys.path) if path}
    | {"/proc/", "/sys/"}
)

Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Target:
    """A reader under test.

    `files` splits an input into files, which are written to a separate folder; `read` reads them and may raise any
    PaLiteError. `mutate` changes an input by its structure, `seeds` returns inputs to start from. `writes` are file
    names that the reader may write, as a journal does. `longest` limits an input's bytes. A target that is not
    `bounded` has its own limits of time and memory; a `private` one may use a private temporary folder, with SQLite.
    """

    name: str
    description: str
    files: Callable[[bytes], Files]
    read: Callable[[Path], object]
    mutate: Callable[[bytes, Random], bytes]
    seeds: Callable[[], list[bytes]]
    writes: frozenset[str] = frozenset()
    longest: int = 1 << 14
    bounded: bool = True
    private: bool = False


def memory_folder() -> Path | None:
    """Return a folder whose files are in memory; None if the system has none."""
    folder = Path("/dev/shm")
    return folder if folder.is_dir() else None


def whole(name: str) -> Callable[[bytes], Files]:
    """Return a function that treats an input as the only file, with this name."""
    return lambda data: {name: data}


class Finding(Exception):  # noqa: N818 - it is what the fuzzer looks for
    """An input that breaks a promise; `kind` is the same for inputs that break it at the same line."""

    def __init__(self, kind: str, details: str) -> None:
        super().__init__(f"{kind}: {details}")
        self.kind = kind


class _Watch:
    """Watches with Python's audit events what a reader does to the system, while `on`."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        self.folder, self.writes = "", frozenset[str]()
        self.temporary = ""  # prefix of the private folder's path; empty if none is allowed
        self._is_added = False

    def begin(self, folder: str, writes: frozenset[str], private: bool = False) -> None:
        if not self._is_added:
            sys.addaudithook(self._event)  # hooks cannot be removed: it is inactive while `on` is false
            self._is_added = True
        self.folder, self.writes, self.seen = folder + os.sep, writes, []
        self.temporary = f"{tempfile.gettempdir()}{os.sep}{FOLDER_PREFIX}{os.getpid()}-" if private else ""
        self.on = True

    def _event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if self.temporary and self._is_private(event, arguments):
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, int) or not self._is_wrong(os.fsdecode(path), flags):
                return
            event = f"open {os.fsdecode(path)!r} {'for writing' if flags & _WRITES else ''}"
        elif event not in _FORBIDDEN:
            return
        elif event in ("os.remove", "os.link") and os.path.basename(arguments[event == "os.link"]) in self.writes:
            return  # a file without a name gets one by a link
        self.seen.append(f"{event} at {_caller()}")
        raise RuntimeError(f"the fuzzer forbids {event}")

    def _is_private(self, event: str, arguments: tuple[Any, ...]) -> bool:
        """Return whether it happens in a private folder, by name or by descriptor of the open folder."""
        if event == "sqlite3.connect":
            path = os.fsdecode(arguments[0])
            return path == ":memory:" or path.startswith(Path(self.temporary).as_uri())
        if event not in ("open", "os.mkdir", "os.remove", "os.rmdir", "os.link", "shutil.rmtree"):
            return False
        path = arguments[event == "os.link"]
        if not isinstance(path, (str, bytes, os.PathLike)):
            return False
        if event == "os.remove" and arguments[1] not in (-1, None):
            path = os.path.join(os.readlink(f"/proc/self/fd/{arguments[1]}"), os.fsdecode(path))
        is_parent = event == "open" and os.fsdecode(path) == tempfile.gettempdir()  # for a file that has no name yet
        return os.fsdecode(path).startswith(self.temporary) or is_parent

    def _is_wrong(self, path: str, flags: int) -> bool:
        if path.startswith("<"):  # the name of compiled text, whose line Python would show
            return False
        inside = f"{path}{os.sep}".startswith(self.folder) and ".." not in path
        if flags & _WRITES:
            if self.writes and f"{path}{os.sep}" == self.folder and flags & getattr(os, "O_DIRECTORY", 0):
                return False  # a file without a name: it gets one that may be written
            return not (inside and os.path.basename(path) in self.writes)
        return not (inside or path.startswith(_OWN) or "__pycache__" in path)


class Judge:
    """Runs inputs through a target's reader, each in a clean folder. A context manager."""

    def __init__(self, target: Target, below: Path | None = None) -> None:
        """Use a folder below `below`, or in memory if the system supports it."""
        self.target = target
        self.folder = Path(tempfile.mkdtemp(prefix="pa-lite-fuzz-", dir=below or memory_folder()))
        self.message = ""  # of the error that refused the last input
        self._there: dict[str, bytes] = {}
        self._watch = _Watch()
        self._peak = _PeakMemory()

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *exc: object) -> None:
        shutil.rmtree(self.folder)

    def judge(self, data: bytes) -> bool:
        """Read an input; return whether the reader accepted it. Raises Finding for a broken rule."""
        self._place(self.target.files(data))
        before = self._peak.begin()
        start = time.perf_counter()
        self._watch.begin(str(self.folder), self.target.writes, self.target.private)
        error: BaseException | None = None
        try:
            self.target.read(self.folder)
        except KeyboardInterrupt:
            raise
        except BaseException as e:  # noqa: BLE001 - judged below, after the watch
            error = e
        finally:
            self._watch.on = False
        seconds, memory = time.perf_counter() - start, self._peak.now() - before
        self.message = ""
        if isinstance(error, PaLiteError):
            _check_message(error)
            self.message = str(error)
        elif error is not None:
            raise Finding(f"{type(error).__name__} at {_place_of(error)}", _shown(error)) from error
        self._check(seconds, memory, len(data))
        return error is None

    def _check(self, seconds: float, memory: int, size: int) -> None:
        if self._watch.seen:
            raise Finding("forbidden " + self._watch.seen[0].split()[0], self._watch.seen[0])
        left = {name for name in os.listdir(self.folder) if name not in self._there and name not in self.target.writes}
        if left:
            raise Finding("files left", f"{sorted(left)}")
        if not self.target.bounded:
            return
        if seconds > _SECONDS + _SECONDS_A_MEGABYTE * size / 1e6:
            raise Finding("slow", f"{seconds:.1f} s for {size} bytes")
        if memory > _BYTES + _BYTES_A_BYTE * size:
            raise Finding("memory", f"{memory >> 20} MB for {size} bytes")

    def _place(self, files: Files) -> None:
        """Make the folder contain exactly these files; equal ones stay."""
        for name in self._there.keys() - files.keys() | self.target.writes:
            self.folder.joinpath(name).unlink(missing_ok=True)
        for name, content in files.items():
            if self._there.get(name) != content or name in self.target.writes:
                with open(f"{self.folder}/{name}", "wb") as f:
                    f.write(content)
        self._there = dict(files)


class _PeakMemory:
    """The process's peak of resident bytes since `begin` (Linux, where it can be reset), otherwise since its start."""

    def __init__(self) -> None:
        try:
            self._reset: int | None = os.open("/proc/self/clear_refs", os.O_WRONLY)
        except OSError:
            self._reset = None

    def begin(self) -> int:
        if self._reset is not None:
            os.write(self._reset, b"5")
        return self.now()

    def now(self) -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _check_message(error: PaLiteError) -> None:
    try:
        text = str(error)
    except BaseException as e:
        raise Finding(f"message of {type(error).__name__}", f"str() failed: {e!r}") from e
    if not text.strip():
        raise Finding(f"message of {type(error).__name__} at {_place_of(error)}", "is empty")
    if len(text) > _LONGEST_MESSAGE:
        raise Finding(f"message too long at {_place_of(error)}", f"{len(text)} characters: {text[:200]!r}")
    if one_line(text) != text:
        raise Finding(f"message not of one plain line at {_place_of(error)}", repr(text[:300]))


def _caller() -> str:
    """Return the innermost line of pa_lite on the stack."""
    frame = sys._getframe()
    while frame.f_back and f"pa_lite{os.sep}" not in frame.f_code.co_filename:
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def _shown(error: BaseException) -> str:
    try:
        return str(error)[:300]
    except Exception as e:  # noqa: BLE001 - an error that cannot be shown is a finding
        return f"(cannot be shown: {type(e).__name__})"


def _place_of(error: BaseException) -> str:
    """Return the innermost line of pa_lite in an exception's traceback."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "pa_lite" in f.filename] or traceback.extract_tb(
        error.__traceback__
    )
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "nowhere"


@contextlib.contextmanager
def strict() -> Iterator[None]:
    """Turn warnings, numpy's included, into errors, because users would see them in their output."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
