from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from pa_lite.errors import InputError
from pa_lite.tasks.data import load_split, matching_files, read_rows, source_name, split_names
from pa_lite.tasks.spec import TaskSpec

ROWS: list[dict[str, Any]] = [{"a": 'one, "two"', "n": "1"}, {"a": "zwei\u2028drei\nvier", "n": "2"}]


def write(folder: Path, ending: str) -> Path:
    path = folder / f"rows.{ending}"
    if ending == "jsonl":
        path.write_text("\n\n".join(json.dumps(r, ensure_ascii=False) for r in ROWS) + "\n", "utf-8")
    elif ending == "json":
        path.write_text(json.dumps({"canary": "x", "examples": ROWS}), "utf-8-sig")
    elif ending in ("csv", "tsv"):
        cells = [[f'"{v}"' for v in (r["a"].replace('"', '""'), r["n"])] for r in ROWS]
        mark = "," if ending == "csv" else "\t"
        path.write_text("\n".join([f"a{mark}n", *(mark.join(c) for c in cells)]), "utf-8")
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    return path


@pytest.mark.parametrize(
    ("ending", "places"),
    [
        ("jsonl", ":1 :3"),
        ("json", ": row 1, : row 2"),
        ("csv", ":2 :4"),
        ("tsv", ":2 :4"),
        ("parquet", ": row 1, : row 2"),
    ],
)
def test_every_format_gives_the_same_rows_with_their_locations(tmp_path: Path, ending: str, places: str) -> None:
    path = write(tmp_path, ending)
    rows = read_rows(path)
    assert [dict(rows.row(i)) for i in range(len(rows))] == ROWS
    assert [rows.where(i) for i in range(len(rows))] == [
        f"{path}{p}" for p in places.split(", " if "," in places else " ")
    ]


