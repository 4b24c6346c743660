"""Journal of results, appended as they arrive, so that a killed run loses none and repeats none.

`.NAME.part` next to the output `NAME` is a JSONL file. Its first line is our marker with the facts that determine the
results, each as a digest; every further line is one result with its index, in order of arrival. It is removed when
`NAME` is complete. A file of that name without the marker is not ours: it is neither read nor changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, get_type_hints

from pa_lite.errors import InputChangedError, OutputError
from pa_lite.system.atomic import NO_MARKER, in_the_way, sync_folder, write_errors
from pa_lite.system.locks import PATIENCE
from pa_lite.system.markers import RESULTS, marker_line, read_results_head
from pa_lite.system.opening import NotPlainError, is_at, open_or_create, open_regular
from pa_lite.untrusted.strict_json import parse_json

_Result = TypeVar("_Result")
_LONGEST_LINE = 1 << 16  # bytes of the first line
_LONGEST_RESULT = 1 << 26  # bytes of a result's line: far more than the longest answer
_SYNC_SECONDS = 1.0  # a power failure may lose results newer than this; a killed process loses none


def recorded_fact(target: Path, name: str) -> str | None:
    """Return a fact of the journal that an earlier run left next to `target`, or None.

    The value is not validated here: opening the journal with the same facts does that.
    """
    try:
        with open_regular(target.with_name(f".{target.name}.part")) as file:
            value = parse_json(file.readline(_LONGEST_LINE), nan=True)["facts"].get(name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return value if isinstance(value, str) else None


def digest(value: object) -> str:
    """Return a hexadecimal digest of any JSON value; equal values have equal digests."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("ascii")).hexdigest()[:32]


