"""Results that are written down as they come, so that a killed run loses none and does none again. Knows no model.

Beside `NAME`, `.NAME.part` is a JSONL file: first our marker with the facts that decide the results, each as a digest,
then one line for each result: its place and its content, in the order in which they came. It is gone when `NAME` is
written whole. A file at that name without the marker is somebody else's: it is neither read nor changed.
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
_LONGEST_LINE = 1 << 16  # bytes of a journal's facts
_LONGEST_RESULT = 1 << 26  # bytes of a result's line: far above the longest answer
_SYNC_SECONDS = 1.0  # results newer than this may be lost with the machine's power, but not with the process


def recorded_fact(target: Path, name: str) -> str | None:
    """Return a fact of the journal that an earlier run left beside `target`, None without one or without that fact.

    What it says is checked when the journal is opened with the same facts.
    """
    try:
        with open_regular(target.with_name(f".{target.name}.part")) as file:
            value = parse_json(file.readline(_LONGEST_LINE), nan=True)["facts"].get(name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return value if isinstance(value, str) else None


def digest(value: object) -> str:
    """A digest, hex, of anything that JSON can hold: equal values, equal digests."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("ascii")).hexdigest()[:32]


class Journal:
    """The results so far of `n` in all, by place; a context manager, locked against other processes while it is open.

    `facts` names what decides the results (`model`, `prompts`, ...) and gives a digest of each. With `resume` a journal
    with the same facts is taken up. Raises OutputError: without `resume` when there are results of an earlier run, with
    it when a fact has changed (`force` drops them in both cases), and when another process is writing.
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
            self.results = {}  # nobody knows which of them the file that changed had a part in
        self.close()

    def add(self, place: int, result: Any) -> None:
        """Write down a result: it survives the process from here on, and the machine's power within a second.

        Raises OutputError when there is no room for it; the earlier ones are kept.
        """
        assert place not in self.results
        assert 0 <= place < self.n
        try:
            self._write({"place": place, "result": result})
        except OSError as e:
            raise OutputError(
                f"{self.target}: the next result cannot be written ({e.strerror}). Make room, then go on with "
                f"--resume: {len(self.results)} of {self.n} are kept."
            ) from e
        self.results[place] = result

    def results_as(self, result_type: type[_Result], is_possible: Callable[[_Result], bool]) -> dict[int, _Result]:
        """Return the results so far as objects of a dataclass, by place.

        Raises OutputError for one that is not such an object, or for which `is_possible` is false.
        """
        types = get_type_hints(result_type)
        found = {}
        for place, result in self.results.items():
            if not isinstance(result, dict) or result.keys() != types.keys():
                raise self._damaged(place)
            if not all(isinstance(result[name], types[name]) for name in types):
                raise self._damaged(place)
            found[place] = result_type(**result)
            if not is_possible(found[place]):
                raise self._damaged(place)
        return found

    def _damaged(self, place: int) -> OutputError:
        return OutputError(
            f"{self.target}: result {place} in {self.path} is damaged. Drop the earlier results with --force."
        )

    def finish(self) -> None:
        """Remove the journal: what it was for is written. Call it behind the writing of `target`."""
        self._remove()
        self._is_there = False

    def close(self) -> None:
        """Let go of the file, and remove it when it holds no result."""
        if self._file.closed:
            return
        with contextlib.suppress(OSError):
            os.fsync(self._file.fileno())
        if self._is_there and not self.results:
            self._remove()
        with contextlib.suppress(OSError):  # what could not be written was told when it was
            self._file.close()

    def _remove(self) -> None:
        """Remove the open journal, if it still has its name."""
        if is_at(self._file.fileno(), self.path):
            if os.name != "posix":
                self._file.close()
            self.path.unlink(missing_ok=True)

    def _take_up(self, resume: bool, force: bool) -> None:
        """Continue with what is there, or drop it and begin anew."""
        found = self._read()
        if found is None:
            self._is_there = False  # not ours, so not ours to remove
            raise in_the_way(self.path, NO_MARKER, self.target)
        facts, self.results, end = found
        changed = [k for k in {**facts, **self._facts} if k in facts and facts[k] != self._facts.get(k)]
        unknown = [k for k in self._facts if k not in facts]
        if self.results and not force and not resume:
            raise OutputError(
                f"{self.target}: an earlier run left {len(self.results)} results. Continue it with --resume, or drop "
                "them with --force."
            )
        if self.results and not force and changed:
            raise OutputError(
                f"{self.target}: cannot be continued, as the {' and the '.join(changed)} changed since. Give the same, "
                "name another output (-o), or drop the earlier results with --force."
            )
        if self.results and not force and unknown:
            raise OutputError(
                f"{self.target}: cannot be continued: it was started by a pa-lite that did not record the "
                f"{', the '.join(unknown)}, so whether they are the same is not known. Drop the earlier results with "
                "--force, or name another output (-o)."
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
        """The facts, the results, and where the last whole line ends: what stands after it was cut off.

        None for a file that is not a journal of ours.
        """
        head = read_results_head(self._file)
        if head is None:
            return None
        results: dict[int, Any] = {}
        end = self._file.tell()
        while line := self._file.readline(_LONGEST_RESULT):
            if not line.endswith(b"\n"):
                break  # cut off, or longer than any result
            try:
                entry = parse_json(line, nan=True)
                if type(entry["place"]) is int and 0 <= entry["place"] < self.n:
                    results[entry["place"]] = entry["result"]
            except (ValueError, KeyError, TypeError):
                break
            end += len(line)
        return dict(head["facts"]), results, end

    def _write(self, entry: Mapping[str, Any]) -> None:
        """Append a line; the file is open for appending, so wherever reading left off does not matter."""
        self._file.write(json.dumps(entry).encode("ascii") + b"\n")
        self._file.flush()
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def _open(self) -> tuple[BinaryIO, bool]:
        """Open the journal, made if need be, and lock it; whether it is new, with nothing but its first line."""

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
