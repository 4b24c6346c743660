"""Rows of untrusted files: the same objects from every format, and errors that name file and line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pa_lite.errors import InputError
from pa_lite.untrusted import rows
from pa_lite.untrusted.rows import csv_rows, json_rows, parse_object, read_objects, read_text, read_toml, scan_lines


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ('{"a": "x\u2028y"}\r\n\n{"a": NaN}', [":1", ":3"]),
        ('\ufeff [{"a": "x\u2028y"},\n{"a": NaN}]', [": row 1", ": row 2"]),
    ],
    ids=["lines", "list"],
)
def test_json_and_jsonl_give_the_same_objects(tmp_path: Path, text: str, places: list[str]) -> None:
    path = tmp_path / "any.txt"
    path.write_text(text, "utf-8", newline="")
    found = read_objects(path)
    assert repr(found.rows) == "[{'a': 'x\\u2028y'}, {'a': nan}]"
    assert [found.where(i) for i in range(len(found))] == [f"{path}{place}" for place in places]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a": 1, "a": 2}', ":2: is not JSON: "),
        (b'{"a": 1}\n3', ":2: is not a JSON object."),
        (b"[3]", ": row 1: is not a JSON object."),
        (b"[" * 100, ": is not JSON: it is nested more than 64 deep."),
        (b"\xff", ": is not UTF-8 (invalid start byte at byte 0)."),
    ],
)
def test_bad_objects_are_refused_by_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_objects(path)
    assert str(caught.value).startswith(f"{path}{message}")


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    for read in (read_objects, read_toml, lambda path: scan_lines(path, None, [])):
        with pytest.raises(InputError, match=r"none: cannot be read: No such file or directory"):
            read(tmp_path / "none")
        with pytest.raises(InputError, match=r"cannot be read: it is a folder, not a regular file"):
            read(tmp_path)


def test_file_size_and_memory_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    path.write_text("[" + "{}," * 999 + "{}]", "utf-8")
    assert len(read_objects(path)) == 1000
    monkeypatch.setattr(rows, "_MEMORY", 100_000)
    with pytest.raises(InputError, match="is too large to be read whole"):
        read_objects(path)
    monkeypatch.setattr(rows, "_LARGEST", 1000)
    with pytest.raises(InputError, match="is too large to be read whole"):
        read_text(path)


def test_lines_are_read_in_any_order_and_a_change_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("".join(f'{{"i": {i}, "t": "{"x" * 1000}"}}\n\n' for i in range(3000)), "utf-8")
    notes: list[str] = []
    found = scan_lines(path, lambda row, where: f"{row['i']} {where}", notes)
    assert len(found) == 3000
    assert notes[2999] == f"2999 {path}:5999"
    assert [found.row(i)["i"] for i in (2999, 0, 1500, 1501, 1500)] == [2999, 0, 1500, 1501, 1500]
    os.utime(path, (1, 1))
    with pytest.raises(InputError, match="changed while it was being read"):
        found.row(0)


def test_line_length_and_row_count_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n' * 3, "utf-8")
    monkeypatch.setattr(rows, "_MOST_ROWS", 2)
    with pytest.raises(InputError, match="has more than 2 rows"):
        scan_lines(path, None, [])
    monkeypatch.setattr(rows, "_LONGEST_LINE", 5)
    with pytest.raises(InputError, match=r"x.jsonl:1: is longer than 0 MB"):
        scan_lines(path, None, [])


def test_toml_is_returned_with_its_text(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("# über\na = 1\n", "utf-8")
    assert read_toml(path) == ({"a": 1}, "# über\na = 1\n")
    path.write_bytes(b"a = \xff")
    with pytest.raises(InputError, match=r"x.toml: is not TOML: "):
        read_toml(path)


def test_rows_from_strings(tmp_path: Path) -> None:
    assert json_rows(tmp_path, '{"n": 2, "rows": [{"a": 1}]}').rows == [{"a": 1}]
    found = csv_rows(tmp_path, 'a,b\n"1\n2",3\n\n4,5\n')
    assert found.rows == [{"a": "1\n2", "b": "3"}, {"a": "4", "b": "5"}]
    assert found.numbers == [3, 5]
    assert parse_object(" {} ", "here") == {}
    with pytest.raises(InputError, match="here: is not a JSON object"):
        parse_object("[]", "here")