class Journal:
    """The results so far, of `n`, by index; a context manager, locked against other processes while open.

    `facts` maps what determines the results (`model`, `prompts`, ...) to digests. `resume` continues a journal with the
    same facts, `force` discards earlier results. Raises OutputError when there are earlier results and neither is
    given, when a fact differs with `resume`, and when another process is writing.
    """

    def __init__(
        self, target: Path, facts: Mapping[str, str], n: int, resume: bool = False, force: bool = False
    ) -> None:
        self.target, self.n = target, n
        self.path = target.with_name(f".{target.name}.part")
        self.results: dict[int, Any] = {}
        self._facts = dict(facts)
        self._synced = time.monotonic()
        self._is_there = True
        with write_errors(target.parent):
            self._file, is_new = self._open()
            try:
                if not is_new:
                    self._take_up(resume, force)
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *rest: object) -> None:
        if exc_type is not None and issubclass(exc_type, InputChangedError):
            self.results = {}  # any of them may come from the changed file
        self.close()

    def add(self, index: int, result: Any) -> None:
        """Append a result. It survives a killed process at once, and a power failure within a second.

        Raises OutputError when it cannot be written, for example on a full disk; earlier results are kept.
        """
        assert index not in self.results
        assert 0 <= index < self.n
        try:
            self._write({"place": index, "result": result})
        except OSError as e:
            raise OutputError(
                f"{self.target}: the next result cannot be written ({e.strerror}); {len(self.results)} of {self.n} are "
                "kept. Free some space and continue with --resume."
            ) from e
        self.results[index] = result

    def results_as(self, result_type: type[_Result], is_possible: Callable[[_Result], bool]) -> dict[int, _Result]:
        """Return the results so far as instances of a dataclass, by index.

        Raises OutputError for a result with other fields or types, or for which `is_possible` is false.
        """
        types = get_type_hints(result_type)
        found = {}
        for index, result in self.results.items():
            if not isinstance(result, dict) or result.keys() != types.keys():
                raise self._damaged(index)
            if not all(isinstance(result[name], types[name]) for name in types):
                raise self._damaged(index)
            found[index] = result_type(**result)
            if not is_possible(found[index]):
                raise self._damaged(index)
        return found

    def _damaged(self, index: int) -> OutputError:
        return OutputError(
            f"{self.target}: result {index} in {self.path} is damaged. Discard the earlier results with --force."
        )

    def finish(self) -> None:
        """Remove the journal. Call it after `target` is written."""
        self._remove()
        self._is_there = False

    def close(self) -> None:
        """Close the file, and remove it when it holds no result."""
        if self._file.closed:
            return
        with contextlib.suppress(OSError):
            os.fsync(self._file.fileno())
        if self._is_there and not self.results:
            self._remove()
        with contextlib.suppress(OSError):  # `add` has reported what could not be written
            self._file.close()

    def _remove(self) -> None:
        """Remove the open journal, unless another file has taken its name."""
        if is_at(self._file.fileno(), self.path):
            if os.name != "posix":
                self._file.close()
            self.path.unlink(missing_ok=True)

    def _take_up(self, resume: bool, force: bool) -> None:
        """Continue the existing journal, or discard it and start an empty one."""
        found = self._read()
        if found is None:
            self._is_there = False  # not ours, so not ours to remove
            raise in_the_way(self.path, NO_MARKER, self.target)
        facts, self.results, end = found
        changed = [k for k in {**facts, **self._facts} if k in facts and facts[k] != self._facts.get(k)]
        unknown = [k for k in self._facts if k not in facts]
        if self.results and not force and not resume:
            raise OutputError(
                f"{self.target}: an earlier run left {len(self.results)} results. Continue it with --resume, or "
                "discard them with --force."
            )
        if self.results and not force and changed:
            raise OutputError(
                f"{self.target}: cannot resume, as the {' and the '.join(changed)} changed. Use the same as before, "
                "name another output (-o), or discard the earlier results with --force."
            )
        if self.results and not force and unknown:
            raise OutputError(
                f"{self.target}: cannot resume: an older pa-lite started it and did not record the "
                f"{', the '.join(unknown)}, which may have changed. Discard the earlier results with --force, or name "
                "another output (-o)."
            )
        if self.results and resume and not changed and not unknown:
            self._file.truncate(end)
            return
        self.results = {}
        self._remove()
        self._file.close()
        self._file, is_new = self._open()
        if not is_new:
            self._is_there = False
            raise self._busy()

    def _read(self) -> tuple[dict[str, str], dict[int, Any], int] | None:
        """Return the facts, the results and the offset after the last complete line; None if it is not our journal."""
        head = read_results_head(self._file)
        if head is None:
            return None
        results: dict[int, Any] = {}
        end = self._file.tell()
        while line := self._file.readline(_LONGEST_RESULT):
            if not line.endswith(b"\n"):
                break  # truncated, or longer than any result
            try:
                entry = parse_json(line, nan=True)
                if type(entry["place"]) is int and 0 <= entry["place"] < self.n:
                    results[entry["place"]] = entry["result"]
            except (ValueError, KeyError, TypeError):
                break
            end += len(line)
        return dict(head["facts"]), results, end

    def _write(self, entry: Mapping[str, Any]) -> None:
        """Append a line. The file is open for appending, so the read position does not matter."""
        self._file.write(json.dumps(entry).encode("ascii") + b"\n")
        self._file.flush()
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def _open(self) -> tuple[BinaryIO, bool]:
        """Open or create the journal and lock it; return the file and whether it is new (only the first line)."""

        def begin(file: BinaryIO) -> None:
            file.write(marker_line(RESULTS, self.path.name, facts=self._facts, n=self.n))
            file.flush()
            os.fsync(file.fileno())

        try:
            file, is_new = open_or_create(self.path, begin, PATIENCE, append=True)
        except BlockingIOError as e:
            raise self._busy() from e
        except NotPlainError as e:
            raise in_the_way(self.path, e.what, self.target) from e
        if is_new:
            sync_folder(self.path.parent)
        return file, is_new

    def _busy(self) -> OutputError:
        return OutputError(f"{self.target}: another process is writing it. Wait for it, or name another output (-o).")
