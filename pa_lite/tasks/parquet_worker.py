"""Worker process that reads parquet files: a small page can decode to any size in a single C call.

`pa_lite.tasks.parquet` starts it, with the limits of `pa_lite.untrusted.sandbox_worker`. Arrow's allocations are also
watched here, because only Linux limits the memory of a process.
"""

from __future__ import annotations

import datetime
import decimal
import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from pa_lite.system.opening import open_regular
from pa_lite.untrusted.sandbox_worker import serve

MEMORY = 1 << 30  # bytes beyond what the process holds when it starts
DECODED, DECODED_PER_BYTE = 256 << 20, 20  # bytes that the columns read may decode to, plus a multiple of their size
LARGEST_ROW = 64 << 20  # bytes of one decoded row
_VALUE = 64  # bytes counted for each value, nulls included, in addition to its content
_BATCH = 64  # rows decoded at a time
_ANSWER_ROWS, _ANSWER = 256, 8 << 20  # rows and bytes in an answer, unless a single row is larger
_MOST_OPEN = 8  # files
_LOOK = 0.01  # seconds between checks of what Arrow has allocated
_NANOSECONDS = re.compile(
    r"(\.\d{6})\d{3}"
)  # pyarrow returns pandas timestamps, which have them, if pandas is installed


class RefusedError(Exception):
    """A file that is refused; the message is the rest of a sentence that starts with the file's name."""


class _File:
    """An open parquet file and the current position in it."""

    def __init__(self, path: Path, identity: Sequence[int]) -> None:
        """Open a file. Raises OSError, RefusedError if it changed, and what pyarrow raises."""
        import pyarrow.parquet

        self._file: BinaryIO = open_regular(path)
        try:
            facts = os.fstat(self._file.fileno())
            self._size = facts.st_size
            if [facts.st_size, facts.st_mtime_ns] != list(identity):
                raise RefusedError("changed while it was being read. Start again when it is complete")
            schema = pyarrow.parquet.read_schema(self._file)
            for name, count in Counter(schema.names).items():
                if count > 1:
                    raise RefusedError(f"has the column {name!r} {count} times. Rename or remove all but one")
            self._file.seek(0)
            found = pyarrow.parquet.ParquetFile(self._file, pre_buffer=False)
            leaves = [found.schema.column(i) for i in range(len(found.schema))]
            # keep dictionary-encoded strings so: a file may say that a long string occurs in every row
            flat = [e.path for e in leaves if e.physical_type == "BYTE_ARRAY" and e.max_repetition_level == 0]
            chunks = [
                found.metadata.row_group(i).column(k)
                for i in range(found.metadata.num_row_groups)
                for k in range(found.metadata.num_columns)
            ]
            # pyarrow cannot read delta-encoded strings as dictionaries
            others = {c.path_in_schema for c in chunks if any(e.startswith("DELTA") for e in c.encodings)}
            texts = [path for path in flat if path not in others]
            self._file.seek(0)
            self._opened = pyarrow.parquet.ParquetFile(self._file, read_dictionary=texts, pre_buffer=False)
            self.names: list[str] = schema.names
            groups = [self._opened.metadata.row_group(i) for i in range(self._opened.metadata.num_row_groups)]
            self._rows = [group.num_rows for group in groups]
            if min(self._rows, default=0) < 0 or sum(self._rows) != self._opened.metadata.num_rows:
                raise RefusedError("has contradictory row counts")
            self._claims = dict.fromkeys(self.names, 0)
            self._packed = dict.fromkeys(self.names, 0)
            for group in groups:
                for chunk in map(group.column, range(group.num_columns)):
                    name = chunk.path_in_schema
                    while name not in self._claims:  # part of a nested column or of one with dots in its name
                        name = name.rpartition(".")[0]
                    self._claims[name] += max(chunk.total_uncompressed_size, 0) + _VALUE * max(chunk.num_values, 0)
                    self._packed[name] += max(chunk.total_compressed_size, 0)
        except BaseException:
            self._file.close()
            raise
        self._at: tuple[tuple[str, ...], int] | None = None
        self._batches: Iterator[Any] = iter(())
        self._left: Any = None

    def facts(self) -> dict[str, Any]:
        """Return the columns' names, the number of rows, and the declared decoded bytes of each column."""
        return {"names": self.names, "rows": sum(self._rows), "claims": [self._claims[n] for n in self.names]}

    def rows(self, columns: Sequence[str], at: int) -> list[dict[str, Any]]:
        """Return at least one row, from row `at`. Raises RefusedError beyond a limit, and what pyarrow raises."""
        if self._at != (tuple(columns), at):
            self._seek(columns, at)
        found: list[dict[str, Any]] = []
        size = 0
        while len(found) < _ANSWER_ROWS and size < _ANSWER:
            if self._left is None and (batch := next(self._batches, None)) is not None:
                self._left = batch
            if self._left is None:
                break
            n = self._left.num_rows
            while (own := _batch_size(self._left.slice(0, n))) > _ANSWER and n > 1:
                n = (n + 1) // 2
            if own > LARGEST_ROW and found:
                break  # return the rows before it
            if own > LARGEST_ROW:
                raise RefusedError(
                    f"has more than {LARGEST_ROW >> 20} MB in row {at + len(found) + 1}, the limit for a row"
                )
            found += self._left.slice(0, n).to_pylist()
            size += own
            self._left = self._left.slice(n) if n < self._left.num_rows else None
        if not found:
            raise RefusedError("has fewer rows than its footer says")
        self._at = (tuple(columns), at + len(found))
        return found

    def _seek(self, columns: Sequence[str], at: int) -> None:
        """Move to row `at`: onwards from the current row if it is between, else from the start of the row group."""
        first = start = 0
        while start + self._rows[first] <= at:
            start += self._rows[first]
            first += 1
        if self._at is not None and self._at[0] == tuple(columns) and start <= self._at[1] <= at:
            start = self._at[1]
        else:
            self._batches, self._left = self._decode(columns, first), None
        self._at = None  # unknown until rows were read
        while start < at:
            batch = next(self._batches, None) if self._left is None else self._left
            self._left = None
            if batch is None:
                raise RefusedError("has fewer rows than its footer says")
            start += batch.num_rows
            if start > at:
                self._left = batch.slice(batch.num_rows - (start - at))

    def _decode(self, columns: Sequence[str], first: int) -> Iterator[Any]:
        """Yield batches from row group `first` on. Raises RefusedError if they exceed the limit for the columns."""
        most = DECODED + DECODED_PER_BYTE * min(self._size, sum(self._packed[n] for n in columns))
        size = sum(self._claims[n] for n in columns)
        if size > most:
            raise _too_large(most)
        size = 0
        groups = range(first, len(self._rows))
        for batch in self._opened.iter_batches(_BATCH, row_groups=groups, columns=list(columns), use_threads=False):
            size += _batch_size(batch)
            if size > most:
                raise _too_large(most)
            if batch.num_rows:
                yield batch.select(list(columns))  # a name with dots also selects part of a nested column

    def close(self) -> None:
        """Close the file."""
        self._batches = iter(())
        self._file.close()


