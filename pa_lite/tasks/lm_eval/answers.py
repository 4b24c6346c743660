"""Answers of a model that later lm-eval runs reuse, in a file from which nothing can be executed.

lm-eval's own file contains pickles, and reading one can execute code. This one is JSON lines: the first identifies the
model, each other line has the digest of a request and its answer. Does not need lm-eval.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from pa_lite.errors import OutputError
from pa_lite.system.atomic import write_errors
from pa_lite.system.locks import take_lock
from pa_lite.system.markers import is_mine
from pa_lite.system.opening import NotPlainError, is_at, open_or_create
from pa_lite.untrusted.strict_json import parse_json

ENDING = ".jsonl"
_KEY, _FORMAT = "pa-lite answers", 1
_LONGEST_HEAD = 4096  # bytes
_LARGEST = 1 << 31  # bytes of a file that is read
_PATIENCE = 10.0  # seconds to wait for another process's lock on the file
_SYNC_SECONDS = 1.0  # answers newer than this may be lost in a power failure, but not if the process is killed
_WHEN_FULL = "the answers so far are kept. Free some space and run the same command again."
Answer = tuple[float, bool] | float | str
_REQUEST_TYPES = ("loglikelihood", "loglikelihood_rolling", "generate_until")


def request_digest(request_type: str, arguments: Sequence[Any]) -> str:
    """Return a digest of a request: its type (one of lm-eval's three), its texts, and its settings in any order."""
    assert request_type in _REQUEST_TYPES
    return hashlib.sha256(json.dumps([request_type, *arguments], sort_keys=True).encode("ascii")).hexdigest()[:32]


class Answers:
    """The answers of one model in a file that several processes may append to. A context manager.

    `decides` is a digest of everything except the requests that determines the answers. Raises OutputError for another
    user's file, one that is not an answers file or is another model's, for links and pipes, and if writing fails.
    """

    def __init__(self, path: Path, decides: str) -> None:
        self.path = path
        self._head = json.dumps({_KEY: _FORMAT, "decides": decides}).encode("ascii") + b"\n"
        self._known: dict[str, Answer] = {}
        self._synced = time.monotonic()
        with write_errors(path.parent, _WHEN_FULL):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._open()
            try:
                self._read()
            except BaseException:
                self._file.close()
                raise

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, and remove it if it has no answer."""
        if self._file.closed:
            return
        with contextlib.suppress(OSError):
            is_empty = not self._known and os.fstat(self._file.fileno()).st_size <= len(self._head)
            if is_empty and is_at(self._file.fileno(), self.path):
                if os.name != "posix":
                    self._file.close()
                self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._file.close()

    def get(self, request_type: str, arguments: Sequence[Any]) -> Answer | None:
        """Return the answer to a request; None if there is none or it does not fit the type of request."""
        answer = self._known.get(request_digest(request_type, arguments))
        return answer if _fits(request_type, answer) else None

    def add(self, request_type: str, arguments: Sequence[Any], answer: Answer) -> None:
        """Append an answer, unless JSON cannot represent it exactly. Raises OutputError."""
        digest = request_digest(request_type, arguments)
        if digest in self._known or not _fits(request_type, answer):
            return
        line = json.dumps({"request": digest, "answer": answer}).encode("ascii") + b"\n"
        with write_errors(self.path.parent, _WHEN_FULL):
            self._write(line)
        self._known[digest] = answer

    def _write(self, line: bytes) -> None:
        """Append a complete line, or nothing."""
        descriptor = self._file.fileno()
        self._lock()
        try:
            end = self._whole_size()
            try:
                while line:
                    line = line[os.write(descriptor, line) :]
                if time.monotonic() - self._synced > _SYNC_SECONDS:
                    os.fsync(descriptor)
                    self._synced = time.monotonic()
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, end)
                raise
        finally:
            _unlock(self._file)

    def _whole_size(self) -> int:
        """Remove an incomplete line that a killed process left, and return the size."""
        descriptor = self._file.fileno()
        end = os.lseek(descriptor, 0, os.SEEK_END)
        if end and (os.lseek(descriptor, end - 1, os.SEEK_SET), os.read(descriptor, 1))[1] != b"\n":
            self._file.seek(0)
            end = self._file.read().rfind(b"\n") + 1
            os.ftruncate(descriptor, end)
        return end

    def _lock(self) -> None:
        if take_lock(self._file.fileno(), _PATIENCE) is False:
            raise OutputError(f"{self.path}: another process has locked it. Name another file (--use_cache).")

    def _open(self) -> BinaryIO:
        """Open the file, and create it if it does not exist."""
        try:
            return open_or_create(self.path, self._head, append=True)[0]
        except NotPlainError as e:
            raise self._refused(e.what) from e

    def _refused(self, why: str) -> OutputError:
        return OutputError(
            f"{self.path}: answers cannot be kept there: {why}. Remove it, or name another (--use_cache)."
        )

    def _read(self) -> None:
        """Read the answers of all complete lines."""
        facts = os.fstat(self._file.fileno())
        if not is_mine(facts):
            raise self._refused("another user owns the file")
        if facts.st_size > _LARGEST:
            raise self._refused(f"it has {facts.st_size / 1e9:.1f} GB, and the limit is {_LARGEST / 1e9:.1f} GB")
        self._file.seek(0)
        head = self._file.readline(_LONGEST_HEAD)
        if head != self._head:
            is_ours = head.startswith(b'{"' + _KEY.encode() + b'": ')
            raise self._refused("it has another model's answers" if is_ours else "pa-lite did not write this file")
        for number, line in enumerate(self._file, 2):
            if not line.endswith(b"\n"):
                return  # a process was killed while writing
            try:
                entry = parse_json(line)
            except ValueError as e:
                raise self._refused(f"line {number} is damaged ({e})") from e
            answer: Any = entry.get("answer") if isinstance(entry, Mapping) else None
            answer = tuple(answer) if isinstance(answer, list) else answer
            if (
                not isinstance(entry, Mapping)
                or entry.keys() != {"request", "answer"}
                or not isinstance(entry["request"], str)
                or not any(_fits(request_type, answer) for request_type in _REQUEST_TYPES)
            ):
                raise self._refused(f"line {number} is not an answer")
            self._known[entry["request"]] = answer


def _fits(request_type: str, answer: object) -> bool:
    """Return whether a request of this type can have this answer."""
    if request_type == "generate_until":
        return isinstance(answer, str) and answer == answer.encode("utf-8", "replace").decode("utf-8")
    if request_type == "loglikelihood_rolling":
        return type(answer) is float and math.isfinite(answer)
    return (
        isinstance(answer, tuple)
        and len(answer) == 2
        and type(answer[0]) is float
        and math.isfinite(answer[0])
        and type(answer[1]) is bool
    )


def _unlock(file: BinaryIO) -> None:
    """Release the lock."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_UN)
