"""Parquet files that decode to much more than their size: read by column and batch in a limited process."""

from __future__ import annotations

import datetime
import decimal
import json
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from pa_lite.errors import InputError
from pa_lite.tasks import parquet
from pa_lite.tasks.data import DataFiles, read_rows
from pa_lite.tasks.parquet import ParquetReader, ParquetRows
from pa_lite.tasks.parquet_worker import _plain_size
from pa_lite.tasks.prompts import build_items
from pa_lite.tasks.spec import TaskSpec
from tests.tasks.parquet_pages import Struct, change, set_field

_LOW = 100 << 20  # bytes


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    options = {"compression": "zstd", "store_schema": False, **options}
    pyarrow.parquet.write_table(pyarrow.table(columns), path, **options)
    return path


def rows_of(path: Path, used: list[str] | None = None) -> list[dict[str, Any]]:
    with closing(DataFiles(used)) as files:
        rows, _ = files.read(path)
        return [dict(rows.row(i)) for i in range(len(rows))]


def test_values_of_every_type_are_read(tmp_path: Path) -> None:
    rows = [
        {
            "text": "ü\u2028\0", "bytes": b"\x00\xff", "float": float("inf"), "int": 2**62, "null": None, "is": True,
            "at": datetime.datetime(2026, 1, 2, 3, 4, 5, 6, datetime.timezone.utc), "day": datetime.date(2026, 1, 2),
            "time": datetime.time(1, 2, 3), "took": datetime.timedelta(days=-1, seconds=5),
            "price": decimal.Decimal("1.50"), "list": [["a"], []], "struct": {"x": {"y": [b"z"]}},
        },
    ]  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    assert rows_of(tmp_path / "x.parquet") == rows


def test_only_columns_that_the_task_uses_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"q": ["a", "b"], "choices": [["x", "y"]] * 2, "answer": [0, 1], "picture": [b"p" * 50_000_000, b""]}
    write(tmp_path / "rows.parquet", columns, use_dictionary=False)
    monkeypatch.setattr(parquet, "_WHOLE", 1000)
    spec = TaskSpec(name="t", template="{{ q }}?", folder=tmp_path, data={"test": "rows.parquet"})
    items = build_items(spec)
    assert [item.prompt for item in items] == ["a?", "b?"]
    assert dict(items[1].row) == {"q": "b", "choices": ["x", "y"], "answer": 1}
    items = build_items(TaskSpec(name="t", template="{{ row.q }}?", folder=tmp_path, data={"test": "rows.parquet"}))
    assert len(items[0].row["picture"]) == 50_000_000


def test_small_files_keep_all_columns(tmp_path: Path) -> None:
    write(tmp_path / "rows.parquet", {"q": ["a"], "choices": [["x", "y"]], "answer": [0], "note": ["n"]})
    (item,) = build_items(TaskSpec(name="t", template="{{ q }}?", folder=tmp_path, data={"test": "rows.parquet"}))
    assert item.row["note"] == "n"


@pytest.mark.parametrize("group", [5000, 700, 10])
def test_rows_are_the_same_in_any_order(tmp_path: Path, group: int) -> None:
    """Forwards, decoding resumes at the last row; backwards and in other columns, at the start of a row group."""
    path = write(tmp_path / "rows.parquet", {"i": list(range(5000)), "t": list("ab" * 2500)}, row_group_size=group)
    with closing(DataFiles()) as files:
        rows = files.read(path)[0]
        for i in (3, 4, 259, 900, 1700, 1701, 1956, 1957, 4999, 2, 2500, 2499, 2756, 2757, 3000):
            assert rows.row(i) == {"i": i, "t": "ab"[i % 2]}
        assert isinstance(rows, ParquetRows)
        for columns, at in ((["i"], 300), (["t"], 700), (["i"], 900), (["i", "t"], 2000), (["i"], 1300)):
            found = rows.read(columns, at)
            assert [list(row) for row in found] == [columns] * len(found)
            assert found[0] == {name: rows.row(at)[name] for name in columns}


