"""A task's rows: JSONL, JSON, CSV and parquet files, local or from the Hub, each row with the place it came from."""

from __future__ import annotations

import glob
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from pa_lite.checkpoints.pairs import models_folder
from pa_lite.documents import parse_csv, parse_json
from pa_lite.errors import HubError, InputError
from pa_lite.names import leads_out, path_fault
from pa_lite.opening import open_regular, read_regular
from pa_lite.tasks.spec import TaskSpec

Row = Mapping[str, Any]
_log = logging.getLogger(__name__)
_KINDS = ("parquet", "jsonl", "json", "csv")
_CONVERTED = "refs/convert/parquet"  # the branch where the Hub keeps its own parquet copy of a data set
_BLOCK = 256  # parquet rows that become Python objects at a time
_BATCH = 64  # parquet rows that are decoded at a time
_DECODED, _DECODED_PER_BYTE = 256 << 20, 20  # bytes that a parquet file may become, and times its own
_VALUE = 64  # bytes that a parquet value counts for beside its text, a null too


class Rows(Protocol):
    """The rows of one file."""

    @property
    def path(self) -> Path: ...

    def __len__(self) -> int: ...

    def row(self, i: int) -> Row: ...

    def where(self, i: int) -> str:
        """File and line (or row, from 1) of row i, for messages."""
        ...


class Place(NamedTuple):
    """A row that is read when it is needed."""

    rows: Rows
    i: int
    config: str

    @property
    def row(self) -> Row:
        return self.rows.row(self.i)

    @property
    def where(self) -> str:
        return self.rows.where(self.i)


@dataclass(frozen=True)
class _Listed:
    """Rows in memory; `numbers` are the lines they end on, or None where rows are counted."""

    path: Path
    rows: Sequence[Row]
    numbers: Sequence[int] | None

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, i: int) -> Row:
        return self.rows[i]

    def where(self, i: int) -> str:
        return f"{self.path}:{self.numbers[i]}" if self.numbers else f"{self.path}: row {i + 1}"


@dataclass
class _Parquet:
    """Rows of an Arrow table, made Python objects a block at a time: a training split is read for a few exemplars."""

    path: Path
    table: Any
    _block: list[Row] = field(default_factory=list)
    _start: int = -1

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def row(self, i: int) -> Row:
        start = i - i % _BLOCK
        if start != self._start:
            self._block, self._start = self.table.slice(start, _BLOCK).to_pylist(), start
        return self._block[i - start]

    def where(self, i: int) -> str:
        return f"{self.path}: row {i + 1}"


def read_rows(path: Path) -> Rows:
    """The rows of a file, by its ending. Raises InputError, naming file and row, for one that cannot be read."""
    ending = path.suffix.lower().removeprefix(".")
    if ending not in _KINDS:
        raise InputError(f"{path}: is no data file: its name must end in {', '.join('.' + k for k in _KINDS)}.")
    try:
        if ending == "parquet":
            return _read_parquet(path)
        text = read_regular(path).decode("utf-8-sig")
    except OSError as e:
        raise InputError(f"{path}: cannot be read: {e.strerror or e}.") from e
    except UnicodeDecodeError as e:
        raise InputError(f"{path}: is no UTF-8: {e}.") from e
    return {"jsonl": _read_jsonl, "json": _read_json, "csv": _read_csv}[ending](path, text)


def _read_parquet(path: Path) -> Rows:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as e:
        raise InputError(f"{path}: parquet needs pyarrow. Install it with: pip install 'pa-lite[tasks]'.") from e
    with open_regular(path) as file:
        try:
            _check_columns(path, pyarrow.parquet.read_schema(file).names)
            file.seek(0)
            return _Parquet(path, _decode(path, file, pyarrow))
        except (pyarrow.ArrowException, ValueError, OSError) as e:
            raise InputError(f"{path}: is not a parquet file that pyarrow can read: {e}.") from e


def _decode(path: Path, file: BinaryIO, pyarrow: Any) -> Any:
    """Return a parquet file's table, decoded in batches until it exceeds what is in proportion to the file.

    Texts stay dictionaries where the file has them so, and count as often as they occur: a file of some hundred bytes
    may say that a long text occurs in every row. Raises InputError for too much, and what pyarrow raises.
    """
    opened = pyarrow.parquet.ParquetFile(file)
    leaves = [opened.schema.column(i) for i in range(len(opened.schema))]
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY" and leaf.max_repetition_level == 0]
    most = _DECODED + _DECODED_PER_BYTE * os.fstat(file.fileno()).st_size
    groups = [opened.metadata.row_group(i) for i in range(opened.metadata.num_row_groups)]
    chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
    size = sum(max(chunk.total_uncompressed_size, 0) + _VALUE * max(chunk.num_values, 0) for chunk in chunks)
    if size > most:
        raise _too_large(path, most)
    file.seek(0)
    opened = pyarrow.parquet.ParquetFile(file, read_dictionary=texts)
    batches, size = [], 0
    for batch in opened.iter_batches(batch_size=_BATCH, use_threads=False):
        size += sum(map(_plain_size, batch.columns))
        if size > most:
            raise _too_large(path, most)
        batches.append(batch)
    return pyarrow.Table.from_batches(batches, schema=batches[0].schema if batches else opened.schema_arrow)


