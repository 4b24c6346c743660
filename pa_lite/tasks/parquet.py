"""Rows of parquet files, read in blocks by a worker process with limits (see `parquet_worker`)."""

from __future__ import annotations

import datetime
import decimal
import importlib.util
import os
import time
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pa_lite.errors import EngineError, InputError
from pa_lite.tasks.parquet_worker import MEMORY
from pa_lite.untrusted.sandbox import LimitedProcess

WORKER = "pa_lite.tasks.parquet_worker"
_WHOLE = 64 << 20  # decoded bytes of a file up to which unused columns are read too
# wall-clock limits for all files of a data set
_SECONDS, _BYTES_A_SECOND, _READS_A_SECOND = 60, 1_000_000, 20
_MAKERS: dict[str, Callable[[Any], Any]] = {
    "bytes": lambda text: text.encode("latin-1"),
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "timedelta": lambda parts: datetime.timedelta(*parts),
    "decimal": decimal.Decimal,
    "text": str,
}


class ParquetReader:
    """The worker process that reads parquet files, from the first file until `close`."""

    def __init__(self) -> None:
        self._process = LimitedProcess(WORKER, MEMORY)
        self._finish = weakref.finalize(self, self._process.close)
        self._seconds = self._longest = 0.0

    def close(self) -> None:
        """Stop the process; it starts again when another row is requested."""
        self._process.close()

    def open(self, path: Path, used: Collection[str] | None = None) -> ParquetRows:
        """Open a file and read its columns `used`; None reads all, and so does a small file.

        Raises InputError if it cannot be read.
        """
        if importlib.util.find_spec("pyarrow") is None:
            raise InputError(f"{path}: reading parquet needs pyarrow, which is missing. Run: pip install pyarrow")
        try:
            facts = path.stat()
        except OSError as e:
            raise InputError(f"{path}: cannot be read: {e.strerror or e}.") from e
        self._longest += facts.st_size / _BYTES_A_SECOND
        request = {"path": os.fspath(path), "identity": [facts.st_size, facts.st_mtime_ns]}
        found = self._ask(path, {"do": "open", **request})
        names: list[str] = found["names"]
        is_whole = used is None or sum(found["claims"]) <= _WHOLE
        columns = names if is_whole else [name for name in names if name in (used or ())]
        return ParquetRows(
            path=path,
            n=found["rows"],
            names=names,
            columns=columns,
            ask=lambda more: self._ask(path, {**request, **more}),
        )

    def _ask(self, path: Path, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return an answer. Raises InputError, naming the file, if it is refused or a limit is exceeded."""
        longest = _SECONDS + self._longest
        self._longest += 1 / _READS_A_SECOND
        start = time.monotonic()
        try:
            answer = self._process.ask(request, longest)
        except EngineError as e:
            raise InputError(f"{path}: cannot be decoded within {MEMORY >> 20} MB of memory: {e}.") from e
        self._seconds += time.monotonic() - start
        if "refused" in answer:
            raise InputError(f"{path}: {answer['refused']}.")
        if self._seconds > longest:
            raise InputError(
                f"{path}: up to this file, reading the data took {self._seconds:.0f} seconds; the limit is "
                f"{longest:.0f}: {_SECONDS}, plus one for each MB and each {_READS_A_SECOND} reads. Convert the files "
                "to JSONL."
            )
        return answer


@dataclass(kw_only=True)
class ParquetRows:
    """The rows of a file, fetched in blocks, because a training split may be read for a few exemplars only."""

    path: Path
    n: int
    names: Sequence[str]
    columns: Sequence[str]
    ask: Callable[[Mapping[str, Any]], dict[str, Any]]
    _block: list[dict[str, Any]] = field(default_factory=list)
    _start: int = 0

    def __len__(self) -> int:
        return self.n

    def row(self, i: int) -> dict[str, Any]:
        """Return row i. Raises InputError if the file cannot be decoded within the limits."""
        if not self._start <= i < self._start + len(self._block):
            self._block, self._start = self.read(self.columns, i), i
        return self._block[i - self._start]

    def read(self, columns: Sequence[str], at: int) -> list[dict[str, Any]]:
        """Return these columns of at least one row, from row `at`. Raises as `row` does."""
        if not columns:
            return [{} for _ in range(min(self.n - at, 1000))]
        rows: list[dict[str, Any]] = self.ask({"do": "rows", "columns": list(columns), "at": at})["rows"]
        try:
            return [_restored(row) for row in rows]
        except (ValueError, KeyError, TypeError, ArithmeticError) as e:
            raise InputError(f"{self.path}: has a value that cannot be read after row {at}: {e}.") from e

    def where(self, i: int) -> str:
        """Return file and row (from 1), for messages."""
        return f"{self.path}: row {i + 1}"


def _restored(value: Any) -> Any:
    if isinstance(value, dict):
        if len(value) == 1 and "\0" in value:
            value_type, content = value["\0"]
            return _MAKERS[value_type](content)
        return {key: _restored(part) for key, part in value.items()}
    return [_restored(part) for part in value] if isinstance(value, list) else value
