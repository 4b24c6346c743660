"""A task's rows from JSONL, JSON, CSV, TSV and parquet files, local or on the Hub, with each row's location."""

from __future__ import annotations

import glob
import logging
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from pa_lite.checkpoints.pairs import models_folder
from pa_lite.errors import HubError, InputError
from pa_lite.tasks.parquet import ParquetReader, ParquetRows
from pa_lite.tasks.spec import TaskSpec
from pa_lite.untrusted.rows import Note, Row, Rows, check_number, csv_rows, json_rows, read_text, scan_lines
from pa_lite.untrusted.safe_names import leads_out, path_fault

_log = logging.getLogger(__name__)
_SUFFIXES = ("parquet", "jsonl", "json", "csv", "tsv")
_CONVERTED = "refs/convert/parquet"  # the branch with the Hub's parquet copy of a data set
_LONGEST_GROUP = 1000  # characters of a group's name


class RowReference(NamedTuple):
    """A row that is read on demand, and its group, which is empty if the task has no groups."""

    rows: Rows
    i: int
    config: str
    group: str = ""

    @property
    def row(self) -> Row:
        return self.rows.row(self.i)

    @property
    def where(self) -> str:
        return self.rows.where(self.i)


class DataFiles:
    """Reader of data files; a worker process reads parquet files until `close`."""

    def __init__(self, used: Collection[str] | None = None) -> None:
        """Read only the columns `used`; None reads all."""
        self._used = used
        self._parquet = ParquetReader()

    def close(self) -> None:
        """Stop the worker process."""
        self._parquet.close()

    def read(self, path: Path, note: Note | None = None, noted: Sequence[str] = ()) -> tuple[Rows, list[Any]]:
        """Return the rows of a file, whose format follows from its suffix, and `note(row, location)` of each row.

        `noted` are the columns that `note` uses. Rows of JSONL and parquet are not kept in memory but read again on
        demand. Raises InputError, naming file and row, for anything that cannot be read.
        """
        ending = path.suffix.lower().removeprefix(".")
        notes: list[Any] = []
        if ending == "parquet":
            table = self._parquet.open(path, self._used)
            check_number(path, len(table))
            return table, _noted(table, note, noted) if note else notes
        if ending not in _SUFFIXES:
            raise InputError(
                f"{path}: is not a data file: its name must end in {', '.join('.' + s for s in _SUFFIXES)}."
            )
        if ending == "jsonl":
            return scan_lines(path, note, notes), notes
        text = read_text(path, is_csv=ending != "json")
        rows = json_rows(path, text) if ending == "json" else csv_rows(path, text, "\t" if ending == "tsv" else "")
        return rows, [note(rows.row(i), rows.where(i)) for i in range(len(rows))] if note else notes


def read_rows(path: Path) -> Rows:
    """Return the rows of a file by its suffix. Raises InputError, naming file and row, if they cannot be read."""
    return DataFiles().read(path)[0]


def _noted(table: ParquetRows, note: Note, columns: Sequence[str]) -> list[Any]:
    """Return `note` of each row, of which only `columns` are read."""
    found: list[Any] = []
    known = [name for name in columns if name in table.names]
    while len(found) < len(table):
        for row in table.read(known, len(found)):
            found.append(note(row, table.where(len(found))))
    return found


def data_path(spec: TaskSpec, name: str) -> Path:
    """Return the path of a task's data file. Raises InputError if it is outside the task's folder."""
    is_ours = name.startswith("models:")
    folder, within = (models_folder(), name.removeprefix("models:")) if is_ours else (spec.folder, name)
    problem = path_fault(within)
    if problem is None and leads_out(folder / within, folder):
        problem = "is a link that leads out of its folder"
    if problem is not None:
        raise InputError(f"its data file {name!r} {problem}. Put it in the folder of the task file, or below.")
    return folder / within


def matching_files(names: Sequence[str], config: str, split: str) -> list[str]:
    """Return a split's files among the names in a repository, in order; empty if there are none.

    Known are the usual layouts of data sets on the Hub: `CONFIG/SPLIT-00000-of-00002.parquet`, `data/SPLIT-*`,
    `CONFIG/SPLIT/0000.parquet`, `CONFIG/partial-SPLIT/*`, and a plain `SPLIT.jsonl`.
    """
    config, split = glob.escape(config), glob.escape(split)
    named = [config, f"data/{config}"] if config else []
    folders = [f"{f}/" for f in named] + (["data/", ""] if config in ("", "default") else [])
    for suffix in _SUFFIXES:
        for folder in folders:
            for shape in (f"{split}-*-of-*", split, f"{split}/*", f"partial-{split}/*"):
                if found := sorted(n for n in names if fnmatchcase(n, f"{folder}{shape}.{suffix}")):
                    return found
    return []