def _too_large(most: int) -> RefusedError:
    return RefusedError(
        f"decodes to more than {most >> 20} MB; the limit is {DECODED >> 20} MB plus {DECODED_PER_BYTE} times the size "
        "of the columns read. Remove columns that the task does not use, or convert the file to JSONL"
    )


def _batch_size(batch: Any) -> int:
    return sum(map(_plain_size, batch.columns))


def _plain_size(array: Any) -> int:
    """Return the bytes that the values of an Arrow array, nested ones included, take without dictionary encoding."""
    import pyarrow
    import pyarrow.compute
    import pyarrow.types as types

    array_type, size = array.type, _VALUE * len(array)
    if isinstance(array_type, pyarrow.BaseExtensionType):
        return _plain_size(array.storage)
    if types.is_dictionary(array_type):
        try:
            lengths = pyarrow.compute.binary_length(array.dictionary).take(array.indices)
        except pyarrow.ArrowNotImplementedError:  # a dictionary of numbers
            return size + int(array.dictionary_decode().nbytes)
        return size + int(pyarrow.compute.sum(pyarrow.compute.cast(lengths, pyarrow.int64())).as_py() or 0)
    if types.is_struct(array_type):
        return size + sum(map(_plain_size, array.flatten()))
    if types.is_map(array_type):
        start, end = (array.offsets[i].as_py() for i in (0, -1)) if len(array) else (0, 0)
        return size + _plain_size(array.values.slice(start, end - start))
    if types.is_list(array_type) or types.is_large_list(array_type) or types.is_fixed_size_list(array_type):
        return size + _plain_size(array.flatten())
    return size + int(array.nbytes)


class _ParquetServer:
    """The files that were opened most recently."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}
        self._is_watched = False

    def do(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a request."""
        import pyarrow

        if not self._is_watched:
            self._is_watched = True
            threading.Thread(target=_watch, args=(request["memory"],), daemon=True).start()
        try:
            file = self._file(request["path"], request["identity"])
            if request["do"] == "open":
                return file.facts()
            return {"rows": file.rows(request["columns"], request["at"])}
        except RefusedError as e:
            return {"refused": str(e)}
        except pyarrow.ArrowMemoryError as e:
            raise MemoryError from e
        except (pyarrow.ArrowException, ValueError, OSError) as e:
            return {"refused": f"is not a parquet file that pyarrow can read: {' '.join(str(e).split())[:300]}"}

    def _file(self, path: str, identity: Sequence[int]) -> _File:
        if path not in self._files:
            while len(self._files) >= _MOST_OPEN:
                self._files.pop(next(iter(self._files))).close()
            self._files[path] = _File(Path(path), identity)
        return self._files[path]


def tagged(value: Any) -> dict[str, Any]:
    """Return the encoding of a value that JSON lacks; `pa_lite.tasks.parquet` decodes it."""
    for value_type, name in ((datetime.datetime, "datetime"), (datetime.date, "date"), (datetime.time, "time")):
        if isinstance(value, value_type):
            return {"\0": [name, _NANOSECONDS.sub(r"\1", value.isoformat())]}
    if isinstance(value, bytes):
        return {"\0": ["bytes", value.decode("latin-1")]}
    if isinstance(value, datetime.timedelta):
        return {"\0": ["timedelta", [value.days, value.seconds, value.microseconds]]}
    if isinstance(value, decimal.Decimal):
        return {"\0": ["decimal", str(value)]}
    return {"\0": ["text", str(value)]}


def _watch(memory: int) -> None:
    """Exit when Arrow has allocated more bytes than `memory`: the only limit outside Linux."""
    import pyarrow

    while pyarrow.total_allocated_bytes() <= memory:
        time.sleep(_LOOK)
    sys.stderr.write("MemoryError\n")
    sys.stderr.flush()
    os._exit(1)


def main() -> None:
    """Answer requests until there are no more."""
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # other pools reserve more than they use
    import pyarrow
    import pyarrow.compute
    import pyarrow.parquet

    pyarrow.set_cpu_count(1)
    pyarrow.set_io_thread_count(1)
    serve(_ParquetServer().do, tagged)