def _too_large(path: Path, most: int) -> InputError:
    return InputError(
        f"{path}: becomes more than {most >> 20} MB when it is decoded; the limit is {_DECODED >> 20} MB and "
        f"{_DECODED_PER_BYTE} times the file. Remove columns that the task does not use, or give the rows as JSONL."
    )


def _plain_size(array: Any) -> int:
    """Return how many bytes the values of an Arrow array take without a dictionary, all levels of nesting together."""
    import pyarrow.compute
    import pyarrow.types as types

    kind, size = array.type, _VALUE * len(array)
    if types.is_dictionary(kind):
        lengths = pyarrow.compute.binary_length(array.dictionary).take(array.indices)
        return size + int(pyarrow.compute.sum(pyarrow.compute.cast(lengths, pyarrow.int64())).as_py() or 0)
    if types.is_struct(kind):
        return size + sum(map(_plain_size, array.flatten()))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_map(kind):
        values = array.values if types.is_map(kind) else array.flatten()
        return size + _plain_size(values)
    return size + int(array.nbytes)


def _check_columns(path: Path, names: Sequence[str]) -> None:
    """Raise InputError for a name that two columns have: a row would keep one of them only."""
    for name, count in Counter(names).items():
        if name and count > 1:
            raise InputError(f"{path}: has the column {name!r} {count} times. Rename or remove all but one.")


def _read_jsonl(path: Path, text: str) -> Rows:
    rows, numbers = [], []
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would split at U+2028 within a text
        if line.strip():
            try:
                row = parse_json(line, nan=True)
            except ValueError as e:
                raise InputError(f"{path}:{number}: is no JSON: {e}.") from e
            if not isinstance(row, dict):
                raise InputError(f"{path}:{number}: is no JSON object.")
            rows.append(row)
            numbers.append(number)
    return _Listed(path, rows, numbers)


def _read_json(path: Path, text: str) -> Rows:
    """A list of objects, or an object that holds one such list."""
    try:
        document = parse_json(text, nan=True)
    except ValueError as e:
        raise InputError(f"{path}: is no JSON: {e}.") from e
    lists = [v for v in document.values() if isinstance(v, list)] if isinstance(document, dict) else [document]
    if len(lists) != 1 or not isinstance(lists[0], list):
        raise InputError(f"{path}: must be a list of objects, or an object that holds one.")
    for i, row in enumerate(lists[0], 1):
        if not isinstance(row, dict):
            raise InputError(f"{path}: row {i}: is no JSON object.")
    return _Listed(path, lists[0], None)


def _read_csv(path: Path, text: str) -> Rows:
    try:
        (_, names), *lines = parse_csv(text) or [(0, [])]
    except ValueError as e:
        raise InputError(f"{path}: is no CSV: {e}.") from e
    _check_columns(path, names)
    for number, cells in lines:
        if len(cells) != len(names):
            raise InputError(f"{path}:{number}: has {len(cells)} cells for {len(names)} columns.")
    rows = [dict(zip(names, cells, strict=True)) for _, cells in lines]
    return _Listed(path, rows, [number for number, _ in lines])


def data_path(spec: TaskSpec, name: str) -> Path:
    """Where a file of the task's own lies: within its folder. Raises InputError for one that is elsewhere."""
    is_ours = name.startswith("models:")
    folder, within = (models_folder(), name.removeprefix("models:")) if is_ours else (spec.folder, name)
    fault = path_fault(within)
    if fault is None and leads_out(folder / within, folder):
        fault = "is a link that leads out of its folder"
    if fault is not None:
        raise InputError(f"{name!r}, its data, {fault}. Put the data beside the task's file, or in a folder there.")
    return folder / within