def _hub_files(spec: TaskSpec, split: str) -> list[tuple[str, Path]]:
    """Return (config, cached file) for each file of the split, fetching them if necessary.

    A split that the repository does not have in a known layout is looked for in the Hub's parquet copy. Raises
    InputError if neither has it.
    """
    from pa_lite.checkpoints.hub.repositories import fetch_file

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
            seen = [n for listed in names.values() for n in listed if n.endswith(_SUFFIXES)]
            raise InputError(
                f"hub:{spec.hub}: has no files of split {split!r}{f' of config {config!r}' if config else ''}, which "
                f"task {spec.name} needs; it has {', '.join(seen[:6]) or 'no data files'}{', ...' * (len(seen) > 6)}."
            )
        files += [(config, fetch_file(spec.hub, name, revision=revision, repo_type="dataset")) for name in found]
    return files


def _list_names(spec: TaskSpec, revision: str | None) -> list[str]:
    from pa_lite.checkpoints.hub.repositories import list_files

    try:
        return [f.name for f in list_files(spec.hub, revision=revision, repo_type="dataset")]
    except HubError as e:
        if revision != _CONVERTED or e.is_passing:
            raise
        return []  # not every data set has that branch


def _match(names: Sequence[str], config: str, split: str, converted: bool) -> list[str]:
    found = matching_files(names, config, split)
    if not found and converted and len(own := {n.split("/")[0] for n in names if "/" in n}) == 1:
        return matching_files(names, own.pop(), split)  # the copy often renames a single config
    return found


def load_split(spec: TaskSpec, split: str, files: DataFiles | None = None) -> list[RowReference]:
    """Return the rows of a task's split; empty if its own file has none.

    Raises InputError, naming file and row, for anything that cannot be read, and what fetching from the Hub raises.
    """
    return list(_split_rows(spec, split, files or DataFiles()))


def _split_rows(spec: TaskSpec, split: str, files: DataFiles) -> Iterator[RowReference]:
    if spec.hub:
        for config, path in _hub_files(spec, split):
            yield from _whole_file(spec, *_noting_groups(spec, files, path), config)
    elif isinstance(spec.data, str):

        def note(row: Row, where: str) -> str | None:
            return _group_of(spec, row, where, spec.config) if _split_of(row, where) == split else None

        rows, groups = _own(spec, spec.data, lambda path: files.read(path, note, ("split", spec.group_by)))
        yield from (RowReference(rows, i, spec.config, group) for i, group in enumerate(groups) if group is not None)
    elif split in spec.data:
        rows, groups = _own(spec, spec.data[split], lambda path: _noting_groups(spec, files, path))
        yield from _whole_file(spec, rows, groups, spec.config)


def _noting_groups(spec: TaskSpec, files: DataFiles, path: Path) -> tuple[Rows, list[Any]]:
    """Return a file's rows, and the group of each if the task groups rows by a column."""
    if not spec.group_by:
        return files.read(path)
    return files.read(path, lambda row, where: _group_of(spec, row, where, ""), (spec.group_by,))


def _whole_file(spec: TaskSpec, rows: Rows, groups: Sequence[str], config: str) -> Iterator[RowReference]:
    for i in range(len(rows)):
        yield RowReference(rows, i, config, groups[i] if groups else config if spec.configs else "")


def _group_of(spec: TaskSpec, row: Row, where: str, config: str) -> str:
    """Return the name of a row's group; empty if the task has no groups."""
    if not spec.group_by:
        return config if spec.configs else ""
    if spec.group_by not in row:
        raise InputError(f"{where}: has no column {spec.group_by!r}.")
    name = str(row[spec.group_by])
    if len(name) > _LONGEST_GROUP:
        raise InputError(f"{where}: has a group name of {len(name)} characters; the limit is {_LONGEST_GROUP}.")
    return sys.intern(name)


def _own(spec: TaskSpec, name: str, read: Callable[[Path], tuple[Rows, list[Any]]]) -> tuple[Rows, list[Any]]:
    try:
        return read(data_path(spec, name))
    except InputError as e:
        raise InputError(f"task {spec.name}: {e}") from e


def _split_of(row: Row, where: str) -> str:
    if "split" not in row:
        raise InputError(f"{where}: has no column 'split'.")
    if not isinstance(row["split"], str):
        raise InputError(f"{where}: split must be a string.")
    return row["split"]


def split_names(spec: TaskSpec) -> list[str]:
    """Return the splits in the task's own files."""
    if isinstance(spec.data, str):

        def note(row: Row, where: str) -> str:
            return sys.intern(_split_of(row, where)[:_LONGEST_GROUP])

        return sorted(set(_own(spec, spec.data, lambda path: DataFiles().read(path, note, ("split",)))[1]))
    return sorted(spec.data)


def source_name(spec: TaskSpec) -> str:
    """Return where the rows come from, for messages and records."""
    if spec.hub:
        return f"hub:{spec.hub}" + (f"@{spec.revision}" if spec.revision else "")
    return str(data_path(spec, spec.data)) if isinstance(spec.data, str) else str(spec.folder)


def commits(refs: Sequence[RowReference]) -> tuple[str, ...]:
    """Return the Hub commits that rows come from: the cache keeps files under `snapshots/COMMIT`."""
    folders = dict.fromkeys(ref.rows.path.parts for ref in refs)
    return tuple(sorted({p[p.index("snapshots") + 1] for p in folders if "snapshots" in p[:-1]}))