def test_the_split_column_is_read_alone(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {
        "split": ["train", "test"] * 500, "q": [f"q{i}" for i in range(1000)], "choices": [["x", "y"]] * 1000,
        "answer": [1] * 1000, "g": ["one", "one", "two", "two"] * 250,
    }  # fmt: skip
    write(tmp_path / "rows.parquet", columns, row_group_size=90)
    spec = TaskSpec(
        name="t", template="{{ q }}?", folder=tmp_path, data="rows.parquet", group_by="g", shots=2, separator="|"
    )
    items = build_items(spec, limit=5)
    assert [item.group for item in items] == ["one", "two", "one", "two", "one"]
    assert [item.row["q"] for item in items] == ["q1", "q3", "q5", "q7", "q9"]
    for item in items:
        numbers = [int(part.split("?")[0][1:]) for part in item.prompt.split("|")[:2]]
        assert all(n % 2 == 0 and columns["g"][n] == item.group for n in numbers)


def _hostile(path: Path, kind: str) -> Path:
    if kind == "list":
        nulls = pyarrow.nulls(60_000_000, pyarrow.int32())
        write(path, {"q": pyarrow.ListArray.from_arrays(pyarrow.array([0, 60_000_000], pyarrow.int32()), nulls)})
    elif kind == "delta":
        texts = pyarrow.array(["a" * 4_000_000] * 80)
        write(path, {"q": texts}, use_dictionary=False, column_encoding={"q": "DELTA_BYTE_ARRAY"})
    elif kind == "dictionary":
        text, indices = pyarrow.array(["a" * 120_000_000]), pyarrow.array([0] * 9, pyarrow.int32())
        write(path, {"q": pyarrow.DictionaryArray.from_arrays(indices, text)})
    else:
        write(path, {"q": pyarrow.array(["a" * 120_000_000])}, use_dictionary=False)
    assert path.stat().st_size < 200_000
    return path


@pytest.mark.parametrize("kind", ["list", "delta", "dictionary", "text"])
@pytest.mark.parametrize("bound", ["system", "watch"])
def test_decoding_is_bounded(tmp_path: Path, kind: str, bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is limited by the system, or by watching Arrow's allocations where the system has no limit."""
    path = _hostile(tmp_path / "x.parquet", kind)
    monkeypatch.setattr(parquet, "MEMORY", _LOW)
    if bound == "watch":
        worker = tmp_path / "worker.py"
        worker.write_text(
            "import pa_lite.untrusted.sandbox_worker as w\nw.limit_once = lambda memory: None\n"
            "from pa_lite.tasks.parquet_worker import main\n",
            "utf-8",
        )
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(parquet, "WORKER", "worker")
    with pytest.raises(InputError) as caught:
        rows_of(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert any(reason in message for reason in ("needs more than", "decodes to more", "in row"))
    assert len(message) < 600


def test_other_files_are_read_after_the_process_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "MEMORY", _LOW)
    good = write(tmp_path / "good.parquet", {"q": [1, 2]})
    with closing(ParquetReader()) as reader:
        bad = reader.open(_hostile(tmp_path / "x.parquet", "list"))
        with pytest.raises(InputError):
            bad.row(0)
        assert reader.open(good).row(1) == {"q": 2}


def test_a_row_has_a_limit(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", {"q": ["short", "a" * 70_000_000]})
    rows = read_rows(path)
    assert rows.row(0) == {"q": "short"}
    with pytest.raises(InputError, match=r"x.parquet: has more than 64 MB in row 2, the limit for a row"):
        rows.row(1)


def test_delta_encoded_strings_are_read(tmp_path: Path) -> None:
    columns = {"q": ["abc", "abd", "x"] * 50}
    path = write(tmp_path / "x.parquet", columns, use_dictionary=False, column_encoding={"q": "DELTA_BYTE_ARRAY"})
    assert [row["q"] for row in rows_of(path)] == columns["q"]


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    with closing(ParquetReader()) as reader:
        rows = reader.open(write(tmp_path / "x.parquet", {"q": [1]}))
        reader.close()
        write(tmp_path / "x.parquet", {"q": [1, 2, 3]})
        with pytest.raises(InputError, match=r"x.parquet: changed while it was being read"):
            rows.row(0)


def test_reading_all_files_has_a_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_SECONDS", 0)
    monkeypatch.setattr(parquet, "_READS_A_SECOND", 10_000)
    monkeypatch.setattr(parquet, "_BYTES_A_SECOND", 10**12)
    with pytest.raises(InputError, match=r"x.parquet: .*took"):
        rows_of(write(tmp_path / "x.parquet", {"q": list(range(100_000))}))


@pytest.mark.parametrize("seed", range(3))
def test_broken_files_give_rows_or_one_error(tmp_path: Path, seed: int) -> None:
    import numpy as np

    rng = np.random.default_rng(seed)
    whole = write(tmp_path / "x.parquet", {"q": ["a", "b"] * 40, "n": [[1, None], []] * 40}).read_bytes()
    with closing(ParquetReader()) as reader:
        for i in range(60):
            raw = bytearray(whole)
            for at in rng.integers(0, len(raw), 3):
                raw[at] = rng.integers(256)
            path = tmp_path / f"{i}.parquet"
            path.write_bytes(raw)
            try:
                rows = reader.open(path)
                for k in range(min(len(rows), 100)):
                    json.dumps(rows.row(k), default=str)
            except InputError as e:
                assert str(e).startswith(str(path))  # noqa: PT017


_ENCODINGS: dict[str, dict[str, Any]] = {
    "plain": {"use_dictionary": False},
    "dictionary": {"use_dictionary": True},
    "differences": {"use_dictionary": False, "column_encoding": {"q": "DELTA_BYTE_ARRAY"}},
    "lists": {"use_dictionary": True},
}
# counts of values, nulls and rows in page headers: version 1, dictionary, version 2
_COUNTS = ((5, 1), (7, 1), (8, 1), (8, 2), (8, 3), (8, 5), (8, 6))
_SIZES = ((2,), (3,))  # sizes of a page, uncompressed and compressed


def _encoded(path: Path, encoding: str, **more: Any) -> Path:
    texts: list[Any] = [f"abc {i % 50} " + "x" * 100 for i in range(1000)]
    columns = {"q": [[t, None, t] for t in texts] if encoding == "lists" else [*texts, None]}
    return write(path, columns, **_ENCODINGS[encoding], **more)


@pytest.mark.parametrize("encoding", _ENCODINGS)
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_rewritten_file_has_the_same_rows(tmp_path: Path, encoding: str, version: str) -> None:
    """The changes of the tests below affect nothing else."""
    path = _encoded(tmp_path / "x.parquet", encoding, data_page_version=version)
    rows = rows_of(path)
    before = path.read_bytes()
    change(path)
    assert path.read_bytes() == before
    change(path, page=lambda header: header.setdefault(4, (5, 0)))  # longer headers move everything after them
    assert path.stat().st_size > len(before)
    assert rows_of(path) == rows


def _lie(value: int, field: tuple[int, ...], header: Struct) -> None:
    set_field(header, value, *field)


def _overwritten(at: int, lie: bytes, raw: bytes) -> bytes:
    return (raw[:at] + lie + raw[at + len(lie) :])[: len(raw)]


@pytest.mark.parametrize("encoding", _ENCODINGS)
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_false_page_headers(tmp_path: Path, encoding: str, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number in a page header gives rows or one error, within the memory and time limits."""
    monkeypatch.setattr(parquet, "MEMORY", _LOW)
    errors = lies = 0
    start = time.monotonic()
    for field in (*_SIZES, *_COUNTS):
        for value in (-1, 100_000_000, 2**31 - 1):
            path = _encoded(tmp_path / f"{lies}.parquet", encoding, data_page_version=version)
            before = path.read_bytes()
            change(path, page=partial(_lie, value, field))
            if path.read_bytes() == before:
                continue
            lies += 1
            try:
                assert len(rows_of(path)) <= 1001
            except InputError as e:
                errors += 1
                assert str(e).startswith(f"{path}: ")  # noqa: PT017
                assert len(str(e)) < 600  # noqa: PT017
    assert lies >= 9
    assert errors > lies / 2
    assert time.monotonic() - start < 5 * lies


@pytest.mark.parametrize("encoding", _ENCODINGS)
def test_false_footers(tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts of values and rows, and the sizes, are wrong consistently in the footer and in pages."""
    monkeypatch.setattr(parquet, "MEMORY", _LOW)
    n = 100_000_000

    def rows(footer: Struct) -> None:
        set_field(footer, n, 3)
        set_field(footer[4][1][1][0], n, 3)

    def everywhere(header: Struct) -> None:
        set_field(header, n, 5, 1)

    tried: list[dict[str, Any]] = [
        {"footer": rows},
        {"footer": rows, "page": everywhere, "column": lambda chunk: set_field(chunk, n, 5)},
        {"column": lambda chunk: set_field(chunk, n, 5)},
        {"column": lambda chunk: set_field(chunk, 2**62, 6)},
        {"column": lambda chunk: set_field(chunk, -1, 6)},
        {"column": lambda chunk: set_field(chunk, 2**62, 7)},
        {"column": lambda chunk: set_field(chunk, 2**62, 9)},
        {"column": lambda chunk: set_field(chunk, -5, 9)},
    ]
    for i, lie in enumerate(tried):
        path = _encoded(tmp_path / f"{i}.parquet", encoding, compression="none")
        change(path, **lie)
        try:
            with closing(DataFiles()) as files:
                found, _ = files.read(path)
                for k in range(min(len(found), 3000)):
                    found.row(k)
        except InputError as e:
            assert str(e).startswith(f"{path}: ")  # noqa: PT017
        else:
            assert i not in (0, 1, 3)


@pytest.mark.parametrize("encoding", _ENCODINGS)
def test_false_bytes_of_pages(tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths and runs within a page are wrong: its first bytes are overwritten with the largest values."""
    monkeypatch.setattr(parquet, "MEMORY", _LOW)
    lies = [bytes([255, 255, 255, 255, 7]), bytes([254, 255, 255, 127]), bytes([128, 128, 128, 128, 8]), bytes(8)]
    for i, lie in enumerate(lies):
        for at in (0, 2, 4, 6, 8, 10, 14, 40):
            path = _encoded(tmp_path / f"{i}-{at}.parquet", encoding, compression="none")
            change(path, payload=partial(_overwritten, at, lie))
            try:
                assert len(rows_of(path)) <= 1001
            except InputError as e:
                assert str(e).startswith(f"{path}: ")  # noqa: PT017


def test_sizes_are_those_without_dictionaries() -> None:
    maps = pyarrow.array([[("k", "v" * 100)], [], [("a", "b")]], pyarrow.map_(pyarrow.string(), pyarrow.string()))
    whole, first = _plain_size(maps), _plain_size(maps.slice(0, 1))
    assert whole > first + _plain_size(maps.slice(2)) - 100
    assert _plain_size(maps.slice(1, 1)) < first
    numbers = pyarrow.array([5, 5, 5]).dictionary_encode()
    assert _plain_size(numbers) >= 3 * 64