def test_parquet_is_read_in_blocks_in_any_order(tmp_path: Path) -> None:
    structs = [{"i": i, "c": {"text": [f"t{i}"], "label": ["A"]}} for i in range(600)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(structs), tmp_path / "x.parquet", row_group_size=100)
    rows = read_rows(tmp_path / "x.parquet")
    assert len(rows) == 600
    for i in (599, 0, 255, 256, 300, 1):
        assert rows.row(i) == structs[i]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b'{"a": 1}\n[1]', r"x.jsonl:2: is not a JSON object"),
        ("x.jsonl", b'{"a": 1}\n{', r"x.jsonl:2: is not JSON"),
        ("x.jsonl", b"[" * 100_000, r"x.jsonl:1: is not JSON"),
        ("x.jsonl", b'{"a": "\xff"}', r"x.jsonl:1: is not UTF-8"),
        ("x.json", b"3", r"x.json: must be a list of objects"),
        ("x.json", b'{"a": [], "b": []}', r"x.json: must be a list of objects"),
        ("x.json", b"[{}, 3]", r"x.json: row 2: is not a JSON object"),
        ("x.json", b"{", r"x.json: is not JSON"),
        ("x.csv", b"a,b\n1,2\n1,2,3\n", r"x.csv:3: has 3 cells for 2 columns"),
        ("x.csv", b"a,b\n1\n", r"x.csv:2: has 1 cells for 2 columns"),
        ("x.csv", b'a,b\n"1"2,3\n', r"x.csv: is not CSV: line 2: '2' follows a closing quotation mark"),
        ("x.csv", b'a,b\n1,"2\n3,4\n', r"x.csv: is not CSV: line 2: a quotation mark is never closed"),
        ("x.csv", b"a,b,a\n1,2,3\n", r"x.csv: has the column 'a' 2 times"),
        ("x.parquet", b"PAR1 no", r"x.parquet: is not a parquet file"),
        ("x.txt", b"", r"x.txt: is not a data file: its name must end in .parquet, .jsonl, .json, .csv, .tsv"),
    ],
)
def test_bad_files_are_refused_by_row(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_rows(tmp_path / name)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_csv_may_have_other_delimiters_and_a_byte_order_mark(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f'a{mark}b\r\n"1,5"{mark}"x;y\tz"\r\n', "utf-8-sig", newline="")
    assert read_rows(path).row(0) == {"a": "1,5", "b": "x;y\tz"}


def test_csv_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a\tb\n", "utf-16")
    with pytest.raises(
        InputError, match=r"x\.csv: is UTF-16, not UTF-8\. Save it as UTF-8 \(in spreadsheets: CSV UTF-8"
    ):
        read_rows(path)
    path.write_bytes("a,b\né,1\n".encode("cp1252"))
    with pytest.raises(InputError, match=r"is not UTF-8 \(invalid continuation byte at byte 4\)\. Save it as UTF-8"):
        read_rows(path)


def test_a_csv_cell_may_be_long_and_csv_field_size_limit_is_unchanged(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    cell = "w " * 200_000
    (tmp_path / "x.csv").write_text(f'a,b\n{cell},"{cell}"\n', "utf-8")
    rows = read_rows(tmp_path / "x.csv")
    assert rows.row(0) == {"a": cell, "b": cell}
    assert csv.field_size_limit() == limit < len(cell)


def test_duplicate_parquet_columns_are_refused(tmp_path: Path) -> None:
    table = pyarrow.Table.from_arrays([pyarrow.array([1]), pyarrow.array([2])], names=["a", "a"])
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"x.parquet: has the column 'a' 2 times"):
        read_rows(tmp_path / "x.parquet")


@pytest.mark.parametrize("shape", ["text", "many short", "list", "struct", "nulls"])
def test_a_small_parquet_file_that_becomes_large_is_refused(tmp_path: Path, shape: str) -> None:
    path = tmp_path / "x.parquet"
    text = pyarrow.array(["a" * 1_000_000])
    column: Any
    if shape == "text":
        column = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 2000, pyarrow.int32()), text)
    elif shape == "many short":
        column = pyarrow.array([["ab"] * 5] * 800_000)
    elif shape == "list":
        column = pyarrow.array([["a" * 300_000] * 50] * 20)
    elif shape == "struct":
        column = pyarrow.array([{"t": "a" * 300_000}] * 1000)
    else:
        column = pyarrow.StructArray.from_arrays([pyarrow.nulls(3_000_000, pyarrow.int64())] * 2, ["a", "b"])
    pyarrow.parquet.write_table(pyarrow.table({"q": column}), path, compression="zstd", store_schema=False)
    with pytest.raises(
        InputError,
        match=r"x.parquet: decodes to more than 2\d\d MB; .* 20 times the size of the columns read. Remove columns",
    ):
        all_rows(path)


def all_rows(path: Path) -> list[dict[str, Any]]:
    rows = read_rows(path)
    return [dict(rows.row(i)) for i in range(len(rows))]


def test_repeated_strings_of_parquet_are_read_completely(tmp_path: Path) -> None:
    rows = [{"q": "a" * 100_000, "c": [{"t": "ü" * 9}, {"t": None}], "n": i, "b": b"x"} for i in range(300)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet", row_group_size=100)
    found = read_rows(tmp_path / "x.parquet")
    assert [found.row(i) for i in range(300)] == rows


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet"])
def test_a_missing_file_is_named(tmp_path: Path, ending: str) -> None:
    with pytest.raises(InputError, match=rf"no\.{ending}: cannot be read: No such file or directory"):
        read_rows(tmp_path / f"no.{ending}")


def test_missing_pyarrow_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"rows\.parquet: reading parquet needs pyarrow, .* Run: pip install pyarrow"):
        read_rows(path)