def matching_files(names: Sequence[str], config: str, split: str) -> list[str]:
    """A split's files among a repository's, in order; empty when there are none.

    The layouts are those that the Hub's data sets have: `CONFIG/SPLIT-00000-of-00002.parquet`, `data/SPLIT-*`,
    `CONFIG/SPLIT/0000.parquet`, `CONFIG/partial-SPLIT/*`, and a plain `SPLIT.jsonl`.
    """
    config, split = glob.escape(config), glob.escape(split)
    named = [config, f"data/{config}"] if config else []
    folders = [f"{f}/" for f in named] + (["data/", ""] if config in ("", "default") else [])
    for kind in _KINDS:
        for folder in folders:
            for shape in (f"{split}-*-of-*", split, f"{split}/*", f"partial-{split}/*"):
                if found := sorted(n for n in names if fnmatchcase(n, f"{folder}{shape}.{kind}")):
                    return found
    return []


def _hub_files(spec: TaskSpec, split: str) -> list[tuple[str, Path]]:
    """(config, file in the cache) of the split, fetched if need be. Raises InputError when there is no such split.

    What the repository itself does not hold in a known form is looked for in the Hub's parquet copy.
    """
    from pa_lite.checkpoints.hub import fetch_file

    revisions = [spec.revision] if spec.revision else [None, _CONVERTED]
    names: dict[str | None, list[str]] = {}
    files = []
    for config in spec.configs or (spec.config,):
        for revision in revisions:
            if revision not in names:
                names[revision] = _list_names(spec, revision)
            if found := _match(names[revision], config, split, revision == _CONVERTED):
                break
        else:
            seen = [n for listed in names.values() for n in listed if n.endswith(_KINDS)]
            raise InputError(
                f"hub:{spec.hub}: has no files of split {split!r}{f' of config {config!r}' if config else ''}, which "
                f"task {spec.name} needs; it has {', '.join(seen[:6]) or 'no data files'}{', ...' * (len(seen) > 6)}."
            )
        files += [(config, fetch_file(spec.hub, name, revision=revision, kind="dataset")) for name in found]
    return files


def _list_names(spec: TaskSpec, revision: str | None) -> list[str]:
    from pa_lite.checkpoints.hub import list_files

    try:
        return [f.name for f in list_files(spec.hub, revision=revision, kind="dataset")]
    except HubError as e:
        if revision != _CONVERTED or e.is_passing:
            raise
        return []  # not every data set has that branch


def _match(names: Sequence[str], config: str, split: str, converted: bool) -> list[str]:
    found = matching_files(names, config, split)
    if not found and converted and len(own := {n.split("/")[0] for n in names if "/" in n}) == 1:
        return matching_files(names, own.pop(), split)  # a single config is often named anew there
    return found


def load_split(spec: TaskSpec, split: str) -> list[Place]:
    """The rows of a task's split, empty where its own file has none of it.

    Raises InputError, naming file and row, for what cannot be read, and what fetching from the Hub raises.
    """
    return list(_places(spec, split))


def _places(spec: TaskSpec, split: str) -> Iterator[Place]:
    if spec.hub:
        for config, path in _hub_files(spec, split):
            rows = read_rows(path)
            yield from (Place(rows, i, config) for i in range(len(rows)))
        return
    if isinstance(spec.data, str):
        rows = _own(spec, spec.data)
        for i in range(len(rows)):
            value = _split_of(rows, i)
            if value == split:
                yield Place(rows, i, spec.config)
    elif split in spec.data:
        rows = _own(spec, spec.data[split])
        yield from (Place(rows, i, spec.config) for i in range(len(rows)))


def _own(spec: TaskSpec, name: str) -> Rows:
    try:
        return read_rows(data_path(spec, name))
    except InputError as e:
        raise InputError(f"task {spec.name}: {e}") from e


def _split_of(rows: Rows, i: int) -> str:
    row = rows.row(i)
    if "split" not in row:
        raise InputError(f"{rows.where(i)}: has no column 'split'.")
    if not isinstance(row["split"], str):
        raise InputError(f"{rows.where(i)}: split must be a text.")
    return row["split"]


def split_names(spec: TaskSpec) -> list[str]:
    """The splits that the task's own files have."""
    if isinstance(spec.data, str):
        rows = _own(spec, spec.data)
        return sorted({_split_of(rows, i) for i in range(len(rows))})
    return sorted(spec.data)


def source_name(spec: TaskSpec) -> str:
    """Where the rows come from, for messages and records."""
    if spec.hub:
        return f"hub:{spec.hub}" + (f"@{spec.revision}" if spec.revision else "")
    return str(data_path(spec, spec.data)) if isinstance(spec.data, str) else str(spec.folder)


def commits(places: Sequence[Place]) -> tuple[str, ...]:
    """The Hub's commits that rows come from: the Hub's cache keeps a file under `snapshots/COMMIT`."""
    folders = dict.fromkeys(place.rows.path.parts for place in places)
    return tuple(sorted({p[p.index("snapshots") + 1] for p in folders if "snapshots" in p[:-1]}))