def test_a_file_for_each_split(tmp_path: Path) -> None:
    write(tmp_path, "csv"), write(tmp_path, "jsonl")
    spec = TaskSpec(name="t", template="{{ a }}", folder=tmp_path, data={"train": "rows.csv", "test": "rows.jsonl"})
    assert [p.row["n"] for p in load_split(spec, "train")] == ["1", "2"]
    assert load_split(spec, "dev") == []
    assert split_names(spec) == ["test", "train"]
    assert source_name(spec) == str(tmp_path)


TREE = [
    "README.md", "en/test-00000-of-00002.parquet", "en/test-00001-of-00002.parquet", "en/train.jsonl",
    "data/de/test.csv", "data/test-00000-of-00001.parquet", "data/test-more.parquet", "train/0000.parquet", "dev.json",
    "fr/partial-test/0000.parquet",
]  # fmt: skip


@pytest.mark.parametrize(
    ("config", "split", "found"),
    [
        ("en", "test", TREE[1:3]),
        ("en", "train", ["en/train.jsonl"]),
        ("en", "dev", []),
        ("de", "test", ["data/de/test.csv"]),
        ("fr", "test", ["fr/partial-test/0000.parquet"]),
        ("default", "test", ["data/test-00000-of-00001.parquet"]),
        ("", "train", ["train/0000.parquet"]),
        ("", "dev", ["dev.json"]),
        ("e*", "test", []),
    ],
)
def test_layouts_of_data_sets_on_the_hub(config: str, split: str, found: list[str]) -> None:
    assert matching_files(TREE, config, split) == found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../rows.jsonl", "leads out of its folder"),
        ("/etc/passwd.csv", "leads out of its folder"),
        ("a\\b.jsonl", "leads out of its folder"),
        ("models:../../x.jsonl", "leads out of its folder"),
        ("nul.csv", "is a device on Windows"),
        ("link.jsonl", "is a link that leads out of its folder"),
        ("folder/rows.jsonl", "is a link that leads out of its folder"),
    ],
)
def test_data_outside_the_tasks_folder_is_refused(tmp_path: Path, name: str, message: str) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    (tmp_path / "rows.jsonl").write_text('{"split": "test", "q": "x"}', "utf-8")
    (folder / "link.jsonl").symlink_to(tmp_path / "rows.jsonl")
    (folder / "folder").symlink_to(tmp_path)
    for data in (name, {"test": name}):
        with pytest.raises(
            InputError, match=rf"task t: its data file .* {message}. Put it in the folder of the task file"
        ):
            load_split(TaskSpec(name="t", template="{{ q }}", folder=folder, data=data), "test")


_PEAK = r"""
import re, sys
from pathlib import Path
from pa_lite.tasks.prompts import build_items
from pa_lite.tasks.spec import TaskSpec
def status(key):
    return int(re.search(key + r":\s+(\d+)", open("/proc/self/status").read())[1]) << 10
before = status("VmRSS")
spec = TaskSpec(name="t", template="{{ q }}", folder=Path(sys.argv[1]), is_own=True,
                data={"test": "rows.jsonl", "train": "rows.jsonl"})
items = build_items(spec, shots=2, limit=10, split="test")
print(len(items), status("VmHWM") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_large_jsonl_file_takes_memory_for_row_offsets_only(tmp_path: Path) -> None:
    """At most 400 bytes for each row, whatever its size, and one block are kept."""
    n, row = 40_000, {"choices": ["a", "b"], "answer": 0, "note": "n" * 4000}
    with (tmp_path / "rows.jsonl").open("w", encoding="utf-8") as file:
        for i in range(n):
            file.write(json.dumps({"q": f"q{i}", **row}) + "\n")
    assert (tmp_path / "rows.jsonl").stat().st_size > 160_000_000
    found = subprocess.run(
        [sys.executable, "-c", _PEAK, str(tmp_path)], check=True, capture_output=True, text=True, timeout=300
    )
    n_items, peak = map(int, found.stdout.split())
    assert n_items == 10
    assert peak < 2 * 400 * n + (20 << 20)
